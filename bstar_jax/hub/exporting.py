"""Writes parameters as a Hugging Face directory, which Transformers loads like their source.

Where nothing was trained, the two are the same: names, dtypes, bytes of tensors, other files.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import directory, kept, names, safetensors_files
from bstar_jax.hub.architecture import (
    check_architecture,
    read_architecture,
    read_family,
    write_llama_config,
)
from bstar_jax.hub.directory import StoredTensor
from bstar_jax.hub.names import LLAMA_NAMES, NameTable, Path

SHARD_BYTES = 5 * 10**9
"""Most bytes of tensors in a file."""


def export_checkpoint(
    config: ModelConfig,
    params: dict,
    source: str | os.PathLike | None,
    output: str | os.PathLike,
    *,
    special_ids: Mapping[str, int] | None = None,
    add: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Writes a checkpoint that Transformers loads; the directory appears atomically.

    Example: export_checkpoint(config, params, "/models/Qwen3-0.6B", "/models/mine")

    Args:
      config: The model, with its true vocabulary.
      params: Its parameters, as `import_checkpoint` returns them, adapters merged. Vocabulary
        padding is cut off.
      source: The checkpoint that they started from, or what `keep_source` kept of it. Tensors get
        the names and dtypes that they have there; the other files are copied unchanged. None or ""
        means a start from random parameters: f32 tensors and the config.json of a Llama.
      output: The directory to make.
      special_ids: `bos_token_id` and the like, for a config.json that is written here.
      add: Writes further files, such as the tokenizer's, into the directory that it is given.

    Raises:
      UserError: If the output exists and is not empty; the parameters are not those of the config,
        or include a scalar head or adapters; the config is not that of the source, or not that of
        a Llama without one; or a value is too large for the dtype of its tensor.
    """
    leaves = names.leaves(params)
    _check_params(config, leaves)
    if source:
        checkpoint = pathlib.Path(source)
        check_architecture(config, read_architecture(checkpoint), checkpoint)
        headers = directory.read_headers(checkpoint)
        table = names.choose(read_family(checkpoint).names, headers)
        directory.check_tensors(checkpoint, config, table, headers)
        kept.check_elsewhere(checkpoint, headers)

        def write_texts(path: pathlib.Path) -> None:
            directory.copy_texts(checkpoint, path)

    else:
        fields, table = write_llama_config(config, special_ids or {}), LLAMA_NAMES
        wanted = names.by_name(config, table)
        headers = {
            name: StoredTensor("F32", names.file_shape(parts)) for name, parts in wanted.items()
        }

        def write_texts(path: pathlib.Path) -> None:
            safetensors_files.write_json(path / "config.json", fields)

    with safetensors_files.new_directory(pathlib.Path(output)) as path:
        _write_tensors(path, config, table, leaves, headers)
        write_texts(path)
        if add is not None:
            add(path)


def _check_params(config: ModelConfig, leaves: dict[Path, jax.Array]) -> None:
    """Refuses parameters that no file can hold, or that are not the config's."""
    spare = [".".join(path) for path in leaves if "scalar" in path or "_lora_" in path[-1]]
    spare += ["a scalar head"] * config.scalar_head + ["adapters"] * (config.lora_rank > 0)
    if spare:
        raise UserError(
            f"the parameters have {spare[0]}, which a Hugging Face language model has no place "
            "for; merge adapters and drop the scalar head first"
        )
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    for path, shape in names.shapes(config).items():
        axes = names.axes(config)[path]
        found = shapes.pop(path, None)
        fits = found is not None and len(found) == len(shape) and all(
            have == want or (axis == "vocab" and have > want)
            for have, want, axis in zip(found, shape, axes, strict=True)
        )  # fmt: skip
        if not fits:
            raise UserError(
                f"parameter {'.'.join(path)} is {found}, but the config makes it {shape}; give "
                "the config that they were made with"
            )
    if shapes:
        raise UserError(f"parameter {'.'.join(min(shapes))} is none of the config's; leave it out")


def _write_tensors(
    path: pathlib.Path,
    config: ModelConfig,
    table: NameTable,
    leaves: dict[Path, jax.Array],
    headers: dict[str, StoredTensor],
) -> None:
    """Writes the weights in shards, and their index where there are several."""
    wanted = names.by_name(config, table)

    def take(name: str) -> np.ndarray:
        if names.is_computed(name) or names.is_vision(name):
            return directory.read_tensor(headers[name], name)
        found = []
        for entry in wanted.get(name) or wanted[table.embedding]:  # a tied head that is stored
            leaf = leaves[entry.path]
            ours = leaf if entry.layer is None else leaf[entry.layer]
            found.append(entry.to_file(_cast(name, np.asarray(ours), headers[name].dtype)))
        return found[0] if len(found) == 1 else np.concatenate(found)

    shards = _shards(headers)
    weight_map = {}
    for number, specs in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors_files.write_tensors(path / file, specs, take)
        weight_map |= dict.fromkeys(specs, file)
    if len(shards) > 1:
        total = sum(
            safetensors_files.tensor_bytes(stored.dtype, stored.shape)
            for stored in headers.values()
        )
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        safetensors_files.write_json(path / "model.safetensors.index.json", index)


def _shards(headers: dict[str, StoredTensor]) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of each file, in their order; each file takes as many as fit."""
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    held = 0
    for name, stored in headers.items():
        size = safetensors_files.tensor_bytes(stored.dtype, stored.shape)
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append({})
            held = 0
        shards[-1][name] = stored.dtype, stored.shape
        held += size
    return shards


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    """A tensor in the dtype of its file; exact where it came from that file and was not trained."""
    wanted = directory.DTYPES[dtype]
    if tensor.dtype == wanted:
        return tensor
    with np.errstate(over="ignore"):
        cast = tensor.astype(wanted)
    if dtype == "F16" and not np.isfinite(cast).all() and np.isfinite(tensor).all():
        raise UserError(
            f"{name} has a value of {np.abs(tensor).max():.6g}, and its file's F16 ends at 65504; "
            "start from a checkpoint in BF16 or F32"
        )
    return cast
