"""Reads parameters from a checkpoint of any size: every device gets its slice, and no more is read.

Parameters are read one after another, slice by slice, and a few MiB of a file at a time. Besides
the parameters themselves, this needs memory for one slice of one parameter on one device.
"""

from __future__ import annotations

import math
import os
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.typing import DTypeLike

from bstar_jax import sharding
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.config.model import dtype_name
from bstar_jax.hub import directory, names
from bstar_jax.hub.architecture import read_architecture, read_family
from bstar_jax.hub.directory import StoredTensor
from bstar_jax.hub.names import Entry, NameTable

_DTYPES = {"float32": "F32", "bfloat16": "BF16"}
_BLOCK_BYTES = 8 * 2**20  # most bytes of a file that are read at once
_ALIGNMENT = 64  # bytes; memory aligned like this is used by JAX on a CPU without a copy

Index = tuple[slice, ...]


def import_checkpoint(
    path: str | os.PathLike, mesh: Mesh | None = None, dtype: DTypeLike = "float32"
) -> tuple[ModelConfig, dict]:
    """Reads a Hugging Face checkpoint of any family in docs/checkpoints.md.

    Example: config, params = import_checkpoint("/models/Qwen3-0.6B", mesh)

    Args:
      path: A directory with config.json and safetensors, or a hub name.
      mesh: The devices. Parameters get the storage map, with the vocabulary padded with zeros to
        `sharding.padded_vocab`. Without a mesh they are put on the first device, without padding.
      dtype: Dtype of the parameters: float32 or bfloat16, by name or as JAX has it, such as
        jnp.bfloat16; or "file", which keeps those of the tensors.

    Returns:
      The model's config, with `checkpoint` "" and the true `vocab_size`, and parameters as
      `model.init` makes them.

    Raises:
      UserError: If there is no such checkpoint, its architecture is not supported, its files are
        broken, its tensors are not those of its config, or the mesh does not divide them. All of
        this is checked before any tensor is read.
    """
    wanted = dtype_name(dtype)
    if wanted not in (*_DTYPES, "file"):
        raise ValueError(f"dtype is {dtype!r}; it takes float32, bfloat16 or file")
    path = directory.locate(path)
    config = read_architecture(path)
    if mesh is not None:
        sharding.check_model(mesh, config)
    headers = directory.read_headers(path)
    table = names.choose(read_family(path).names, headers)
    _check_headers(path, config, table, headers)
    _check_tied(path, config, table, headers)
    size = config.vocab_size if mesh is None else sharding.padded_vocab(config, mesh)
    found = {}
    for keys, tensors in names.entries(config, table).items():
        axes = names.axes(config)[keys]
        shape = tuple(
            size if axis == "vocab" else length
            for axis, length in zip(axes, names.shapes(config)[keys], strict=True)
        )
        target = None if mesh is None else NamedSharding(mesh, sharding.spec(axes))
        stored = [headers[entry.name] for entry in tensors]
        found[keys] = _read_parameter(tensors, stored, shape, target, _dtype(stored, wanted))
    return config, names.nest(found)


def _check_headers(
    path: pathlib.Path, config: ModelConfig, table: NameTable, headers: dict[str, StoredTensor]
) -> None:
    directory.check_tensors(path, config, table, headers)
    if any(headers[name].file is None for name in names.by_name(config, table)):
        raise UserError(
            f"{path} keeps the names of tensors, not the weights; give the checkpoint itself"
        )


def _check_tied(
    path: pathlib.Path, config: ModelConfig, table: NameTable, headers: dict[str, StoredTensor]
) -> None:
    """Refuses a stored head that config.json calls the embedding, but that differs from it.

    Raises:
      UserError: If so; Transformers would use both, whatever config.json says.
    """
    if not config.tied or table.head not in headers:
        return
    rows = _rows_per_block(headers[table.embedding].dtype, config.width)
    for start in range(0, config.vocab_size, rows):
        part = slice(start, min(start + rows, config.vocab_size)), slice(None)
        head, embedding = (
            directory.read_part(headers[name], name, part) for name in (table.head, table.embedding)
        )
        if not np.array_equal(head, embedding):
            raise UserError(
                f"{path}: tie_word_embeddings is true, but {table.head} is not "
                f"{table.embedding}; set it to false in config.json to use both"
            )


def _dtype(stored: list[StoredTensor], wanted: str) -> np.dtype:
    """The dtype of a parameter; "file" gives f32 where its layers have several dtypes."""
    if wanted != "file":
        return directory.DTYPES[_DTYPES[wanted]]
    found = {entry.dtype for entry in stored}
    return directory.DTYPES[found.pop() if len(found) == 1 else "F32"]


def _read_parameter(
    tensors: tuple[Entry, ...],
    stored: list[StoredTensor],
    shape: tuple[int, ...],
    target: NamedSharding | None,
    dtype: np.dtype,
) -> jax.Array:
    """Reads a parameter from the tensors of its layers, each slice once for all its devices."""
    if target is None:
        full = tuple(slice(0, size) for size in shape)
        return jax.device_put(_read_slice(tensors, stored, full, dtype))
    devices: dict[tuple, list] = {}
    for device, index in target.addressable_devices_indices_map(shape).items():
        assert index is not None, "every device of the mesh has a slice"
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, sharers in devices.items():
        host = _read_slice(tensors, stored, tuple(slice(*bound) for bound in bounds), dtype)
        arrays += [jax.device_put(host, SingleDeviceSharding(device)) for device in sharers]
        jax.block_until_ready(arrays)  # before the next slice takes memory
    return jax.make_array_from_single_device_arrays(shape, target, arrays)


def _read_slice(
    tensors: tuple[Entry, ...], stored: list[StoredTensor], index: Index, dtype: np.dtype
) -> np.ndarray:
    """Reads a slice of a parameter to the host; vocabulary padding is 0."""
    out = _empty(tuple(part.stop - part.start for part in index), dtype)
    if tensors[0].layer is None:
        _fill(out, tensors[0], stored[0], index)
        return out
    layers = range(index[0].start, index[0].stop)
    for row, layer in enumerate(layers):
        _fill(out[row], tensors[layer], stored[layer], index[1:])
    return out


def _fill(out: np.ndarray, entry: Entry, stored: StoredTensor, index: Index) -> None:
    """Fills `out` with a slice of one layer, reading no other part of its tensor."""
    held = tuple(
        slice(min(part.start, size), min(part.stop, size))
        for part, size in zip(index, entry.sizes, strict=True)
    )
    inside = tuple(slice(part.stop - part.start) for part in held)
    if any(part.stop < size for part, size in zip(inside, out.shape, strict=True)):
        out[...] = 0
    view = out[inside].transpose(entry.order)
    columns = tuple(_joined(entry, held, dims) for dims in entry.dims[1:])
    first, *inner = entry.dims[0]
    height = math.prod(entry.sizes[dim] for dim in inner)
    width = math.prod(part.stop - part.start for part in columns)
    step = _rows_per_block(stored.dtype, height * width)
    offset = held[first].start
    for start in range(0, len(view), step):
        rows = view[start : start + step]
        begin = entry.start + (offset + start) * height
        part = slice(begin, begin + len(rows) * height)
        rows[...] = directory.read_part(stored, entry.name, (part, *columns)).reshape(rows.shape)


def _joined(entry: Entry, index: Index, dims: tuple[int, ...]) -> slice:
    """The slice of a file's dimension that joins these of ours; only the outermost is sliced."""
    inner = math.prod(entry.sizes[dim] for dim in dims[1:])
    return slice(index[dims[0]].start * inner, index[dims[0]].stop * inner)


def _rows_per_block(dtype: str, width: int) -> int:
    return max(1, _BLOCK_BYTES // (directory.DTYPES[dtype].itemsize * max(width, 1)))


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialized array that JAX on a CPU takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
