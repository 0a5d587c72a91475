"""Parameters out of a checkpoint of any size: every device is given its slice, and no more is read.

One parameter at a time, one slice of it at a time, a few MiB of a file at a time: the memory
needed beside the parameters themselves is that of one device's slice of one of them.
"""

from __future__ import annotations

import math
import os
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from bstar_jax import sharding
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import directory, names
from bstar_jax.hub.directory import Stored
from bstar_jax.hub.families import read_config
from bstar_jax.hub.names import Entry

_DTYPES = {"float32": "F32", "bfloat16": "BF16"}
_BLOCK_BYTES = 8 * 2**20  # of a file, read at once
_ALIGNMENT = 64  # bytes; from there JAX on a CPU takes memory over without a copy

Index = tuple[slice, ...]


def import_checkpoint(
    path: str | os.PathLike, mesh: Mesh | None = None, dtype: str = "float32"
) -> tuple[ModelConfig, dict]:
    """Reads a Hugging Face checkpoint: Llama, Mistral, Qwen 2 and 3, Gemma 2 and 3 (text).

    Example: config, params = import_checkpoint("/models/Qwen3-0.6B", mesh)

    Args:
      path: A directory with config.json and safetensors, or a hub name.
      mesh: Where to; parameters lie on the storage map, the vocabulary padded with zeros to
        `sharding.padded_vocab`. Without one they lie on the first device, and nothing is padded.
      dtype: Of the parameters: "float32", "bfloat16", or "file", which keeps each as it is.

    Returns:
      The model's config, its `checkpoint` "" and its `vocab_size` the true one, and parameters as
      `model.init` makes them.

    Raises:
      UserError: If there is no such checkpoint, it is of no supported architecture, its files are
        broken, its tensors are not those of its config, or the mesh does not divide them. No
        tensor has been read then.
    """
    if dtype not in (*_DTYPES, "file"):
        raise ValueError(f"dtype is {dtype!r}; it takes float32, bfloat16 or file")
    path = directory.locate(path)
    config = read_config(path)
    if mesh is not None:
        sharding.check_model(mesh, config)
    headers = _weights_of(path, config)
    _check_tied(path, config, headers)
    size = config.vocab_size if mesh is None else sharding.padded_vocab(config, mesh)
    found = {}
    for keys, tensors in names.entries(config).items():
        axes = names.axes(config)[keys]
        shape = tuple(
            size if axis == "vocab" else length
            for axis, length in zip(axes, names.shapes(config)[keys], strict=True)
        )
        place = None if mesh is None else NamedSharding(mesh, sharding.spec(axes))
        stored = [headers[entry.name] for entry in tensors]
        found[keys] = _parameter(tensors, stored, shape, place, _dtype(stored, dtype))
    return config, names.nest(found)


def _weights_of(path: pathlib.Path, config: ModelConfig) -> dict[str, Stored]:
    headers = directory.read_headers(path)
    directory.check_tensors(path, config, headers)
    if any(headers[name].file is None for name in names.by_name(config)):
        raise UserError(
            f"{path} keeps the names of tensors, not the weights; give the checkpoint itself"
        )
    return headers


def _check_tied(path: pathlib.Path, config: ModelConfig, headers: dict[str, Stored]) -> None:
    """Refuses a head that is stored, is said to be the embedding, and is not.

    Raises:
      UserError: If so; Transformers would use both, whatever config.json says.
    """
    if not config.tied or names.HEAD not in headers:
        return
    rows = _rows_a_block(headers[names.EMBEDDING].dtype, config.width)
    for start in range(0, config.vocab_size, rows):
        part = slice(start, min(start + rows, config.vocab_size)), slice(None)
        head, embedding = (
            directory.read_part(headers[name], name, part) for name in (names.HEAD, names.EMBEDDING)
        )
        if not np.array_equal(head, embedding):
            raise UserError(
                f"{path}: tie_word_embeddings is true, but {names.HEAD} is not "
                f"{names.EMBEDDING}; set it to false in config.json to use both"
            )


def _dtype(stored: list[Stored], wanted: str) -> np.dtype:
    """The dtype of a parameter; f32 where a file keeps its layers in several."""
    if wanted != "file":
        return directory.DTYPES[_DTYPES[wanted]]
    found = {entry.dtype for entry in stored}
    return directory.DTYPES[found.pop() if len(found) == 1 else "F32"]


def _parameter(
    tensors: tuple[Entry, ...],
    stored: list[Stored],
    shape: tuple[int, ...],
    place: NamedSharding | None,
    dtype: np.dtype,
) -> jax.Array:
    """One parameter from the tensors of its layers; devices with equal slices share one reading."""
    if place is None:
        whole = tuple(slice(0, size) for size in shape)
        return jax.device_put(_slice(tensors, stored, whole, dtype))
    devices: dict[tuple, list] = {}
    for device, index in place.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, sharers in devices.items():
        host = _slice(tensors, stored, tuple(slice(*bound) for bound in bounds), dtype)
        arrays += [jax.device_put(host, SingleDeviceSharding(device)) for device in sharers]
        jax.block_until_ready(arrays)  # before the next slice takes memory
    return jax.make_array_from_single_device_arrays(shape, place, arrays)


def _slice(
    tensors: tuple[Entry, ...], stored: list[Stored], index: Index, dtype: np.dtype
) -> np.ndarray:
    """A slice of a parameter, on the host; what lies beyond the true vocabulary is 0."""
    out = _empty(tuple(part.stop - part.start for part in index), dtype)
    if tensors[0].layer is None:
        _fill(out, tensors[0], stored[0], index)
        return out
    layers = range(index[0].start, index[0].stop)
    for row, layer in enumerate(layers):
        _fill(out[row], tensors[layer], stored[layer], index[1:])
    return out


def _fill(out: np.ndarray, entry: Entry, stored: Stored, index: Index) -> None:
    """Fills a slice of one layer, reading no more of its tensor than that."""
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
    step = _rows_a_block(stored.dtype, height * width)
    offset = held[first].start
    for start in range(0, len(view), step):
        rows = view[start : start + step]
        part = slice((offset + start) * height, (offset + start + len(rows)) * height)
        rows[...] = directory.read_part(stored, entry.name, (part, *columns)).reshape(rows.shape)


def _joined(entry: Entry, index: Index, dims: tuple[int, ...]) -> slice:
    """The slice of a file's dimension that joins these of ours, the inner ones whole."""
    inner = math.prod(entry.sizes[dim] for dim in dims[1:])
    return slice(index[dims[0]].start * inner, index[dims[0]].stop * inner)


def _rows_a_block(dtype: str, width: int) -> int:
    return max(1, _BLOCK_BYTES // (directory.DTYPES[dtype].itemsize * max(width, 1)))


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
