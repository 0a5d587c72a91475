"""Formats: how the files of a task become its queries."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bstar_jax.config import UserError
from bstar_jax.records import Query, Source
from bstar_jax.tasks.record import Record, read_records
from bstar_jax.tasks.splits import split_queries
from bstar_jax.tasks.task import Task, fill

PROMPT = "# Question\n\n{question}\n\n# Solution\n\n"
HINT_PROMPT = "# Question\n\n{question}\n\n# Answer\n\n{reference}\n\n# Solution\n\n"
ID_FIELDS = ("unique_id", "task_id", "id")  # tried if no id field is named


class ParsedRecord(NamedTuple):
    """What a format reads out of one record.

    Attributes:
      question: All that is asked; options, and tests that are shown, are part of it.
      reference: The reference answer; for code, a program that passes, "" where there is none.
      solution: A human response, answer line included; "" where there is none.
      fields: What grading needs besides the reference; see `task`.
      more_solutions: Other human responses.
    """

    question: str
    reference: str
    solution: str
    fields: Mapping[str, Any] = {}
    more_solutions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Format:
    """A format: how a record becomes a query, and how the text of its source is laid out.

    Attributes:
      source: What its queries share. Its name is the task's name.
      read: Reads a record; None where the record brings nothing to grade by.
      prompt: Template holding {question}.
      id_field: The field that holds every record's id; "" looks for `id_fields`.
      id_fields: Fields that may hold an id; the first that a record has counts. A record without
        any gets the id `<split>/<record number from 0>`.
      ids_repeat: Whether the test file's ids start over, so that an id is `<split>/<id>`.
      remedy: As in `Record`.
    """

    source: Source
    read: Callable[[Record], ParsedRecord | None]
    prompt: str = PROMPT
    id_field: str = ""
    id_fields: tuple[str, ...] = ID_FIELDS
    ids_repeat: bool = False
    remedy: str = ""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.source.name

    def task(
        self,
        splits: Mapping[str, tuple[Query, ...]],
        *,
        hint_prompt: str = "",
        shots: str = "",
        vocabulary: tuple[str, ...] = (),
        places: Mapping[str, str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Task:
        """Makes a task of queries of this format.

        Args:
          splits: As in `Task`.
          hint_prompt: As in `Source`; "" takes the format's own.
          shots: As in `Source`.
          vocabulary: As in `Task`.
          places: As in `Task`.
          notes: As in `Task`.
        """
        source = dataclasses.replace(
            self.source, hint_prompt=hint_prompt or self.source.hint_prompt, shots=shots
        )
        return Task(self.name, splits, {self.name: source}, vocabulary, places or {}, notes)

    def query(self, query_id: str, parsed: ParsedRecord) -> Query:
        """Makes a query of what was read."""
        return Query(
            query_id=query_id,
            split="train",
            prompt=fill(self.prompt, question=parsed.question),
            reference=parsed.reference,
            solution=parsed.solution,
            fields={"question": parsed.question, **parsed.fields},
            more_solutions=parsed.more_solutions,
            source=self.name,
        )


class _File(NamedTuple):
    queries: dict[str, Query]  # by id
    places: dict[str, str]  # by id, of what is left out too
    notes: tuple[str, ...]


def load(
    form: Format, path: str, *, seed: int, sizes: Mapping[str, int], prompt: str, hint_prompt: str
) -> Task:
    """Reads a file, or a folder with `train.jsonl`; see `tasks.load` for arguments and errors."""
    form = dataclasses.replace(form, prompt=prompt or form.prompt)
    train_file, test_file = _files(path)
    train = _read(train_file, "train", form)
    test = _read(test_file, "test", form) if test_file else _File({}, {}, ())
    for query_id in test.places.keys() & train.places.keys():
        raise UserError(
            f"{test.places[query_id]}: the id {query_id!r} stands in {train.places[query_id]} "
            "too; ids are unique in a task"
        )
    test_queries = list(test.queries.values()) if test_file else None
    splits, shown = split_queries(list(train.queries.values()), test_queries, seed, sizes, path)
    shots = "".join(f"{query.prompt}{query.solution}\n\n" for query in shown)
    return form.task(
        {
            name: tuple(dataclasses.replace(query, prompt=shots + query.prompt) for query in split)
            for name, split in splits.items()
        },
        hint_prompt=hint_prompt,
        shots=shots,
        places=train.places | test.places,
        notes=train.notes + test.notes,
    )


def _files(path: str) -> tuple[pathlib.Path, pathlib.Path | None]:
    """Returns the train file and, where there is one, the test file."""
    folder = pathlib.Path(path)
    if not folder.is_dir():
        return folder, None
    test = folder / "test.jsonl"
    return folder / "train.jsonl", test if test.exists() else None


def _read(file: pathlib.Path, split: str, form: Format) -> _File:
    """Reads the queries of a file."""
    queries: dict[str, Query] = {}
    places: dict[str, str] = {}
    left_out: list[str] = []
    for record in read_records(file, form.remedy):
        query_id = _id(record, split, form)
        if query_id in places:
            raise UserError(
                f"{record.place}: the id {query_id!r} stands in {places[query_id]} already; "
                "ids are unique in a task"
            )
        places[query_id] = record.place
        parsed = form.read(record)
        if parsed is None:
            left_out.append(record.place)
        else:
            queries[query_id] = form.query(query_id, parsed)
    notes: tuple[str, ...] = ()
    if left_out:
        count = f"{len(left_out)} of {len(places)}"
        notes = (f"{count} records have no tests and are left out, such as {left_out[0]}",)
    return _File(queries, places, notes)


def _id(record: Record, split: str, form: Format) -> str:
    known = (name for name in form.id_fields if name in record.values)
    name = form.id_field or next(known, "")
    if not name:
        return f"{split}/{record.number}"
    query_id = record.text(name, "id", numbers=True)
    return f"{split}/{query_id}" if form.ids_repeat else query_id
