"""GSM8K: grade-school word problems, as published by OpenAI (grade-school-math).

Each line has a `question` and an `answer`: solution steps with calculator annotations such as
`<<48/2=24>>`, then `#### 24`. The published text is the human solution, annotations included,
so that equations can be read from responses of a model trained on it.
"""

from __future__ import annotations

from bstar_jax.config import FieldNames, UserError
from bstar_jax.tasks import jsonl
from bstar_jax.tasks.task import Task

MARKER = "####"


def load(path, *, answer_marker, reward, fields, **settings) -> Task:
    """Reads the published files; see `tasks.load` for the arguments."""
    del fields
    if answer_marker not in ("", MARKER) or reward != "number":
        raise UserError(
            f"task gsm8k has its own answer_marker {MARKER!r} and reward 'number'; drop "
            f"task.answer_marker={answer_marker!r} and task.reward={reward!r}, or use task jsonl"
        )
    return jsonl.load(
        path,
        name="gsm8k",
        answer_marker=MARKER,
        reward="number",
        fields=FieldNames(id="", question="question", answer="answer", solution="answer"),
        **settings,
    )
