"""The one table between parameters and the tensors of a Hugging Face file, read in both directions.

A tensor of a file holds one layer of a parameter, its dimensions in another order and some of
them joined. So one entry says all: under which name, and which dimensions of ours each dimension
of the file joins. Values are never changed: the rotary layout is the same, and where norms scale
by 1 + their parameter (Gemma) ours do too.

    blocks.attention.query [Y, D, A, E]  <->  Y x model.layers.<y>.self_attn.q_proj.weight [A E, D]
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import jax
import numpy as np

from bstar_jax import model
from bstar_jax.config import ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# Dimensions of ours, the layer's left out, that each dimension of the file's tensor joins.
_AS_IT_IS = ((0,),)
_JOINED = ((0, 1),)
_TURNED = ((1,), (0,))
_SPLIT = ((1, 2), (0,))
_MIXED = ((2,), (0, 1))

_WHOLE = {
    "embedding": (EMBEDDING, ((0,), (1,))),
    "final_norm.scale": ("model.norm.weight", _AS_IT_IS),
    "head": (HEAD, _TURNED),
}

_OF_LAYER = {
    "attention.query": ("self_attn.q_proj.weight", _SPLIT),
    "attention.key": ("self_attn.k_proj.weight", _SPLIT),
    "attention.value": ("self_attn.v_proj.weight", _SPLIT),
    "attention.output": ("self_attn.o_proj.weight", _MIXED),
    "attention.query_bias": ("self_attn.q_proj.bias", _JOINED),
    "attention.key_bias": ("self_attn.k_proj.bias", _JOINED),
    "attention.value_bias": ("self_attn.v_proj.bias", _JOINED),
    "attention.output_bias": ("self_attn.o_proj.bias", _AS_IT_IS),
    "attention.query_norm.scale": ("self_attn.q_norm.weight", _AS_IT_IS),
    "attention.key_norm.scale": ("self_attn.k_norm.weight", _AS_IT_IS),
    "feed_forward.gate": ("mlp.gate_proj.weight", _TURNED),
    "feed_forward.up": ("mlp.up_proj.weight", _TURNED),
    "feed_forward.down": ("mlp.down_proj.weight", _TURNED),
    "feed_forward.gate_bias": ("mlp.gate_proj.bias", _AS_IT_IS),
    "feed_forward.up_bias": ("mlp.up_proj.bias", _AS_IT_IS),
    "feed_forward.down_bias": ("mlp.down_proj.bias", _AS_IT_IS),
    "attention_norm.scale": ("input_layernorm.weight", _AS_IT_IS),
}

# What a norm is called depends on whether a layer has two of them or four.
_TWO_NORMS = {"feed_forward_norm.scale": ("post_attention_layernorm.weight", _AS_IT_IS)}
_FOUR_NORMS = {
    "attention_post_norm.scale": ("post_attention_layernorm.weight", _AS_IT_IS),
    "feed_forward_norm.scale": ("pre_feedforward_layernorm.weight", _AS_IT_IS),
    "feed_forward_post_norm.scale": ("post_feedforward_layernorm.weight", _AS_IT_IS),
}

# Stored by old versions of Transformers, which now computes them.
_COMPUTED = re.compile(r"(^|\.)rotary_emb\.inv_freq$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of a file, and the parameter or the layer of one that it holds.

    Attributes:
      name: In the file.
      path: Keys of the parameter.
      layer: Which one, from 0; None where the parameter has no layers.
      sizes: Of our dimensions, the layer's left out, at the true vocabulary.
      dims: Which of them each dimension of the file joins.
    """

    name: str
    path: tuple[str, ...]
    layer: int | None
    sizes: tuple[int, ...]
    dims: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the file's tensor."""
        return tuple(math.prod(self.sizes[dim] for dim in joined) for joined in self.dims)

    @property
    def order(self) -> tuple[int, ...]:
        """Our dimensions as the file has them."""
        return tuple(dim for joined in self.dims for dim in joined)

    def to_file(self, ours: np.ndarray) -> np.ndarray:
        """What the file holds of a parameter, or of one layer of it.

        Example: query [D=2, A=4, E=3] -> [12, 2].

        Args:
          ours: Values in our order; vocabulary padding is cut.
        """
        cut = ours[tuple(slice(size) for size in self.sizes)]
        return np.ascontiguousarray(cut.transpose(self.order)).reshape(self.shape)


@functools.lru_cache(maxsize=32)
def shapes(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of every parameter of a model, by its keys, at the true vocabulary."""
    tree = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))
    return {path: leaf.shape for path, leaf in leaves(tree).items()}


@functools.lru_cache(maxsize=32)
def axes(config: ModelConfig) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The logical axes of every parameter of a model, by its keys."""
    tree = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))
    return dict(zip(leaves(tree), model.axes_of(config, tree), strict=True))


def leaves(params: dict) -> dict[tuple[str, ...], jax.Array]:
    """The arrays of a nested dict, by their keys."""
    found, _ = jax.tree_util.tree_flatten_with_path(params)
    return {tuple(entry.key for entry in path): leaf for path, leaf in found}


def nest(flat: dict[tuple[str, ...], jax.Array]) -> dict:
    """The nested dict whose `leaves` these are."""
    tree = {}
    for path, leaf in flat.items():
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = leaf
    return tree


@functools.lru_cache(maxsize=32)
def entries(config: ModelConfig) -> dict[tuple[str, ...], tuple[Entry, ...]]:
    """What a file holds of every parameter, by its keys: one tensor, or one for each layer.

    Raises:
      KeyError: If there is a parameter that no file has, such as an adapter.
    """
    of_layer = _OF_LAYER | (_FOUR_NORMS if config.post_norms else _TWO_NORMS)
    table = {}
    for path, shape in shapes(config).items():
        if path[0] != "blocks":
            name, dims = _WHOLE[".".join(path)]
            table[path] = (Entry(name, path, None, shape, dims),)
            continue
        name, dims = of_layer[".".join(path[1:])]
        table[path] = tuple(
            Entry(f"model.layers.{layer}.{name}", path, layer, shape[1:], dims)
            for layer in range(shape[0])
        )
    return table


def by_name(config: ModelConfig) -> dict[str, Entry]:
    """The tensors that a file has to hold, by their names."""
    return {entry.name: entry for layers in entries(config).values() for entry in layers}


def is_computed(name: str) -> bool:
    """Whether a file's tensor is one that Transformers computes itself, and passes over."""
    return bool(_COMPUTED.search(name))


def is_spare(config: ModelConfig, name: str) -> bool:
    """Whether a file may hold this tensor although the model does not need it."""
    return is_computed(name) or (config.tied and name == HEAD)
