"""Reads the queries of a source from its files, each question once.

An id belongs to one content. A record that asks what an earlier one asks, with the same reference
answer, is a repeat and counts once; without a reference, all that a function gets is compared. A
record that stands in the held-out split leaves the others, and one of the split that calibrates
leaves train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from bstar_jax.config import UserError
from bstar_jax.grading import ungradable
from bstar_jax.grading.kinds import answer_kind
from bstar_jax.records import Query
from bstar_jax.tasks.fingerprint import canonical_json
from bstar_jax.tasks.format import Format, ParsedRecord
from bstar_jax.tasks.layout import Files, SplitFiles
from bstar_jax.tasks.left_out import LeftOut
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.rows import read_rows

_GRADED_BY = ("tests", "labels", "options")  # what tells questions apart besides the reference


class Queries(NamedTuple):
    """What was read of a source.

    Attributes:
      train: The queries of the train files, in their order.
      calibration: Those of the files that calibrate; None if there are none.
      heldout: Those of the held-out files; None if there are none.
      places: Where each id was read, of records without tests too.
      notes: As in `LoadedTask`.
      left_out: As in `LoadedTask`.
    """

    train: list[Query]
    calibration: list[Query] | None
    heldout: list[Query] | None
    places: dict[str, str]
    notes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def read_queries(
    files: SplitFiles, form: Format, *, drop: bool, most_left_out: float, keep_repeats: bool = False
) -> Queries:
    """Reads all splits of a source.

    Args:
      files: Its files.
      form: How a record becomes a query.
      drop: Whether a record that cannot be read is left out instead of refused.
      most_left_out: Largest share of records that may be left out.
      keep_repeats: Whether repeats stay, as they did in runs that were made by earlier versions.

    Raises:
      UserError: If a file or a record cannot be read, an id occurs twice with different content, or
        too many records are left out.
    """
    reader = _Reader(form, drop=drop, keep_repeats=keep_repeats)
    train = reader.read(files.train, "train")
    calibration = reader.read(files.calibration, "validation") if files.calibration else None
    heldout = reader.read(files.heldout, "test") if files.heldout else None
    kept = reader.without_overlap([heldout, calibration, train])
    kept = reader.without_ungradable(kept) if drop else kept
    heldout, calibration, train = (
        None if entries is None else [entry.query for entry in entries] for entries in kept
    )
    assert train is not None
    if len(reader.left_out) > most_left_out * reader.records:
        raise _too_many(reader, most_left_out)
    notes = tuple(_notes(reader))
    return Queries(train, calibration, heldout, reader.places, notes, tuple(reader.left_out))


class _Entry(NamedTuple):
    query: Query
    digest: bytes  # of its content
    place: str


_Splits = list[list[_Entry] | None]  # heldout, calibration, train; None if it has no files


class _Reader:
    """Reads splits, and notes what it left out and why."""

    def __init__(self, form: Format, *, drop: bool, keep_repeats: bool) -> None:
        self.form, self.drop, self.keep_repeats = form, drop, keep_repeats
        self.places: dict[str, str] = {}
        self.digests: dict[str, bytes] = {}  # by id
        self.records = 0
        self.untested: list[str] = []  # places of records without tests
        self.repeats: list[str] = []
        self.overlaps: list[str] = []
        self.left_out: list[LeftOut] = []

    def read(self, files: Files, split: str) -> list[_Entry]:
        """Reads the records of a split that are no repeat of an earlier one."""
        before = self.records
        entries: dict[bytes, _Entry] = {}
        for record, error in _records(files, self.form):
            self.records += 1
            entry = self._entry(record, error, split)
            if entry is None:
                continue
            first = entries.get(entry.digest)
            if first is not None and not self.keep_repeats:
                self.repeats.append(f"{entry.place} (as {first.place})")
            else:
                self._note_place(entry)
                digest = entry.digest if first is None else entry.query.query_id.encode()
                entries[digest] = entry
        if self.records == before:
            raise UserError(f"{files[0]} holds no records; each is a JSON object, or a table's row")
        return list(entries.values())

    def without_overlap(self, splits: _Splits) -> _Splits:
        """Removes what stands in an earlier split from the later ones."""
        if self.keep_repeats:
            return splits
        seen: dict[bytes, str] = {}
        kept: _Splits = []
        for entries in splits:
            if entries is None:
                kept.append(None)
                continue
            self.overlaps += [
                f"{entry.place} (as {seen[entry.digest]})"
                for entry in entries
                if entry.digest in seen
            ]
            left = [entry for entry in entries if entry.digest not in seen]
            kept.append(left)
            seen |= {entry.digest: entry.place for entry in entries}
            # An id that two splits share belongs to the one that keeps it.
            self.places |= {entry.query.query_id: entry.place for entry in left}
        return kept

    def without_ungradable(self, splits: _Splits) -> _Splits:
        """Leaves out what nothing can be graded against."""
        entries = [entry for split in splits for entry in split or ()]
        source = self.form.source
        find = ungradable.nothing if source.reward else answer_kind(source).ungradable
        reasons = find([entry.query for entry in entries])
        for entry in entries:
            query_id = entry.query.query_id
            if query_id in reasons:
                self.left_out.append(LeftOut(entry.place, query_id, reasons[query_id]))
        return [
            split and [entry for entry in split if entry.query.query_id not in reasons]
            for split in splits
        ]

    def _entry(self, record: Record, error: UserError | None, split: str) -> _Entry | None:
        """Reads a record; None if it is left out."""
        query_id = f"{split}/{record.number}"
        try:
            if error:
                raise error
            query_id = _id(record, split, self.form)
            parsed = self.form.parse(record)
        except UserError as reason:
            if not self.drop:
                raise
            told = str(reason).removeprefix(record.place).lstrip(":, ")
            self.left_out.append(LeftOut(record.place, query_id, told))
            return None
        digest = b"" if parsed is None else _digest(self.form, parsed)
        self._check_id(query_id, digest, record.place)
        if parsed is None:
            self.untested.append(record.place)
            self.places[query_id] = record.place
            return None
        return _Entry(self.form.query(query_id, parsed), digest, record.place)

    def _check_id(self, query_id: str, digest: bytes, place: str) -> None:
        known = self.places.get(query_id)
        if known is None or (self.digests.get(query_id) == digest and not self.keep_repeats):
            return
        raise UserError(
            f"{place}: the id {query_id!r} stands in {known} already, with another question or "
            "answer; ids are unique in a task"
        )

    def _note_place(self, entry: _Entry) -> None:
        self.places.setdefault(entry.query.query_id, entry.place)
        self.digests.setdefault(entry.query.query_id, entry.digest)


def _records(files: Files, form: Format) -> Iterator[tuple[Record, UserError | None]]:
    """Reads the records of a split's files, numbered through."""
    number = 0
    for file in files:
        for row in read_rows(file, form.columns):
            yield form.record(row, number), row.error
            number += 1


def _id(record: Record, split: str, form: Format) -> str:
    known = (name for name in form.id_fields if name in record.values)
    name = form.id_field or next(known, "")
    if not name:
        return f"{split}/{record.number}"
    query_id = record.text(name, "id", numbers=True)
    return f"{split}/{query_id}" if form.ids_repeat else query_id


def _digest(form: Format, parsed: ParsedRecord) -> bytes:
    """Hashes what a record asks and how it is answered."""
    graded_by = set(_GRADED_BY)
    if form.keeps is not None and not parsed.reference:
        # Whatever a function may look at stands for the reference; an id is no part of it.
        graded_by = parsed.fields.keys() - {form.id_field, *form.id_fields}
    graded = {name: parsed.fields[name] for name in graded_by if name in parsed.fields}
    content = [parsed.question, parsed.messages, parsed.reference, graded]
    return hashlib.sha256(canonical_json(content)).digest()


def _too_many(reader: _Reader, most: float) -> UserError:
    count, total = len(reader.left_out), reader.records
    first = reader.left_out[0]
    return UserError(
        f"{count} of {total} records cannot be read ({count / total:.1%}), but "
        f"task.most_left_out={most:g}; the first: {first.place}: {first.reason}; mend them, or "
        "raise task.most_left_out"
    )


def _notes(reader: _Reader) -> Iterator[str]:
    total = reader.records
    if reader.untested:
        count = f"{len(reader.untested)} of {total}"
        yield f"{count} records have no tests and are left out, such as {reader.untested[0]}"
    if reader.left_out:
        first = reader.left_out[0]
        yield (
            f"{len(reader.left_out)} of {total} records cannot be read and are left out, such as "
            f"{first.place}: {first.reason}; left_out.jsonl in the run directory lists them"
        )
    if reader.repeats:
        yield (
            f"{len(reader.repeats)} of {total} records repeat a question with its answer and count "
            f"once, such as {reader.repeats[0]}"
        )
    if reader.overlaps:
        yield (
            f"{len(reader.overlaps)} of {total} records stand in a split that is held out or "
            f"calibrates too and leave the other, such as {reader.overlaps[0]}"
        )
