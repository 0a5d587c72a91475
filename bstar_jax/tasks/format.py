"""From a format to a task: what every task made of files has in common."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bstar_jax.config import UserError
from bstar_jax.records import Query
from bstar_jax.tasks.record import Record, read_records
from bstar_jax.tasks.splits import deal
from bstar_jax.tasks.task import Task, fill

PROMPT = "# Question\n\n{question}\n\n# Solution\n\n"
HINT_PROMPT = "# Question\n\n{question}\n\n# Answer\n\n{reference}\n\n# Solution\n\n"
ID_FIELDS = ("unique_id", "task_id", "id")  # looked for where no id field is named


class Parts(NamedTuple):
    """What a format reads out of one record.

    Attributes:
      question: All that is asked; options, and tests that are shown, stand in it.
      reference: The reference answer; of code a program that passes, "" where there is none.
      solution: A human response, answer line included; "" where there is none.
      fields: What grading needs beside the reference, as `task` says.
      more_solutions: Other human responses.
    """

    question: str
    reference: str
    solution: str
    fields: Mapping[str, object] = {}
    more_solutions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """A format: how a record becomes a query, and how the task's text is laid out.

    Attributes:
      name: The task's name.
      read: From a record to its parts; None where it brings nothing to grade by.
      answer_kind: As in `Task`.
      answer_marker: As in `Task`.
      prompt: Template holding {question}.
      hint_prompt: Template holding {question} and {reference}.
      separator: As in `Task`.
      steps: As in `Task`.
      equations: As in `Task`.
      id_field: The field that every record has its id in; "" looks for `id_fields`.
      id_fields: Fields that may hold an id, the first that a record has; a record with none is
        `<split>/<record number from 0>`.
      ids_repeat: Whether the test file counts its ids from the start again, so that an id is
        `<split>/<id>`.
      remedy: As in `Record`.
    """

    name: str
    read: Callable[[Record], Parts | None]
    answer_kind: str
    answer_marker: str
    prompt: str = PROMPT
    hint_prompt: str = HINT_PROMPT
    separator: str = "\n"
    steps: str = ""
    equations: str = ""
    id_field: str = ""
    id_fields: tuple[str, ...] = ID_FIELDS
    ids_repeat: bool = False
    remedy: str = ""

    def task(self, splits: Mapping[str, tuple[Query, ...]], **more: object) -> Task:
        """A task of this format; `more` are fields of `Task` that the format does not know."""
        names = "name answer_kind answer_marker hint_prompt separator steps equations".split()
        return Task(splits=splits, **{name: getattr(self, name) for name in names}, **more)


class _File(NamedTuple):
    queries: dict[str, Query]  # by id
    places: dict[str, str]  # by id, of what is left out too
    notes: tuple[str, ...]


def load(
    layout: Layout, path: str, *, seed: int, sizes: Mapping[str, int], prompt: str, hint_prompt: str
) -> Task:
    """Reads a file, or a folder with `train.jsonl`; see `tasks.load` for arguments and errors."""
    layout = dataclasses.replace(
        layout, prompt=prompt or layout.prompt, hint_prompt=hint_prompt or layout.hint_prompt
    )
    train_file, test_file = _files(path)
    train = _read(train_file, "train", layout)
    test = _read(test_file, "test", layout) if test_file else _File({}, {}, ())
    for query_id in test.places.keys() & train.places.keys():
        raise UserError(
            f"{test.places[query_id]}: the id {query_id!r} stands in {train.places[query_id]} "
            "too; ids are unique in a task"
        )
    test_queries = list(test.queries.values()) if test_file else None
    splits, shown = deal(list(train.queries.values()), test_queries, seed, sizes, path)
    shots = "".join(f"{query.prompt}{query.solution}\n\n" for query in shown)
    return layout.task(
        {
            name: tuple(dataclasses.replace(query, prompt=shots + query.prompt) for query in split)
            for name, split in splits.items()
        },
        shots=shots,
        places=train.places | test.places,
        notes=train.notes + test.notes,
    )


def _files(path: str) -> tuple[pathlib.Path, pathlib.Path | None]:
    """The train file and, where there is one, the test file."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return path, None
    test = path / "test.jsonl"
    return path / "train.jsonl", test if test.exists() else None


def _read(file: pathlib.Path, split: str, layout: Layout) -> _File:
    """The queries of a file."""
    queries, places, left_out = {}, {}, []
    for record in read_records(file, layout.remedy):
        query_id = _id(record, split, layout)
        if query_id in places:
            raise UserError(
                f"{record.place}: the id {query_id!r} stands in {places[query_id]} already; "
                "ids are unique in a task"
            )
        places[query_id] = record.place
        parts = layout.read(record)
        if parts is None:
            left_out.append(record.place)
            continue
        queries[query_id] = Query(
            query_id=query_id,
            split="train",
            prompt=fill(layout.prompt, question=parts.question),
            reference=parts.reference,
            solution=parts.solution,
            fields={"question": parts.question, **parts.fields},
            more_solutions=parts.more_solutions,
        )
    notes = ()
    if left_out:
        count = f"{len(left_out)} of {len(places)}"
        notes = (f"{count} records have no tests and are left out, such as {left_out[0]}",)
    return _File(queries, places, notes)


def _id(record: Record, split: str, layout: Layout) -> str:
    known = (name for name in layout.id_fields if name in record.values)
    name = layout.id_field or next(known, "")
    if not name:
        return f"{split}/{record.number}"
    query_id = record.text(name, "id", numbers=True)
    return f"{split}/{query_id}" if layout.ids_repeat else query_id
