"""Exports low-rank adapters as PEFT stores them, so that PEFT loads them with their base model.

    blocks.attention.query_lora_in [Y, D, R]      ->  Y x ...self_attn.q_proj.lora_A.weight [R, D]
    blocks.attention.query_lora_out [Y, R, A, E]  ->  Y x ...self_attn.q_proj.lora_B.weight [A E, R]

Source: https://huggingface.co/docs/peft, "PEFT checkpoint format".
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import names, safetensors_files
from bstar_jax.hub.architecture import read_family
from bstar_jax.hub.directory import locate
from bstar_jax.hub.names import Entry, NameTable, Path
from bstar_jax.model import adapters

_PEFT_NAMES = {adapters.ENTER: "lora_A", adapters.LEAVE: "lora_B"}


def export_adapter(
    config: ModelConfig,
    params: dict,
    base: str,
    output: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
) -> None:
    """Writes adapters for PEFT: `adapter_config.json` and `adapter_model.safetensors`.

    Args:
      config: The model, with rank, alpha and targets of its adapters.
      params: The adapters alone, as `adapters.trained` returns them.
      base: Directory or hub name of the checkpoint that they belong to.
      output: The directory to make; it appears atomically.
      source: The checkpoint, or what `keep_source` kept of it, whose config.json says how tensors
        are named; `base` by default.

    Raises:
      UserError: If the model has no adapters, or the output exists and is not empty; or as
        `read_architecture` does.
    """
    if not config.lora_rank:
        raise UserError("model.lora_rank is 0, so there is no adapter; export the model itself")
    table = read_family(pathlib.Path(source or locate(base))).names[0]
    merged = adapters.merged_model(config)
    weights = names.entries(merged, table)
    _refuse_joined(merged, table)
    tensors = {
        name: tensor
        for path, leaf in names.leaves(params).items()
        for name, tensor in _tensors(config, weights, path, np.asarray(leaf, np.float32))
    }
    modules = sorted({_module(weights, path).rpartition(".")[2] for path in names.leaves(params)})
    within = r".*\.language_model\..*\.(" + "|".join(modules) + ")"
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": within if table.has_vision else modules,
    }
    with safetensors_files.new_directory(pathlib.Path(output)) as directory:
        specs = {name: ("F32", tensor.shape) for name, tensor in tensors.items()}
        safetensors_files.write_tensors(
            directory / "adapter_model.safetensors", specs, tensors.__getitem__
        )
        safetensors_files.write_json(directory / "adapter_config.json", settings)


def _refuse_joined(config: ModelConfig, table: NameTable) -> None:
    for name, parts in names.by_name(config, table).items():
        if len(parts) > 1:
            raise UserError(
                f"tensor {name} joins {len(parts)} matrices, whose adapters are no adapter of "
                "PEFT's; drop --adapter and export the merged model"
            )


def _tensors(
    config: ModelConfig, weights: dict[Path, tuple[Entry, ...]], path: Path, leaf: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and tensor of each layer of one adapter parameter."""
    part = next(part for part in _PEFT_NAMES if path[-1].endswith(part))
    for layer, ours in enumerate(leaf):
        module = _module(weights, path, layer)
        rows = ours.reshape(-1, config.lora_rank) if part == adapters.ENTER else ours
        flat = rows.reshape(len(rows), -1).T
        yield f"base_model.model.{module}.{_PEFT_NAMES[part]}.weight", np.ascontiguousarray(flat)


def _module(weights: dict[Path, tuple[Entry, ...]], path: Path, layer: int = 0) -> str:
    """The module whose weight an adapter parameter belongs to, as Transformers calls it."""
    name = path[-1].removesuffix(adapters.ENTER).removesuffix(adapters.LEAVE)
    return weights[(*path[:-1], name)][layer].name.removesuffix(".weight")
