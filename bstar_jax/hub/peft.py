"""Low-rank adapters into the directory of a PEFT adapter, which PEFT loads beside the base model.

    blocks.attention.query_lora_in [Y, D, R]      ->  Y x ...self_attn.q_proj.lora_A.weight [R, D]
    blocks.attention.query_lora_out [Y, R, A, E]  ->  Y x ...self_attn.q_proj.lora_B.weight [A E, R]

Source: https://huggingface.co/docs/peft, "PEFT checkpoint format".
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import names, safetensors_files
from bstar_jax.model import adapters

_PARTS = {adapters.ENTER: "lora_A", adapters.LEAVE: "lora_B"}


def export_adapter(config: ModelConfig, params: dict, base: str, output: str | os.PathLike) -> None:
    """Writes adapters for PEFT: `adapter_config.json` and `adapter_model.safetensors`.

    Args:
      config: The model, with its adapters' rank, alpha and targets.
      params: The adapters alone, as `adapters.trained` gives them.
      base: Directory or hub name of the checkpoint that they belong to.
      output: The directory to make, whole or not at all.

    Raises:
      UserError: If the model has no adapters, or the output exists and is not empty.
    """
    if not config.lora_rank:
        raise UserError("model.lora_rank is 0, so there is no adapter; export the model itself")
    tensors = {
        name: tensor
        for path, leaf in names.leaves(params).items()
        for name, tensor in _tensors(config, path, np.asarray(leaf, np.float32))
    }
    weights = names.entries(adapters.without(config))
    modules = sorted({_module(weights, path).rpartition(".")[2] for path in names.leaves(params)})
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
        "target_modules": modules,
    }
    with safetensors_files.whole_directory(pathlib.Path(output)) as place:
        layout = {name: ("F32", tensor.shape) for name, tensor in tensors.items()}
        safetensors_files.write_tensors(
            place / "adapter_model.safetensors", layout, tensors.__getitem__
        )
        safetensors_files.write_json(place / "adapter_config.json", settings)


def _tensors(config: ModelConfig, path: tuple[str, ...], leaf: np.ndarray):
    """Names and tensors of one parameter, a pair each layer."""
    part = next(part for part in _PARTS if path[-1].endswith(part))
    weights = names.entries(adapters.without(config))
    for layer, ours in enumerate(leaf):
        module = _module(weights, path, layer)
        rows = ours.reshape(-1, config.lora_rank) if part == adapters.ENTER else ours
        flat = rows.reshape(len(rows), -1).T
        yield f"base_model.model.{module}.{_PARTS[part]}.weight", np.ascontiguousarray(flat)


def _module(weights, path: tuple[str, ...], layer: int = 0) -> str:
    """The module whose weight an adapter belongs to, as Transformers calls it."""
    name = path[-1].removesuffix(adapters.ENTER).removesuffix(adapters.LEAVE)
    return weights[(*path[:-1], name)][layer].name.removesuffix(".weight")
