"""Rollouts as columns, in memory and in Parquet files.

A rollout is one response to one query, with everything that is known about it. Rollouts are an
Arrow table with a fixed schema, so "not computed" is a null and never a zero, and a file has the
same columns as memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bstar_jax.records.files import atomic_file
from bstar_jax.records.query import Messages

SCHEMA = pa.schema(
    [
        ("iteration", pa.int32()),
        ("split", pa.string()),
        ("query_id", pa.string()),
        ("sample_index", pa.int32()),
        ("temperature", pa.float32()),
        ("top_k", pa.int32()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("num_tokens", pa.int32()),  # end-of-text included
        ("finish_reason", pa.string()),  # "stop" | "length"
        ("logprob", pa.float32()),  # sum over the response, untempered, untruncated, in nats
        ("answer", pa.string()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),  # "correct" | "wrong" | "unparseable" | "timeout" | "error"
        ("process_reward", pa.float32()),  # in [-1, 1]
        ("step_rewards", pa.list_(pa.float32())),
        ("reward", pa.float64()),
        ("selected", pa.bool_()),
        ("rationalized", pa.bool_()),
        ("score", pa.float32()),  # in [0, 1]; null where grading itself broke or ran too long
        ("message", pa.string()),  # what went wrong, or what the reward says
        ("source", pa.string()),
        # The prompt as a chat; null if it is plain text.
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ]
)


_NEWER = ("score", "message", "source", "messages")  # files of earlier versions lack them


def as_column(messages: Sequence[Messages]) -> list[list[dict[str, str]] | None]:
    """Returns chats as the column `messages`; () is null."""
    return [
        [{"role": role, "content": content} for role, content in each] or None for each in messages
    ]


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """Responses with all that is known about them, a row for each. The columns are in `SCHEMA`.

    Attributes:
      table: The rows. Null means "not computed".
      seconds: Wall time that the rows took, in seconds, by phase. It is stored in the metadata of
        the file, so that a resumed run knows it.
    """

    table: pa.Table
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Sequence | np.ndarray],
        *,
        seconds: Mapping[str, float] | None = None,
    ) -> Rollouts:
        """Builds rollouts from some columns of `SCHEMA`; the others become null.

        Raises:
          KeyError: If a name is not a column of `SCHEMA`.
          ValueError: If the columns differ in length.
        """
        unknown = set(columns) - set(SCHEMA.names)
        if unknown:
            raise KeyError(f"not rollout columns: {sorted(unknown)}; columns: {SCHEMA.names}")
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"rollout columns differ in length: {lengths}")
        rows = next(iter(lengths.values()), 0)
        arrays = [
            pa.array(columns[field.name], type=field.type)
            if field.name in columns
            else pa.nulls(rows, type=field.type)
            for field in SCHEMA
        ]
        return cls(pa.Table.from_arrays(arrays, schema=SCHEMA), seconds or {})

    @classmethod
    def concatenate(cls, parts: Sequence[Rollouts]) -> Rollouts:
        """Concatenates parts in their order; their `seconds` add up."""
        if not parts:
            return cls.from_columns({})
        seconds = {}
        for part in parts:
            for phase, value in part.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + value
        return cls(pa.concat_tables([part.table for part in parts]).combine_chunks(), seconds)

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> list:
        """Returns the column as Python values; null is None."""
        return self.table.column(name).to_pylist()

    def prompts(self) -> list[str | Messages]:
        """Returns what a tokenizer encodes of each row: its messages, else its prompt."""
        rows = zip(self.column("prompt"), self.column("messages"), strict=True)
        return [
            tuple((each["role"], each["content"]) for each in messages) if messages else prompt
            for prompt, messages in rows
        ]

    def array(self, name: str) -> np.ndarray:
        """Returns the column as NumPy numbers.

        Raises:
          ValueError: If a value is null, because a value that was not computed has no default.
        """
        column = self.table.column(name)
        if column.null_count:
            raise ValueError(f"column {name!r} has {column.null_count} nulls of {len(self)} rows")
        return column.to_numpy()

    def with_columns(self, **columns: Sequence | np.ndarray) -> Rollouts:
        """Returns the same rows with some columns replaced."""
        table = self.table
        for name, values in columns.items():
            index = SCHEMA.get_field_index(name)
            if index < 0:
                raise KeyError(f"{name!r} is not a rollout column; columns: {SCHEMA.names}")
            table = table.set_column(
                index, SCHEMA.field(index), pa.array(values, SCHEMA.types[index])
            )
        return Rollouts(table, self.seconds)

    def with_seconds(self, **seconds: float) -> Rollouts:
        """Returns the same rows with the wall time of some phases added."""
        return Rollouts(self.table, {**self.seconds, **seconds})

    def filter(self, keep: Sequence[bool] | np.ndarray) -> Rollouts:
        """Returns the rows where `keep` is True, in their order."""
        return Rollouts(self.table.filter(pa.array(keep, pa.bool_())), self.seconds)

    def sorted(self, query_ids: Sequence[str]) -> Rollouts:
        """Sorts rows by query (ordered as `query_ids`), temperature, top_k and sample_index."""
        position = {query_id: index for index, query_id in enumerate(query_ids)}
        ranks = np.array([position[query_id] for query_id in self.column("query_id")], np.int64)
        order = np.lexsort(
            [self.array("sample_index"), self.array("top_k"), self.array("temperature"), ranks]
        )
        return Rollouts(self.table.take(pa.array(order)), self.seconds)

    def write(self, path: str | os.PathLike) -> None:
        """Writes a Parquet file atomically, and makes its folder if it does not exist."""
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = self.table.replace_schema_metadata({"seconds": json.dumps(dict(self.seconds))})
        with atomic_file(path, "wb") as file:
            pq.write_table(table, file, compression="zstd")

    @classmethod
    def read(cls, path: str | os.PathLike) -> Rollouts:
        """Reads a Parquet file.

        Columns that files of earlier versions lack are null.

        Raises:
          ValueError: If there are other columns than those of `SCHEMA`.
        """
        # Without None, names of folders become columns.
        table = pq.read_table(path, partitioning=None)  # pyright: ignore[reportArgumentType]  # the stub lacks None
        metadata = table.schema.metadata or {}
        names = table.schema.names
        for name in (name for name in _NEWER if name not in names):
            field = SCHEMA.field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
        if table.schema.remove_metadata() != SCHEMA:
            raise ValueError(f"{path}: columns are {names}, expected {SCHEMA.names}")
        seconds = json.loads(metadata.get(b"seconds", b"{}"))
        return cls(table.replace_schema_metadata(None), seconds)

    def to_bytes(self) -> bytes:
        """Returns the rows as bytes for another process, without `seconds`."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as stream:
            stream.write_table(self.table)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, text: bytes) -> Rollouts:
        """Reads what `to_bytes` returned."""
        with pa.ipc.open_stream(text) as stream:
            return cls(stream.read_all())
