"""ARC: grade-school science questions with options, as published by AI2.

Each line has a `question`, `choices` with their `text` and `label` (letters, or digits), the
`answerKey`, which is one of the labels, and an `id`. In the first published form the question
is an object with its `stem` and `choices`. There are no human solutions.

Source: arXiv:1803.05457.
"""

from __future__ import annotations

from bstar_jax.records import Source
from bstar_jax.tasks import options
from bstar_jax.tasks.format import Format, ParsedRecord
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.task import fill


def _read(record: Record) -> ParsedRecord:
    if record.knows("question") and isinstance(record.value("question", "question"), dict):
        inside = record.nested("question", "question")
        question, holder = inside.text("stem", "question"), inside
    else:
        question, holder = record.text("question", "question"), record
    fields = options.read_options(holder, "choices")
    label = options.read_label(record, "answerKey", fields["labels"])
    return ParsedRecord(options.with_options(question, fields), label, "", fields)


def _format(marker: str) -> Format:
    hint_prompt = fill(options.HINT_PROMPT, marker=marker)
    return Format(
        Source("arc", "choice", marker, hint_prompt=hint_prompt),
        read=_read,
        prompt=fill(options.PROMPT, marker=marker),
        names={"question": "question", "answer": "answerKey", "choices": "choices"},
        with_marker=_format,
    )


FORMAT = _format(options.MARKER)
