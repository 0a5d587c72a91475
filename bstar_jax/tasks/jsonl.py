"""Questions from JSON Lines files whose fields and kind of answer the settings name.

"number", "text"   a question and its answer: what follows the marker if the field holds it.
"math"             the same in LaTeX, as `mathematics` reads it.
"choice"           a question, its choices and the right one's label, as `options` reads them.
"code"             a question and its tests, a list of assert lines, which the prompt shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bstar_jax.answers import equations
from bstar_jax.answers.text import canonical_answer, read_answer
from bstar_jax.config import FieldNames, UserError
from bstar_jax.records import Source
from bstar_jax.tasks import code, mathematics, options
from bstar_jax.tasks.format import HINT_PROMPT, PROMPT, Format, ParsedRecord
from bstar_jax.tasks.record import Record, short
from bstar_jax.tasks.task import fill


class _Rules(NamedTuple):
    """What a reward decides besides the names of fields."""

    read: Callable[[FieldNames, str, Record], ParsedRecord]
    marker: str  # "" where answers have none
    prompt: str = PROMPT  # may hold {marker}
    hint_prompt: str = HINT_PROMPT
    equations: Callable[[str], list[str]] | None = None
    reads: str = ""  # the one of `FieldNames` that no other reward reads


def format_for(fields: FieldNames, *, reward: str, answer_marker: str) -> Format:
    """Returns the format of files with these fields.

    Args:
      fields: Names of the fields.
      reward: How answers compare, one of `REWARDS`.
      answer_marker: The text before an answer; "" takes the reward's own.

    Raises:
      UserError: If `reward` is another, or does not go with a field's name or the marker.
    """
    if reward not in REWARDS:
        raise UserError(f"task.reward is {reward!r}; it takes one of {', '.join(REWARDS)}")
    rules = REWARDS[reward]
    for owner, others in REWARDS.items():
        role = others.reads
        if role and owner != reward and getattr(fields, role) != getattr(FieldNames(), role):
            raise UserError(
                f"task.fields.{role} is {getattr(fields, role)!r}, but task.reward is {reward!r}, "
                f"which does not read it; drop it, or set task.reward={owner}"
            )
    if answer_marker and not rules.marker:
        raise UserError(
            f"task.answer_marker is {answer_marker!r}, but task.reward={reward} looks for a "
            "program, which no marker precedes; drop it"
        )
    marker = answer_marker or rules.marker
    return Format(
        Source(
            "jsonl",
            reward,
            marker,
            hint_prompt=fill(rules.hint_prompt, marker=marker),
            equations=rules.equations,
        ),
        read=functools.partial(rules.read, fields, marker),
        prompt=fill(rules.prompt, marker=marker),
        id_field=fields.id,
        remedy="set task.fields.{role}={near}",
    )


def _read_stated(kind: str, names: FieldNames, marker: str, record: Record) -> ParsedRecord:
    """Reads a question whose answer is a number or a text, with a solution that ends in it."""
    question = record.text(names.question, "question")
    answer = record.text(names.answer, "answer", numbers=True)
    reference = read_answer(answer, marker) if marker in answer else answer.strip()
    if reference is None or canonical_answer(kind, reference) is None:
        raise record.error(
            names.answer,
            f": no {kind} can be read from the reference answer {short(reference or answer)}",
        )
    solution = record.text(names.solution, "solution").strip() if names.solution else ""
    if solution and marker not in solution:
        solution = f"{solution}\n{marker} {reference}"
    elif solution:
        stated = read_answer(solution, marker)
        if canonical_answer(kind, stated) != canonical_answer(kind, reference):
            raise UserError(
                f"{record.place}: the solution states {short(stated or '')}, but the reference "
                f"answer is {short(reference)}"
            )
    return ParsedRecord(question, reference, solution)


def _read_math(names: FieldNames, marker: str, record: Record) -> ParsedRecord:
    if names.solution:
        record.text(names.solution, "solution")  # a field that settings name must be there
    return mathematics.parse(
        record,
        question=names.question,
        answer=names.answer,
        solution=names.solution,
        marker=marker,
    )


def _read_choice(names: FieldNames, marker: str, record: Record) -> ParsedRecord:
    question = record.text(names.question, "question")
    fields = options.read_options(record, names.choices)
    label = options.read_label(record, names.answer, fields["labels"])
    solution = record.text(names.solution, "solution").strip() if names.solution else ""
    if solution and marker not in solution:
        solution = f"{solution}\n\n{marker} {label}"
    return ParsedRecord(options.with_options(question, fields), label, solution, fields)


def _read_code(names: FieldNames, marker: str, record: Record) -> ParsedRecord:
    del marker
    question = record.text(names.question, "question")
    program = record.text(names.solution, "solution") if names.solution else ""
    return code.parse_asserts(question, program, record.texts(names.tests, "tests"))


REWARDS: Mapping[str, _Rules] = {
    "number": _Rules(
        functools.partial(_read_stated, "number"), "####", equations=equations.in_annotations
    ),
    "text": _Rules(
        functools.partial(_read_stated, "text"), "####", equations=equations.in_annotations
    ),
    "math": _Rules(_read_math, mathematics.MARKER, equations=equations.in_latex),
    "choice": _Rules(
        _read_choice, options.MARKER, options.PROMPT, options.HINT_PROMPT, reads="choices"
    ),
    "code": _Rules(_read_code, "", code.PROMPT, code.HINT_PROMPT, reads="tests"),
}
