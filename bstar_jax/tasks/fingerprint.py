"""A fingerprint of a task's data, which does not depend on where the data lies."""

from __future__ import annotations

import hashlib
import json

from bstar_jax.records import SPLITS, Query
from bstar_jax.tasks.task import LoadedTask

_LONG = 1 << 10_000  # whole numbers from here on are written in hexadecimal


def fingerprint(task: LoadedTask) -> str:
    """Returns the SHA-256 of all that is asked and compared: the queries, by split and in order.

    Paths, the names of sources, and messages to people are no part of it.

    Args:
      task: The task.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split} {len(task.splits[split])}\n".encode())
        for query in task.splits[split]:
            digest.update(canonical_json(_content(query)) + b"\n")
    return digest.hexdigest()


def canonical_json(value: object) -> bytes:
    """Writes JSON values in one way: keys in order, no spaces, ASCII; tuples are lists."""
    try:
        return _written(value)
    except ValueError:  # a whole number of more digits than Python writes
        return _written(_short(value))


def _content(query: Query) -> list[object]:
    return [
        query.query_id,
        query.prompt,
        query.messages,
        query.reference,
        query.solution,
        query.more_solutions,
        query.fields,
        query.prefix,
        query.label,
    ]


def _written(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _short(value: object) -> object:
    if isinstance(value, dict):
        return {name: _short(element) for name, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(element) for element in value]
    return hex(value) if isinstance(value, int) and abs(value) >= _LONG else value
