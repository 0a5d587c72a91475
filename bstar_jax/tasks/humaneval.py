"""HumanEval: functions to be completed from their signature and docstring, published by OpenAI.

Each line has a `task_id`, the `prompt`, the `canonical_solution` which continues it, a `test`
that defines `check`, and the `entry_point` which `check` is called with. The published prompt is
the whole prompt; the human solution is the published one, its indentation kept.

The hint, for rationalization, is the function solved once; then its prompt follows again.

Source: arXiv:2107.03374.
"""

from __future__ import annotations

from bstar_jax.tasks import code as programs
from bstar_jax.tasks.format import Layout, Parts
from bstar_jax.tasks.record import Record

HINT_PROMPT = "{question}{reference}\n\n# The same function once more.\n{question}"


def _read(record: Record) -> Parts:
    prompt = programs.source(record.text("prompt", "question"))
    solution = programs.source(record.text_if_any("canonical_solution", "solution"))
    tests = {
        "kind": "check",
        "prompt": prompt,
        "test": programs.source(record.text("test", "tests")),
        "entry_point": record.text("entry_point", "function").strip(),
    }
    return Parts(prompt, solution, solution, {"tests": tests})


LAYOUT = Layout(
    name="humaneval",
    read=_read,
    answer_kind="code",
    answer_marker="",
    prompt="{question}",
    hint_prompt=HINT_PROMPT,
)
