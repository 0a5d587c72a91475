r"""MATH: competition problems with answers in LaTeX, as published by Hendrycks et al.

Each line has a `problem` and an `answer`, a `solution`, or both. MATH has the solutions, whose
last `\boxed{...}` is the answer; MATH-500 has both. The human solution is the published one,
then the answer again under the heading that responses state it under. Other fields (`level`,
`subject`, `type`) are not read.

Source: arXiv:2103.03874; MATH-500: arXiv:2305.20050.
"""

from __future__ import annotations

import functools

from bstar_jax.answers import equations
from bstar_jax.answers.text import last_boxed, read_answer
from bstar_jax.records import Source
from bstar_jax.tasks.format import HINT_PROMPT, Format, ParsedRecord
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.values import short

MARKER = "# Answer"


def parse(
    record: Record, *, question: str, answer: str, solution: str, marker: str
) -> ParsedRecord:
    """Reads a question whose answer is LaTeX, from fields of the given names.

    The answer is what follows the marker in the answer's field, or the content of its last box,
    or all of it. If the record has no such field, the solution is read in the same way, but must
    have a marker or a box. An answer of several lines is written on one, as responses state it;
    LaTeX reads the end of a line as a space.

    Args:
      record: The record.
      question: Field with the question.
      answer: Field with the answer; a record with a solution need not have it.
      solution: Field with the solution; a record need not have it. "" for none.
      marker: The text before an answer.

    Raises:
      UserError: If a field is not text, or there is no answer.
    """
    asked = record.text(question, "question")
    steps = record.text_if_any(solution, "solution").strip() if solution else ""
    if steps and not record.has(answer):
        reference = _stated(steps, marker)
        if reference is None:
            raise record.error(
                solution,
                f" states no answer, in \\boxed{{...}} or after {marker!r}, and there is no field "
                f"{answer!r}: {short(steps)}",
            )
    else:
        text = record.text(answer, "answer", numbers=True)
        is_marked = marker in text or last_boxed(text) is not None
        reference = _stated(text, marker) if is_marked else text
        if reference is None:
            raise record.error(answer, f" states no answer after {marker!r}: {short(text)}")
    reference = " ".join(line.strip() for line in reference.split("\n")).strip()
    if steps and marker not in steps:
        steps = f"{steps}\n\n{marker}\n\n{reference}"
    return ParsedRecord(asked, reference, steps)


def _stated(text: str, marker: str) -> str | None:
    return read_answer(text, marker) if marker in text else last_boxed(text)


_NAMES = {"question": "problem", "answer": "answer", "solution": "solution"}


def _format(marker: str) -> Format:
    return Format(
        Source("math", "math", marker, hint_prompt=HINT_PROMPT, equations=equations.in_latex),
        read=functools.partial(parse, **_NAMES, marker=marker),
        names=_NAMES,
        with_marker=_format,
    )


FORMAT = _format(MARKER)
