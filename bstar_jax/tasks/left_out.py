"""Records that were left out because they cannot be read, and the file that lists them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import NamedTuple

from bstar_jax.records.files import atomic_file


class LeftOut(NamedTuple):
    """A record that was left out.

    Attributes:
      place: Where it stands, "FILE, line N".
      id: Its id, or the one that it would have had.
      reason: Why it cannot be read.
    """

    place: str
    id: str
    reason: str


def write_left_out(path: str | os.PathLike, left_out: Iterable[LeftOut]) -> None:
    """Writes records that were left out as JSON Lines, atomically; no file where there is none.

    Args:
      path: The file, such as RUN/left_out.jsonl.
      left_out: The records.
    """
    left_out = tuple(left_out)
    if not left_out:
        return
    with atomic_file(path) as file:
        for record in left_out:
            file.write(json.dumps(record._asdict()) + "\n")
