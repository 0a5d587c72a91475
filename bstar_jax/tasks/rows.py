"""Reads the records of a data file, one after the other.

`.jsonl`     a JSON object a line; any file that has no other ending is read so.
`.json`      an array of objects, or one a line.
`.gz`        after the endings above: compressed.
`.parquet`   a row is a record; only the columns that are asked for are read.
`.arrow`     what `datasets` saves to disk: an Arrow stream.

Blank lines hold no record.
"""

from __future__ import annotations

import gzip
import pathlib
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO, NamedTuple, cast

from bstar_jax.config import UserError
from bstar_jax.tasks import tables
from bstar_jax.tasks.values import decode, decode_array, kind

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow")
_LONGEST_LINE = 1 << 28  # bytes
_LONGEST_ARRAY = 1 << 32  # bytes
_UNKNOWN = (".csv", ".tsv", ".zip", ".zst", ".xz", ".bz2", ".tar", ".txt", ".pkl", ".xlsx")


class RawRecord(NamedTuple):
    """One record as it was decoded, or why it was not.

    Attributes:
      place: Where it stands: "FILE, line N", or "FILE, row N" from 0 in a table.
      values: Its fields; numbers are Decimals, digits as written.
      error: What is wrong with it, for the caller to raise; None if it could be decoded.
      line: The line itself, of JSON Lines.
      unread: Names of fields that were not asked for.
    """

    place: str
    values: Mapping[str, object]
    error: UserError | None = None
    line: str = ""
    unread: tuple[str, ...] = ()


def read_rows(file: pathlib.Path, columns: Collection[str] | None = None) -> Iterator[RawRecord]:
    """Reads the records of a file, in their order.

    Args:
      file: The file.
      columns: The fields that are needed; None is all. Only tables can leave the others unread.

    Raises:
      UserError: If there is no such file, or it is broken as a whole.
    """
    if not file.is_file():
        raise UserError(
            f"there is no file {file}; task.path is a file of {', '.join(ENDINGS)}, or a folder "
            "with files named by their splits, such as train.jsonl"
        )
    name = file.name.casefold()
    if name.endswith(_UNKNOWN):
        raise UserError(
            f"{file} is no file of data that is known; write its records as JSON Lines or Parquet"
        )
    if name.endswith((".parquet", ".arrow")):
        read = tables.read_parquet if name.endswith(".parquet") else tables.read_arrow
        for number, (values, unread) in enumerate(read(file, columns)):
            yield RawRecord(f"{file}, row {number}", values, unread=unread)
        return
    with _open(file) as stream:
        try:
            if _begins_with_array(stream) and name.removesuffix(".gz").endswith(".json"):
                yield from _array(file, stream)
            else:
                yield from _lines(file, stream)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{file} is broken: {error}; copy or download it again") from error


def _open(file: pathlib.Path) -> BinaryIO:
    if file.name.casefold().endswith(".gz"):
        return cast(BinaryIO, gzip.open(file))
    return open(file, "rb")


def _begins_with_array(stream: BinaryIO) -> bool:
    """Tells whether the first character of a file that is no space opens an array."""
    first = stream.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    stream.seek(0)
    return first == b"["


def _lines(file: pathlib.Path, stream: BinaryIO) -> Iterator[RawRecord]:
    # Only \n ends a line: JSON strings may hold other characters that end lines elsewhere.
    for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE + 1), b""), start=1):
        place = f"{file}, line {number}"
        if len(line) > _LONGEST_LINE:
            raise UserError(f"{place} is longer than {_LONGEST_LINE >> 20} MiB; no record is")
        if not line.strip():
            continue
        text = ""
        try:
            text = _text(line.removesuffix(b"\n"), place)
            values = decode(text, place)
        except UserError as error:
            yield RawRecord(place, {}, error, text)
        else:
            yield _row(place, values, "each line", text)


def _array(file: pathlib.Path, stream: BinaryIO) -> Iterator[RawRecord]:
    content = stream.read(_LONGEST_ARRAY + 1)
    if len(content) > _LONGEST_ARRAY:
        raise UserError(
            f"{file} holds an array of more than {_LONGEST_ARRAY >> 30} GiB; write its records as "
            "JSON Lines or Parquet"
        )
    text = _text(content, str(file))
    del content
    for line, values in decode_array(text, str(file)):
        yield _row(f"{file}, line {line}", values, "each element")


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}, byte {error.start + 1}: not UTF-8 text") from error


def _row(place: str, values: object, each: str, line: str = "") -> RawRecord:
    if isinstance(values, dict):
        return RawRecord(place, values, line=line)
    error = UserError(f"{place} holds {kind(values)}; {each} is a JSON object")
    return RawRecord(place, {}, error, line)
