"""Writes files whole or not at all, and safetensors one tensor at a time.

A safetensors file is the length of its header (8 bytes), the header in JSON, the tensors: so it
can be written with only one of them in memory. Order and padding are those of the safetensors
library: equal tensors make equal files.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from bstar_jax.config import UserError
from bstar_jax.records.files import atomic_directory

# In the order in which a file has them.
_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
_ALIGNMENT = 8

Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor."""
    return _BYTES[dtype] * math.prod(shape)


def write_tensors(file: pathlib.Path, layout: Layout, take: Callable[[str], np.ndarray]) -> None:
    """Writes one safetensors file.

    Args:
      file: Where to.
      layout: Dtype, as safetensors call it, and shape of each tensor.
      take: Gives a tensor; called once for each, and none is kept.

    Raises:
      ValueError: If a tensor is not of its layout.
    """
    assert sys.byteorder == "little", "safetensors are little-endian"
    order = sorted(layout, key=lambda name: (list(_BYTES).index(layout[name][0]), name))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        start, end = end, end + size_of(*layout[name])
        dtype, shape = layout[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(file, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little"))
        handle.write(text)
        for name in order:
            tensor = take(name)
            if tensor.shape != layout[name][1] or tensor.nbytes != size_of(*layout[name]):
                raise ValueError(f"{name} is {tensor.dtype}{tensor.shape}, not {layout[name]}")
            handle.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))


def write_json(file: pathlib.Path, values: Mapping) -> None:
    """Writes a JSON file, as Transformers lays it out."""
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory to write in, which takes its name only when everything is in it.

    Raises:
      UserError: If there is something under that name already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"the output {path} exists and is not empty; nothing is overwritten: give another "
            "directory, or remove it"
        )
    with atomic_directory(path) as directory:
        yield directory
