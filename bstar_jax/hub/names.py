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
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bstar_jax import model
from bstar_jax.config import ModelConfig

Path = tuple[str, ...]
"""Keys of a parameter in the nested dict, such as ("blocks", "attention", "query")."""


class Tensor(NamedTuple):
    """The form in which a file stores one parameter, or each layer of one.

    Attributes:
      name: Name of the tensor; `{layer}` stands for the number of the layer.
      dims: For each dimension of the tensor, the dimensions of ours that it joins, the layer's
        not counted.
      behind: Dotted paths of the parameters that the tensor holds before this one, along its first
        dimension.
    """

    name: str
    dims: tuple[tuple[int, ...], ...]
    behind: tuple[str, ...] = ()


# Ways in which a tensor has our dimensions.
_SAME = ((0,),)
_MATRIX = ((0,), (1,))
_TRANSPOSED = ((1,), (0,))
_JOINED = ((0, 1),)  # [A, E] -> [A E]
_HEADS_FIRST = ((1, 2), (0,))  # [D, A, E] -> [A E, D]
_HEADS_LAST = ((2,), (0, 1))  # [A, E, D] -> [D, A E]

_BLOCK = "model.layers.{layer}"
_ATTENTION, _FEED_FORWARD = "blocks.attention", "blocks.feed_forward"


def norm_of_layer(name: str, *, joins_heads: bool = False) -> Tensor:
    """The scale of a norm that every layer has, such as `input_layernorm`."""
    return Tensor(f"{_BLOCK}.{name}.weight", _JOINED if joins_heads else _SAME)


@dataclasses.dataclass(frozen=True, eq=False)
class NameTable:
    """The tensors of the files of one family. Tables are compared and hashed by identity.

    Attributes:
      tensors: For the dotted path of a parameter, the tensor that holds it. Parameters that a
        model does not have are never looked up.
      has_vision: Whether files also hold a vision tower, which is left as it is.
    """

    tensors: Mapping[str, Tensor]
    has_vision: bool = False

    def changed(self, tensors: Mapping[str, Tensor]) -> NameTable:
        """Returns the table with some tensors replaced, for a family that differs in these."""
        return NameTable({**self.tensors, **tensors}, self.has_vision)

    def moved(self, model: str, head: str) -> NameTable:
        """Returns the table of a language model within a model that also sees.

        Args:
          model: What stands for `model.` at the beginning of names.
          head: Name of the tensor of the head.
        """
        tensors = {
            path: tensor._replace(name=model + tensor.name.removeprefix("model."))
            for path, tensor in self.tensors.items()
        }
        tensors["head"] = self.tensors["head"]._replace(name=head)
        return NameTable(tensors, has_vision=True)

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

JOINED_NAMES = LLAMA_NAMES.changed(
    {
        f"{_ATTENTION}.query": Tensor(f"{_BLOCK}.self_attn.qkv_proj.weight", _HEADS_FIRST),
        f"{_ATTENTION}.key": Tensor(
            f"{_BLOCK}.self_attn.qkv_proj.weight", _HEADS_FIRST, (f"{_ATTENTION}.query",)
        ),
        f"{_ATTENTION}.value": Tensor(
            f"{_BLOCK}.self_attn.qkv_proj.weight", _HEADS_FIRST,
            (f"{_ATTENTION}.query", f"{_ATTENTION}.key"),
        ),
        f"{_FEED_FORWARD}.gate": Tensor(f"{_BLOCK}.mlp.gate_up_proj.weight", _TRANSPOSED),
        f"{_FEED_FORWARD}.up": Tensor(
            f"{_BLOCK}.mlp.gate_up_proj.weight", _TRANSPOSED, (f"{_FEED_FORWARD}.gate",)
        ),
    }
)  # fmt: skip
"""The names of a family that joins queries, keys and values in one tensor, and gate and up."""

# Stored by old versions of Transformers; newer ones compute them.
_COMPUTED = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
# The parts of a model that also sees, in both of its layouts.
_VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of a file, and the parameter that it holds, or the layer of one.

    Attributes:
      name: Name of the tensor.
      path: Keys of the parameter.
      layer: Number of the layer, from 0; None where the parameter has no layers.
      sizes: Sizes of our dimensions, without the layer's, at the true vocabulary.
      dims: As in `Tensor`.
      start: Where it begins along the first dimension of its tensor.
    """

    name: str
    path: Path
    layer: int | None
    sizes: tuple[int, ...]
    dims: tuple[tuple[int, ...], ...]
    start: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the file's tensor, or of the part of it that is this parameter's."""
        return tuple(math.prod(self.sizes[dim] for dim in joined) for joined in self.dims)

    @property
    def order(self) -> tuple[int, ...]:
        """Our dimensions in the order in which the file has them."""
        return tuple(dim for joined in self.dims for dim in joined)

    def to_file(self, ours: np.ndarray) -> np.ndarray:
        """The file's tensor, or the part of it, for a parameter or for one layer of it.

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
        name, dims, behind = table.tensors[".".join(path)]
        if path[0] != "blocks":
            found[path] = (Entry(name, path, None, shape, dims),)
            continue
        before = [tuple(other.split(".")) for other in behind]
        start = sum(_rows(shapes(config)[other][1:], dims) for other in before)
        found[path] = tuple(
            Entry(name.format(layer=layer), path, layer, shape[1:], dims, start)
            for layer in range(shape[0])
        )
    return found


def _rows(sizes: tuple[int, ...], dims: tuple[tuple[int, ...], ...]) -> int:
    """Size of the first dimension of the tensor, or part of one, that holds a parameter."""
    return math.prod(sizes[dim] for dim in dims[0])


@functools.lru_cache(maxsize=32)
def by_name(config: ModelConfig, table: NameTable) -> dict[str, tuple[Entry, ...]]:
    """The tensors that a file must hold, by their names; several parameters where it joins them."""
    found: dict[str, tuple[Entry, ...]] = {}
    for layers in entries(config, table).values():
        for entry in layers:
            parts = (*found.get(entry.name, ()), entry)
            found[entry.name] = tuple(sorted(parts, key=lambda part: part.start))
    return found


def file_shape(parts: tuple[Entry, ...]) -> tuple[int, ...]:
    """Shape of the tensor that these parts make together."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def choose(tables: tuple[NameTable, ...], stored: Iterable[str]) -> NameTable:
    """The table whose names the stored tensors have; the first if none has them."""
    stored = frozenset(stored)
    return next((table for table in tables if table.embedding in stored), tables[0])


def is_computed(name: str) -> bool:
    """Whether Transformers computes this tensor itself and ignores the stored one."""
    return bool(_COMPUTED.search(name))


def is_spare(config: ModelConfig, table: NameTable, name: str) -> bool:
    """Whether a file may hold this tensor although the model does not need it."""
    is_head = config.tied and name == table.head
    return is_computed(name) or is_head or (table.has_vision and is_vision(name))


def is_vision(name: str) -> bool:
    """Whether this tensor belongs to the part of a model that sees."""
    return bool(_VISION.match(name))
