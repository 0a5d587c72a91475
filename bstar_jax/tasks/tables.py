"""Reads Parquet files, and Arrow files as `datasets` saves them, row by row.

Values come as they do from JSON: numbers as Decimals, structs as objects. Of a struct that was made
from different objects, every row has all keys, and those that were missing are null.
"""

from __future__ import annotations

import contextlib
import decimal
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bstar_jax.config import UserError

_AT_ONCE = 1024  # rows

Values = tuple[dict[str, object], tuple[str, ...]]  # of one row, and the names of unread columns


def read_parquet(file: pathlib.Path, columns: Collection[str] | None) -> Iterator[Values]:
    """Reads the rows of a Parquet file.

    Args:
      file: The file.
      columns: The columns that are needed; None is all.

    Raises:
      UserError: If the file is broken.
    """
    with _explained(file, "Parquet"), pq.ParquetFile(file) as table:
        wanted, unread = _divided(table.schema_arrow.names, columns)
        for batch in table.iter_batches(_AT_ONCE, columns=wanted):
            yield from _rows(batch, wanted, unread)


def read_arrow(file: pathlib.Path, columns: Collection[str] | None) -> Iterator[Values]:
    """Reads the rows of an Arrow file, a stream or not; see `read_parquet`.

    Raises:
      UserError: If the file is broken.
    """
    with _explained(file, "Arrow"), pa.OSFile(str(file)) as source:
        is_stream = source.read(6) != b"ARROW1"
        source.seek(0)
        opened = pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)
        with opened as reader:
            wanted, unread = _divided(reader.schema.names, columns)
            for batch in _batches(reader):
                for start in range(0, batch.num_rows, _AT_ONCE):
                    yield from _rows(batch.slice(start, _AT_ONCE), wanted, unread)


def _batches(
    reader: pa.RecordBatchStreamReader | pa.RecordBatchFileReader,
) -> Iterable[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return reader


def _divided(
    names: Sequence[str], columns: Collection[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """Divides the names of columns into those that are needed and the others."""
    wanted = [name for name in names if columns is None or name in columns]
    return wanted, tuple(name for name in names if name not in wanted)


def _rows(batch: pa.RecordBatch, wanted: list[str], unread: tuple[str, ...]) -> Iterator[Values]:
    columns = [
        [_value(value, batch.schema.field(name).type) for value in batch.column(name).to_pylist()]
        for name in wanted
    ]
    for row in zip(*columns, strict=True) if columns else ((),) * batch.num_rows:
        yield dict(zip(wanted, row, strict=True)), unread


def _value(value: Any, kind: pa.DataType) -> object:
    """Writes a value of a table as JSON would hold it."""
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, dict):
        return {field.name: _value(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return {str(key): _value(element, kind.item_type) for key, element in value}
    if isinstance(value, list):
        return [_value(element, kind.value_type) for element in value]
    if isinstance(value, float):
        # The shortest digits that give this number in its own precision, as it was written.
        narrow = {16: np.float16, 32: np.float32}.get(getattr(kind, "bit_width", 64))
        return decimal.Decimal(str(narrow(value)) if narrow else repr(value))
    if isinstance(value, (int, decimal.Decimal)):
        return decimal.Decimal(value)
    return str(value)  # a time


@contextlib.contextmanager
def _explained(file: pathlib.Path, format: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{file} is no {format} file, or is broken: {str(error).splitlines()[0]}"
        ) from error
