"""HumanEval: functions to complete from their signature and docstring, as published by OpenAI.

Each line has a `task_id`, the `prompt`, the `canonical_solution` which continues it, a `test`
that defines `check`, and the `entry_point` that `check` is called with. The published prompt is
the whole prompt; the human solution is the published one, with its indentation.

The hint, for rationalization, is the solved function, followed by the prompt again.

Source: arXiv:2107.03374.
"""

from __future__ import annotations

from bstar_jax.records import Source
from bstar_jax.tasks import code
from bstar_jax.tasks.format import Format, ParsedRecord
from bstar_jax.tasks.record import Record

HINT_PROMPT = "{question}{reference}\n\n# The same function once more.\n{question}"


def _read(record: Record) -> ParsedRecord:
    prompt = code.source(record.text("prompt", "question"))
    solution = code.source(record.text_if_any("canonical_solution", "solution"))
    tests = {
        "kind": "check",
        "prompt": prompt,
        "test": code.source(record.text("test", "tests")),
        "entry_point": record.text("entry_point", "function").strip(),
    }
    return ParsedRecord(prompt, solution, solution, {"tests": tests})


FORMAT = Format(
    Source("humaneval", "code", hint_prompt=HINT_PROMPT),
    read=_read,
    prompt="{question}",
    names={"question": "prompt", "solution": "canonical_solution", "tests": "test"},
    others=("entry_point",),
)
