"""ARC: grade-school science questions with options, as published by AI2.

Each line has a `question`, `choices` with their `text` and `label` (letters, or digits), the
`answerKey`, which is one of the labels, and an `id`. In the first published form the question
is an object with its `stem` and `choices`. There are no human solutions.

Source: arXiv:1803.05457.
"""

from __future__ import annotations

from bstar_jax.tasks import options as choices
from bstar_jax.tasks.format import Layout, Parts
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.task import fill


def _read(record: Record) -> Parts:
    if isinstance(record.values.get("question"), dict):
        inside = record.nested("question", "question")
        question, options = inside.text("stem", "question"), inside
    else:
        question, options = record.text("question", "question"), record
    fields = choices.read_options(options, "choices")
    label = choices.read_label(record, "answerKey", fields["labels"])
    return Parts(choices.asked(question, fields), label, "", fields)


LAYOUT = Layout(
    name="arc",
    read=_read,
    answer_kind="choice",
    answer_marker=choices.MARKER,
    prompt=fill(choices.PROMPT, marker=choices.MARKER),
    hint_prompt=fill(choices.HINT_PROMPT, marker=choices.MARKER),
)
