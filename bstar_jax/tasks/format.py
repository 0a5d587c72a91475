"""Formats: how a record of a file becomes a query."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bstar_jax.config import FieldNames, UserError
from bstar_jax.records import Query, Source
from bstar_jax.tasks.left_out import LeftOut
from bstar_jax.tasks.messages import Messages
from bstar_jax.tasks.record import Record, top
from bstar_jax.tasks.rows import RawRecord
from bstar_jax.tasks.task import LoadedTask, fill

PROMPT = "# Question\n\n{question}\n\n# Solution\n\n"
HINT_PROMPT = "# Question\n\n{question}\n\n# Answer\n\n{reference}\n\n# Solution\n\n"
USUAL = FieldNames()
ID_FIELDS = ("unique_id", "task_id", "id")  # tried if no id field is named


class ParsedRecord(NamedTuple):
    """The values that a format reads from one record.

    Attributes:
      question: All that is asked; options, and tests that are shown, are part of it. Of a chat, the
        last message.
      reference: The reference answer; for code, a program that passes, "" if there is none.
      solution: A human response, including its answer line; "" if there is none.
      fields: What grading needs besides the reference; see `task`.
      more_solutions: Other human responses.
      messages: The question as a chat, (role, content) of each message; () if it is plain text.
      label: As in `Query`.
    """

    question: str
    reference: str
    solution: str
    fields: Mapping[str, Any] = {}
    more_solutions: tuple[str, ...] = ()
    messages: Messages = ()
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format: how a record becomes a query, and how the text of its source is laid out.

    Attributes:
      source: What its queries share. Its name is the task's name.
      read: Reads a record; None where the record brings nothing to grade by.
      prompt: Template holding {question}.
      names: The fields that are read, by what they are to the task, as in `FieldNames`.
      may_be_usual: Whether a record may have a field under its usual name, as in `FieldNames`,
        where it has none of the format's name.
      others: Further fields that are read.
      aliases: As in `Record`.
      id_field: The field that holds every record's id; "" looks for `id_fields`.
      id_fields: Fields that may hold an id; the first that a record has counts. A record without
        any gets the id `<split>/<record number from 0>`.
      ids_repeat: Whether the test file's ids start over, so that an id is `<split>/<id>`.
      label_field: The field that holds a record's label; "" if there is none.
      needs_label: Whether every record must have it.
      keeps: The fields of a record that become `Query.fields`, for functions: () is all, None is
        none but those that grading needs.
      with_marker: Makes the same format with another marker before answers; None if answers have
        no marker that could be another.
      remedy: As in `Record`.
    """

    source: Source
    read: Callable[[Record], ParsedRecord | None]
    prompt: str = PROMPT
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    may_be_usual: bool = True
    others: tuple[str, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    id_field: str = ""
    id_fields: tuple[str, ...] = ID_FIELDS
    ids_repeat: bool = False
    label_field: str = ""
    needs_label: bool = False
    keeps: tuple[str, ...] | None = None
    with_marker: Callable[[str], Format] | None = None
    remedy: str = ""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.source.name

    @property
    def columns(self) -> frozenset[str] | None:
        """The fields of a record that may be needed; None is all."""
        if self.keeps == ():
            return None
        usual = (getattr(USUAL, role) for role in self.names)
        paths = (*self.names.values(), *self.aliases.values(), *usual, *self.others)
        paths += (self.id_field, *self.id_fields, self.label_field, *(self.keeps or ()))
        return frozenset(filter(None, {*map(top, paths), *paths}))

    def record(self, row: RawRecord, number: int) -> Record:
        """Makes a record of a row."""
        usual = {own: getattr(USUAL, role) for role, own in self.names.items()}
        found = {
            own: name
            for own, name in usual.items()
            if self.may_be_usual and own not in row.values and name in row.values
        }
        return Record(
            row.place,
            number,
            row.values,
            row.line,
            self.remedy,
            aliases={**found, **self.aliases},
            unread=row.unread,
        )

    def parse(self, record: Record) -> ParsedRecord | None:
        """Reads a record, with its label and what functions are given; None as `read`.

        Raises:
          UserError: If a field is missing or cannot be read.
        """
        parsed = self.read(record)
        if parsed is None:
            return None
        if self.label_field and (self.needs_label or record.has(self.label_field)):
            label = record.text(self.label_field, "source", numbers=True)
            parsed = parsed._replace(label=label)
        if self.keeps is not None:
            # Whatever a record has under that name, "question" is what is asked.
            own = {"question": parsed.question, **parsed.fields}
            parsed = parsed._replace(fields=record.plain(self.keeps) | own)
        return parsed

    def task(
        self,
        splits: Mapping[str, tuple[Query, ...]],
        *,
        hint_prompt: str = "",
        shots: str = "",
        vocabulary: tuple[str, ...] = (),
        places: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
        left_out: tuple[LeftOut, ...] = (),
    ) -> LoadedTask:
        """Makes a task of queries of this format.

        Args:
          splits: As in `LoadedTask`.
          hint_prompt: As in `Source`; "" takes the format's own.
          shots: As in `Source`.
          vocabulary: As in `LoadedTask`.
          places: As in `LoadedTask`.
          notes: As in `LoadedTask`.
          left_out: As in `LoadedTask`.
        """
        source = dataclasses.replace(
            self.source, hint_prompt=hint_prompt or self.source.hint_prompt, shots=shots
        )
        sources = {self.name: source}
        return LoadedTask(self.name, splits, sources, vocabulary, places or {}, notes, left_out)

    def query(self, query_id: str, parsed: ParsedRecord) -> Query:
        """Makes a query of what was read."""
        is_chat = bool(parsed.messages)
        return Query(
            query_id=query_id,
            split="train",
            prompt=parsed.question if is_chat else fill(self.prompt, question=parsed.question),
            reference=parsed.reference,
            solution=parsed.solution,
            fields={"question": parsed.question, **parsed.fields},
            more_solutions=parsed.more_solutions,
            source=self.name,
            messages=parsed.messages,
            label=parsed.label,
        )

    def changed(self, fields: FieldNames, answer_marker: str, remedy: str) -> Format:
        """Changes the fields and the marker of a published format.

        Args:
          fields: Names of fields; those with their default value change nothing.
          answer_marker: The text before an answer; "" changes nothing.
          remedy: As in `Record`.

        Raises:
          UserError: If the format reads no such field, or its answers have no marker.
        """
        form = self
        if answer_marker:
            if form.with_marker is None:
                raise UserError(
                    f"task.answer_marker is {answer_marker!r}, but task {self.name} reads answers "
                    "that no other marker precedes; drop it"
                )
            form = form.with_marker(answer_marker)
        given = {
            field.name: getattr(fields, field.name)
            for field in dataclasses.fields(FieldNames)
            if getattr(fields, field.name) != field.default
        }
        id_field, label = given.pop("id", form.id_field), given.pop("source", "")
        for role in given:
            if role not in form.names:
                raise UserError(
                    f"task.fields.{role} is {given[role]!r}, but task {self.name} reads "
                    f"{', '.join(form.names) or 'no field of another name'}; drop it"
                )
            if not given[role]:
                raise UserError(
                    f"task.fields.{role} is '', but task {self.name} reads it; name the field, or "
                    "use task.name=file"
                )
        return dataclasses.replace(
            form,
            aliases={form.names[role]: name for role, name in given.items()},
            id_field=id_field,
            label_field=label,
            needs_label=bool(label),
            remedy=remedy,
        )
