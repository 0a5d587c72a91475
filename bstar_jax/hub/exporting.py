"""Parameters into a Hugging Face directory, which Transformers loads like the one they came from.

Where nothing was trained the two are the same: names, dtypes, bytes of tensors, other files.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import directory, llama, names, safetensors_files
from bstar_jax.hub.architecture import check_architecture
from bstar_jax.hub.directory import Stored
from bstar_jax.hub.families import read_config

SHARD_BYTES = 5 * 10**9


def export_checkpoint(
    config: ModelConfig,
    params: dict,
    source: str | os.PathLike | None,
    output: str | os.PathLike,
    *,
    special_ids: Mapping[str, int] | None = None,
    add: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Writes a checkpoint that Transformers loads: whole, or not at all.

    Example: export_checkpoint(config, params, "/models/Qwen3-0.6B", "/models/mine")

    Args:
      config: The model, of true vocabulary.
      params: Its parameters, as `import_checkpoint` gives them; vocabulary padding is cut.
        Adapters are merged before.
      source: The checkpoint that they started from, or what `keep_source` kept of it: tensors get
        the names and dtypes that they have there, and the other files are copied as they are.
        None or "" for a start from random parameters: f32 tensors and a Llama's config.json.
      output: The directory to make.
      special_ids: `bos_token_id` and the like, for a config.json that is written here.
      add: Writes further files, such as the tokenizer's, into the directory that it is given.

    Raises:
      UserError: If the output exists and is not empty, the parameters are not those of the config
        or have a scalar head or adapters, the config is not that of the source, Llama cannot
        express it, or a value is too large for the dtype of its tensor.
    """
    leaves = names.leaves(params)
    _check_params(config, leaves)
    if source:
        source = pathlib.Path(source)
        check_architecture(config, read_config(source), source)
        headers = directory.read_headers(source)
        directory.check_tensors(source, config, headers)
    else:
        settings = llama.write_config(config, special_ids or {})
        headers = {name: Stored("F32", entry.shape) for name, entry in _wanted(config).items()}
    with safetensors_files.whole_directory(pathlib.Path(output)) as place:
        _write_tensors(place, config, leaves, headers)
        if source:
            directory.copy_texts(source, place)
        else:
            safetensors_files.write_json(place / "config.json", settings)
        if add is not None:
            add(place)


def _wanted(config: ModelConfig) -> dict[str, names.Entry]:
    return names.by_name(config)


def _check_params(config: ModelConfig, leaves: dict[tuple[str, ...], jax.Array]) -> None:
    """Refuses parameters that no file has a place for, or that are not the config's."""
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
    place: pathlib.Path,
    config: ModelConfig,
    leaves: dict[tuple[str, ...], jax.Array],
    headers: dict[str, Stored],
) -> None:
    """Writes the weights in shards, and their index where there are several."""
    wanted = _wanted(config)

    def take(name: str) -> np.ndarray:
        if names.is_computed(name):
            return directory.read_whole(headers[name], name)
        entry = wanted.get(name) or wanted[names.EMBEDDING]  # a tied head that is stored
        leaf = leaves[entry.path]
        ours = leaf if entry.layer is None else leaf[entry.layer]
        return entry.to_file(_cast(name, np.asarray(ours), headers[name].dtype))

    shards = _shards(headers)
    placed = {}
    for number, layout in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors_files.write_tensors(place / file, layout, take)
        placed |= dict.fromkeys(layout, file)
    if len(shards) > 1:
        total = sum(
            safetensors_files.size_of(stored.dtype, stored.shape) for stored in headers.values()
        )
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        safetensors_files.write_json(place / "model.safetensors.index.json", index)


def _shards(headers: dict[str, Stored]) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
    """The tensors of each file, in their order, as many as fit in one."""
    shards, held = [{}], 0
    for name, stored in headers.items():
        size = safetensors_files.size_of(stored.dtype, stored.shape)
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append({})
            held = 0
        shards[-1][name] = stored.dtype, stored.shape
        held += size
    return shards


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    """A tensor in the dtype of its file; exact where it came from there and was not trained."""
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
