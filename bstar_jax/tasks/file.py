"""Questions from files whose fields and kind of answer the settings name.

"number", "text"   a question and its answer: what follows the marker if the field holds it.
"math"             the same in LaTeX, as `mathematics` reads it.
"choice"           a question, its choices and the right one's label, as `options` reads them.
"code"             a question and its tests, a list of assert lines, which the prompt shows.
a function         a question, and all that the function wants of the record.

A question is a text, or a list of chat messages. Some projects have layouts of their own, and
`LAYOUTS` names their fields.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bstar_jax.answers import equations
from bstar_jax.answers.text import canonical_answer, read_answer
from bstar_jax.config import FieldNames, UserError
from bstar_jax.records import Source
from bstar_jax.tasks import code, mathematics, options
from bstar_jax.tasks.format import HINT_PROMPT, ID_FIELDS, PROMPT, USUAL, Format, ParsedRecord
from bstar_jax.tasks.messages import Messages, read_messages, refuse_pairs
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.task import fill
from bstar_jax.tasks.values import plain, short

# What the fields are called in files of projects; a setting of `task.fields` goes before.
LAYOUTS: Mapping[str, FieldNames] = {
    "file": FieldNames(),
    "jsonl": FieldNames(),
    "verl": FieldNames(question="prompt", answer="reward_model.ground_truth", source="data_source"),
    "trl": FieldNames(question="prompt", answer="solution"),
}
REMEDY = "set task.fields.{role}={near}"


class _Rules(NamedTuple):
    """The parts of a task that its reward decides, besides the names of fields."""

    read: Callable[[FieldNames, str, Record], ParsedRecord]
    marker: str  # "" where answers have none
    prompt: str = PROMPT  # may hold {marker}
    hint_prompt: str = HINT_PROMPT
    equations: Callable[[str], list[str]] | None = None
    reads: str = ""  # the one of `FieldNames` that no other reward reads
    compares: bool = True  # whether responses are compared with an answer


def is_function(reward: str) -> bool:
    """Tells whether a reward is a function from outside: FILE.py:NAME or MODULE:NAME."""
    return ":" in reward


def format_for(name: str, given: FieldNames, *, reward: str, answer_marker: str) -> Format:
    """Returns the format of files with these fields.

    Args:
      name: The task's name, one of `LAYOUTS`.
      given: Names of the fields; those with their default value are as the layout has them.
      reward: How answers compare, one of `REWARDS`, or a function; "" is "number".
      answer_marker: The text before an answer; "" takes the reward's own.

    Raises:
      UserError: If `reward` is another, or does not go with a field's name or the marker.
    """
    fields = _filled(given, LAYOUTS[name])
    kind = reward or "number"
    _check(fields, kind, answer_marker)
    rules = _FUNCTION if is_function(kind) else REWARDS[kind]
    marker = answer_marker or rules.marker
    answer_kind = kind
    if is_function(kind):
        answer_kind = "text" if marker else "free"
    return Format(
        Source(
            name,
            answer_kind,
            marker,
            hint_prompt=fill(rules.hint_prompt, marker=marker),
            equations=rules.equations,
            reward=kind if is_function(kind) else "",
        ),
        read=functools.partial(_read, rules, fields, marker),
        prompt=fill(rules.prompt, marker=marker),
        names={
            field.name: getattr(fields, field.name)
            for field in dataclasses.fields(FieldNames)
            if field.name not in ("id", "source") and getattr(fields, field.name)
        },
        may_be_usual=False,
        others=("chosen", "rejected"),
        id_field=fields.id,
        # The ids of verl's files start over in each split.
        id_fields=() if name == "verl" else ID_FIELDS,
        label_field=fields.source,
        needs_label=bool(given.source),
        remedy=REMEDY,
    )


def _filled(given: FieldNames, layout: FieldNames) -> FieldNames:
    """Takes the layout's name of every field that has its default name."""
    names = {}
    for field in dataclasses.fields(FieldNames):
        name = getattr(given, field.name)
        names[field.name] = getattr(layout, field.name) if name == field.default else name
    return FieldNames(**names)


def _check(fields: FieldNames, reward: str, answer_marker: str) -> None:
    """Checks that the fields and the marker go with the reward."""
    if not is_function(reward) and reward not in REWARDS:
        raise UserError(
            f"task.reward is {reward!r}; it takes one of {', '.join(REWARDS)}, or a function"
        )
    for owner, others in REWARDS.items():
        role = others.reads
        if role and owner != reward and getattr(fields, role) != getattr(USUAL, role):
            raise UserError(
                f"task.fields.{role} is {getattr(fields, role)!r}, but task.reward is {reward!r}, "
                f"which does not read it; drop it, or set task.reward={owner}"
            )
    if not fields.question:
        raise UserError("task.fields.question is ''; every record has a question: name its field")
    if is_function(reward):
        return
    rules = REWARDS[reward]
    if answer_marker and not rules.marker:
        raise UserError(
            f"task.answer_marker is {answer_marker!r}, but task.reward={reward} looks for a "
            "program, which no marker precedes; drop it"
        )
    if rules.compares and not fields.answer:
        raise UserError(
            f"task.fields.answer is '', but task.reward={reward} compares with an answer; name its "
            "field, or give a function"
        )
    if rules.reads and not getattr(fields, rules.reads):
        raise UserError(
            f"task.fields.{rules.reads} is '', but task.reward={reward} reads it; name the field"
        )


def _read(
    rules: _Rules,
    names: FieldNames,
    marker: str,
    record: Record,
) -> ParsedRecord:
    """Reads a record whose question is a text or a chat."""
    if rules is not _FUNCTION or not record.knows(names.question):
        refuse_pairs(record, names.question)  # a function may know what to do with them
    messages: Messages = ()
    if record.knows(names.question) and isinstance(record.value(names.question, "question"), list):
        messages = read_messages(record, names.question)
        # The rest is read as if the last message were the question.
        asked = {**record.values, names.question: messages[-1][1]}
        record = dataclasses.replace(record, values=asked)
    parsed = rules.read(names, marker, record)
    if messages:
        # A chat is asked as it stands: it says what to answer and how.
        parsed = parsed._replace(question=messages[-1][1], messages=messages)
    return parsed


def read_stated(kind: str, names: FieldNames, marker: str, record: Record) -> ParsedRecord:
    """Reads a question whose answer is a number or a text, with a solution that ends in it.

    Args:
      kind: "number" or "text".
      names: Names of the fields.
      marker: The text before an answer.
      record: The record.

    Raises:
      UserError: If a field is missing, or no answer can be read.
    """
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


def _read_free(names: FieldNames, marker: str, record: Record) -> ParsedRecord:
    """Reads a question for a function: answer and solution stay as they are written."""
    del marker
    question = record.text(names.question, "question")
    reference = ""
    if names.answer:
        value = record.value(names.answer, "answer")
        if isinstance(value, (dict, list, bool)):
            reference = json.dumps(plain(value), ensure_ascii=False)
        else:
            reference = record.text(names.answer, "answer", numbers=True)
    solution = record.text(names.solution, "solution") if names.solution else ""
    return ParsedRecord(question, reference, solution)


_FUNCTION = _Rules(_read_free, "", compares=False)
REWARDS: Mapping[str, _Rules] = {
    "number": _Rules(
        functools.partial(read_stated, "number"), "####", equations=equations.in_annotations
    ),
    "text": _Rules(
        functools.partial(read_stated, "text"), "####", equations=equations.in_annotations
    ),
    "math": _Rules(_read_math, mathematics.MARKER, equations=equations.in_latex),
    "choice": _Rules(
        _read_choice, options.MARKER, options.PROMPT, options.HINT_PROMPT, reads="choices"
    ),
    "code": _Rules(_read_code, "", code.PROMPT, code.HINT_PROMPT, reads="tests", compares=False),
}
