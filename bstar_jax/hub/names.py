"""The one table between parameters and the tensors of a file, read in both directions.

A tensor of a file holds one layer of a parameter, with its dimensions in another order and some of
them joined. So an entry of the table says two things: the tensor's name, and which dimensions of
ours each of its dimensions joins. Values never change: the rotary layout is the same, and where
norms scale by 1 + their parameter (Gemma), ours do too.

    blocks.attention.query [Y, D, A, E]  <->  Y x model.layers.<y>.self_attn.q_proj.weight [A E, D]
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bstar_jax import model
from bstar_jax.config import ModelConfig

Path = tuple[str, ...]
"""Keys of a parameter in the nested dict, such as ("blocks", "attention", "query")."""


class Tensor(NamedTuple):
    """How a file holds one parameter, or each layer of one.

    Attributes:
      name: Name of the tensor; `{layer}` stands for the number of the layer.
      dims: For each dimension of the tensor, the dimensions of ours that it joins, the layer's
        not counted.
    """

    name: str
    dims: tuple[tuple[int, ...], ...]


# Ways in which a tensor has our dimensions.
_SAME = ((0,),)
_MATRIX = ((0,), (1,))
_TRANSPOSED = ((1,), (0,))
_JOINED = ((0, 1),)  # [A, E] -> [A E]
_HEADS_FIRST = ((1, 2), (0,))  # [D, A, E] -> [A E, D]
_HEADS_LAST = ((2,), (0, 1))  # [A, E, D] -> [D, A E]

_BLOCK = "model.layers.{layer}"


def norm_of_layer(name: str) -> Tensor:
    """The scale of a norm that every layer has, such as `input_layernorm`."""
    return Tensor(f"{_BLOCK}.{name}.weight", _SAME)


@dataclasses.dataclass(frozen=True, eq=False)
class NameTable:
    """The tensors of the files of one family. Tables are compared and hashed by identity.

    Attributes:
      tensors: For the dotted path of a parameter, the tensor that holds it. Parameters that a
        model does not have are never looked up.
    """

    tensors: Mapping[str, Tensor]

    def changed(self, tensors: Mapping[str, Tensor]) -> NameTable:
        """The table of a family in which some tensors differ."""
        return NameTable({**self.tensors, **tensors})

    @property
    def embedding(self) -> str:
        """Name of the tensor of the embedding."""
        return self.tensors["embedding"].name

    @property
    def head(self) -> str:
        """Name of the tensor of the head."""
        return self.tensors["head"].name


LLAMA_NAMES = NameTable(
    {
        "embedding": Tensor("model.embed_tokens.weight", _MATRIX),
        "final_norm.scale": Tensor("model.norm.weight", _SAME),
        "head": Tensor("lm_head.weight", _TRANSPOSED),
        "blocks.attention.query": Tensor(f"{_BLOCK}.self_attn.q_proj.weight", _HEADS_FIRST),
        "blocks.attention.key": Tensor(f"{_BLOCK}.self_attn.k_proj.weight", _HEADS_FIRST),
        "blocks.attention.value": Tensor(f"{_BLOCK}.self_attn.v_proj.weight", _HEADS_FIRST),
        "blocks.attention.output": Tensor(f"{_BLOCK}.self_attn.o_proj.weight", _HEADS_LAST),
        "blocks.attention.query_bias": Tensor(f"{_BLOCK}.self_attn.q_proj.bias", _JOINED),
        "blocks.attention.key_bias": Tensor(f"{_BLOCK}.self_attn.k_proj.bias", _JOINED),
        "blocks.attention.value_bias": Tensor(f"{_BLOCK}.self_attn.v_proj.bias", _JOINED),
        "blocks.attention.output_bias": Tensor(f"{_BLOCK}.self_attn.o_proj.bias", _SAME),
        "blocks.attention.query_norm.scale": norm_of_layer("self_attn.q_norm"),
        "blocks.attention.key_norm.scale": norm_of_layer("self_attn.k_norm"),
        "blocks.feed_forward.gate": Tensor(f"{_BLOCK}.mlp.gate_proj.weight", _TRANSPOSED),
        "blocks.feed_forward.up": Tensor(f"{_BLOCK}.mlp.up_proj.weight", _TRANSPOSED),
        "blocks.feed_forward.down": Tensor(f"{_BLOCK}.mlp.down_proj.weight", _TRANSPOSED),
        "blocks.feed_forward.gate_bias": Tensor(f"{_BLOCK}.mlp.gate_proj.bias", _SAME),
        "blocks.feed_forward.up_bias": Tensor(f"{_BLOCK}.mlp.up_proj.bias", _SAME),
        "blocks.feed_forward.down_bias": Tensor(f"{_BLOCK}.mlp.down_proj.bias", _SAME),
        "blocks.attention_norm.scale": norm_of_layer("input_layernorm"),
        "blocks.feed_forward_norm.scale": norm_of_layer("post_attention_layernorm"),
    }
)
"""The names that most families share."""

# Stored by old versions of Transformers; newer ones compute them.
_COMPUTED = re.compile(r"(^|\.)rotary_emb\.inv_freq$")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of a file, and the parameter that it holds, or the layer of one.

    Attributes:
      name: Name of the tensor.
      path: Keys of the parameter.
      layer: Number of the layer, from 0; None where the parameter has no layers.
      sizes: Sizes of our dimensions, without the layer's, at the true vocabulary.
      dims: As in `Tensor`.
    """

    name: str
    path: Path
    layer: int | None
    sizes: tuple[int, ...]
    dims: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the file's tensor."""
        return tuple(math.prod(self.sizes[dim] for dim in joined) for joined in self.dims)

    @property
    def order(self) -> tuple[int, ...]:
        """Our dimensions in the order in which the file has them."""
        return tuple(dim for joined in self.dims for dim in joined)

    def to_file(self, ours: np.ndarray) -> np.ndarray:
        """The file's tensor for a parameter, or for one layer of it.

        Example: query [D=2, A=4, E=3] -> [12, 2].

        Args:
          ours: Values with our dimensions; vocabulary padding is cut off.
        """
        cut = ours[tuple(slice(size) for size in self.sizes)]
        return np.ascontiguousarray(cut.transpose(self.order)).reshape(self.shape)


@functools.lru_cache(maxsize=32)
def shapes(config: ModelConfig) -> dict[Path, tuple[int, ...]]:
    """The shape of every parameter of a model, without vocabulary padding."""
    tree = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))
    return {path: leaf.shape for path, leaf in leaves(tree).items()}


@functools.lru_cache(maxsize=32)
def axes(config: ModelConfig) -> dict[Path, tuple[str, ...]]:
    """The logical axes of every parameter of a model."""
    tree = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))
    return dict(zip(leaves(tree), model.logical_axes(config, tree), strict=True))


def leaves(params: dict) -> dict[Path, jax.Array]:
    """The arrays of a nested dict by their keys."""
    found, _ = jax.tree_util.tree_flatten_with_path(params)
    return {tuple(entry.key for entry in path): leaf for path, leaf in found}


def nest(arrays: Mapping[Path, jax.Array]) -> dict:
    """The nested dict that has these `leaves`."""
    tree: dict[str, Any] = {}
    for path, leaf in arrays.items():
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = leaf
    return tree


@functools.lru_cache(maxsize=32)
def entries(config: ModelConfig, table: NameTable) -> dict[Path, tuple[Entry, ...]]:
    """The tensors that hold every parameter: one, or one for each layer.

    Raises:
      KeyError: If the table lacks a parameter, such as an adapter.
    """
    found = {}
    for path, shape in shapes(config).items():
        name, dims = table.tensors[".".join(path)]
        if path[0] != "blocks":
            found[path] = (Entry(name, path, None, shape, dims),)
            continue
        found[path] = tuple(
            Entry(name.format(layer=layer), path, layer, shape[1:], dims)
            for layer in range(shape[0])
        )
    return found


def by_name(config: ModelConfig, table: NameTable) -> dict[str, Entry]:
    """The tensors that a file must hold, by their names."""
    return {entry.name: entry for layers in entries(config, table).values() for entry in layers}


def is_computed(name: str) -> bool:
    """Whether Transformers computes this tensor itself and ignores the stored one."""
    return bool(_COMPUTED.search(name))


def is_spare(config: ModelConfig, table: NameTable, name: str) -> bool:
    """Whether a file may hold this tensor although the model does not need it."""
    return is_computed(name) or (config.tied and name == table.head)
