"""Which parameters are trained: all, the weights of the layers, or low-rank adapters to them.

Low-rank adapters (LoRA, arXiv:2106.09685) are trained in place of the weights that they adapt. A
weight W [in, out] with an adapter A [in, R], B [R, out] acts as

    W + alpha / R * A B

Training changes only A and B, and its checkpoints hold only these; sampling reads the sum.
"""

from __future__ import annotations

import dataclasses
import functools
import string
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bstar_jax.config import ModelConfig
from bstar_jax.config.model import LORA_TARGETS
from bstar_jax.model.parameters import init as init_parameters

ENTER, LEAVE = "_lora_in", "_lora_out"


def all_train(config: ModelConfig) -> bool:
    """Whether training changes every parameter."""
    return config.lora_rank == 0 and config.trained == "all"


def trained(config: ModelConfig, params: dict) -> dict:
    """The parameters that training changes: adapters if there are any, else by `config.trained`.

    Example: {"embedding": e, "blocks": {"attention": {"query": q, "query_lora_in": a, ...}}} ->
    {"blocks": {"attention": {"query_lora_in": a, ...}}}
    """
    return params if all_train(config) else _pick(params, _wanted(config))


def trained_shapes(config: ModelConfig) -> dict:
    """Shapes of the parameters that training changes, without vocabulary padding."""
    init = functools.partial(init_parameters, config)
    return trained(config, jax.eval_shape(init, jax.random.key(0)))


def frozen(config: ModelConfig, params: dict) -> dict:
    """The parameters that training leaves as they are; {} where it changes all."""
    is_trained = _wanted(config)
    return {} if all_train(config) else _pick(params, lambda name: not is_trained(name))


def combine(*parts: dict) -> dict:
    """Parameters put together from parts that have no leaf in common."""
    combined: dict = {}
    for part in parts:
        for name, value in part.items():
            is_shared = isinstance(value, dict) and name in combined
            combined[name] = combine(combined[name], value) if is_shared else value
    return combined


def merged_model(config: ModelConfig) -> ModelConfig:
    """The config of the model after `merge_into_weights`: no adapters, all of it trained."""
    return dataclasses.replace(config, lora_rank=0, trained="all")


def merge_into_weights(config: ModelConfig, params: dict) -> dict:
    """Adds every adapter to its weight, in f32, and rounds the sum to the weight's dtype.

    This runs on the devices and keeps the sharding. Parameters of a model without adapters are
    returned as they are.
    """
    return _merge(config, params) if config.lora_rank else params


@functools.partial(jax.jit, static_argnames="config")
def _merge(config: ModelConfig, params: dict) -> dict:
    def sums(tree: dict) -> dict:
        merged = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                merged[name] = sums(value)
            elif name + ENTER in tree:
                added = product(tree[name + ENTER], tree[name + LEAVE])
                added = config.lora_alpha / config.lora_rank * added
                merged[name] = (value.astype(jnp.float32) + added).astype(value.dtype)
            elif not _is_adapter(name):
                merged[name] = value
        return merged

    return sums(params)


def product(enter: jax.Array, leave: jax.Array) -> jax.Array:
    """A B of every layer, f32: [Y, *in, R], [Y, R, *out] -> [Y, *in, *out]."""
    letters = string.ascii_lowercase
    into = letters[: enter.ndim - 2]
    out = letters[len(into) : len(into) + leave.ndim - 2]
    equation = f"y{into}z,yz{out}->y{into}{out}"
    return jnp.einsum(equation, enter, leave, precision=jax.lax.Precision.HIGHEST)


def init_adapters(config: ModelConfig, key: jax.Array) -> dict:
    """Adapters that change nothing yet (A is noise, B is zero), a function of config and key."""
    return init_parameters(config, key, _is_adapter)


def _wanted(config: ModelConfig) -> Callable[[str], bool]:
    """Says by its name whether training changes a parameter, where it leaves some unchanged."""
    return _is_adapter if config.lora_rank else _is_weight


def _is_weight(name: str) -> bool:
    return name.removesuffix("_bias") in LORA_TARGETS


def _is_adapter(name: str) -> bool:
    return name.endswith((ENTER, LEAVE))


def _pick(tree: dict, is_wanted: Callable[[str], bool]) -> dict:
    """The leaves whose names are wanted, in the nested dict that they come from."""
    picked = {}
    for name, value in tree.items():
        inner = _pick(value, is_wanted) if isinstance(value, dict) else value
        if inner if isinstance(value, dict) else is_wanted(name):
            picked[name] = inner
    return picked
