"""Writes directories atomically, and safetensors files one tensor at a time.

A safetensors file is the length of its header (8 bytes), the header in JSON, then the tensors, so
it can be written with only one tensor in memory. Order and padding are those of the safetensors
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

# By dtype, in the order in which a file has the dtypes.
_ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
_ALIGNMENT = 8

TensorSpecs = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype, as safetensors files call it, and shape of each tensor, by name."""


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of a tensor in bytes."""
    return _ITEM_BYTES[dtype] * math.prod(shape)


def write_tensors(
    file: pathlib.Path, specs: TensorSpecs, take: Callable[[str], np.ndarray]
) -> None:
    """Writes one safetensors file.

    Args:
      file: The file to write.
      specs: The tensors of the file.
      take: Returns the tensor of a name. It is called once for each, and no tensor is kept.

    Raises:
      ValueError: If a tensor does not have the shape and size of its spec.
    """
    assert sys.byteorder == "little", "safetensors are little-endian"
    order = sorted(specs, key=lambda name: (list(_ITEM_BYTES).index(specs[name][0]), name))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensor_bytes(*specs[name])
        dtype, shape = specs[name]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(file, "wb") as handle:
        handle.write(len(text).to_bytes(8, "little"))
        handle.write(text)
        for name in order:
            tensor = take(name)
            if tensor.shape != specs[name][1] or tensor.nbytes != tensor_bytes(*specs[name]):
                raise ValueError(f"{name} is {tensor.dtype}{tensor.shape}, not {specs[name]}")
            handle.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def write_json(file: pathlib.Path, values: Mapping) -> None:
    """Writes a JSON file in the layout of Transformers."""
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def new_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes an output directory atomically, and never overwrites one.

    Raises:
      UserError: If `path` exists already and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(
            f"the output {path} exists and is not empty; nothing is overwritten: give another "
            "directory, or remove it"
        )
    with atomic_directory(path) as directory:
        yield directory
