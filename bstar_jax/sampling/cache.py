"""Keys and values while decoding: prompts once a lane, responses once a slot.

    prompt part    [Y, D, U, K, G, P, E]     K prompts a lane, shared by its R slots; where every
                                             query has a lane of its own, the prompts themselves
    response part  [Y, D, U, G, R, L, E]     column a holds the slot's token a

D shards stand side by side and never read each other's part. What a step writes is whole rows of
E, so that on no backend the layout of the cache changes between reading and writing.

A slot writes at the age of its own response. A ring in which all slots write the same column
would need one slice a step instead of a column a slot, but then the order in which a response's
tokens are added up would hang on the step it began at, and its bytes with it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from bstar_jax import sharding
from bstar_jax.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What attention reads.

    Attributes:
      prompt_key: [Y, D, U, K, G, P, E]; None where K is 1: lane u reads prompt u.
      prompt_value: Alike.
      key: [Y, D, U, G, R, L, E].
      value: [Y, D, U, G, R, L, E].
    """

    prompt_key: jax.Array | None
    prompt_value: jax.Array | None
    key: jax.Array
    value: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """The prompts of a unit, kept once.

    Attributes:
      key: [Y, D, Q, G, P, E].
      value: [Y, D, Q, G, P, E].
    """

    key: jax.Array
    value: jax.Array


# Logical axes of Prompts, and of the two parts of Cache.
PROMPT_AXES = ("layers", "batch", None, "kv_heads", None, None)
LANE_AXES = ("layers", "batch", None, None, "kv_heads", None, None)
SLOT_AXES = ("layers", "batch", None, "kv_heads", None, None, None)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty_prompts(config: ModelConfig, shards: int, queries: int, length: int) -> Prompts:
    """Room for prompts of up to `length` tokens."""
    before = (config.layers, shards, queries, config.kv_heads)
    room = jnp.zeros((*before, length, config.width_per_head), config.dtype)
    room = sharding.constrain(room, *PROMPT_AXES)
    return Prompts(room, room)


def start(config: ModelConfig, prompts: Prompts, shape: tuple[int, int, int], columns: int):
    """A cache whose lanes hold the first prompts of their shard.

    Args:
      config: The model.
      prompts: All prompts.
      shape: (U, R, K).
      columns: L.
    """
    lanes, slots, sides = shape

    def fan_out(part):
        first = part[:, :, :lanes, None]
        room = [(0, 0)] * first.ndim
        room[2], room[3] = (0, lanes - first.shape[2]), (0, sides - 1)
        return sharding.constrain(jnp.pad(first, room), *LANE_AXES)

    before = (*prompts.key.shape[:2], lanes, config.kv_heads, slots)
    own = jnp.zeros((*before, columns, config.width_per_head), config.dtype)
    own = sharding.constrain(own, *SLOT_AXES)
    if sides == 1:
        return Cache(None, None, own, own)
    return Cache(fan_out(prompts.key), fan_out(prompts.value), own, own)


def in_place(cache: Cache) -> Cache:
    """The cache as its parts lie on the mesh."""

    def place(part: Any, axes: tuple[str | None, ...]) -> Any:
        return None if part is None else sharding.constrain(part, *axes)

    return Cache(
        prompt_key=place(cache.prompt_key, LANE_AXES),
        prompt_value=place(cache.prompt_value, LANE_AXES),
        key=place(cache.key, SLOT_AXES),
        value=place(cache.value, SLOT_AXES),
    )


def load(cache: Cache, prompts: Prompts, lane_D, side_D, query_D) -> Cache:
    """Copies one prompt of each shard into a lane's side."""

    def copy(part, prompt, lane_D, side_D, query_D):
        chosen = jax.lax.dynamic_slice_in_dim(prompt, query_D[0], 1, axis=2)[:, :, :, None]
        corner = (0, 0, lane_D[0], side_D[0], 0, 0, 0)
        return jax.lax.dynamic_update_slice(part, chosen, corner)

    shard = ("batch",)
    copy = _on_shards(copy, (LANE_AXES, PROMPT_AXES, shard, shard, shard), LANE_AXES)
    place = (lane_D, side_D, query_D)
    return dataclasses.replace(
        cache,
        prompt_key=copy(cache.prompt_key, prompts.key, *place),
        prompt_value=copy(cache.prompt_value, prompts.value, *place),
    )


def write(cache: Cache, age: jax.Array, key: jax.Array, value: jax.Array) -> Cache:
    """Writes one token a slot, [Y, D, U, G, R, E], at its column `age` [D, U, R]."""

    def put(part, token, age):
        y, d, u, g, r = (
            jnp.expand_dims(jnp.arange(size), [place for place in range(5) if place != axis])
            for axis, size in enumerate(token.shape[:5])
        )
        return part.at[y, d, u, g, r, age[None, :, :, None]].set(token, mode="drop")

    put = _on_shards(put, (SLOT_AXES, SLOT_AXES[:-1], ("batch",)), SLOT_AXES)
    return dataclasses.replace(
        cache, key=put(cache.key, key, age), value=put(cache.value, value, age)
    )


def _on_shards(function, arguments, result):
    """The function on every device's own part, given the logical axes of what it takes and gives.

    Left to itself the compiler makes an update at a shard's place an update over all shards, with
    copies of the cache and exchanges between devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function

    def place(axes):
        return sharding.spec(axes, sharding.SAMPLING)

    in_specs = tuple(map(place, arguments))
    return jax.shard_map(function, in_specs=in_specs, out_specs=place(result), check_vma=False)


def grow(cache: Cache, columns: int) -> Cache:
    """The same cache with more columns for responses."""
    room = [(0, 0)] * cache.key.ndim
    room[5] = (0, columns - cache.key.shape[5])
    return dataclasses.replace(
        cache, key=jnp.pad(cache.key, room), value=jnp.pad(cache.value, room)
    )


def keep_slots(cache: Cache, slot_DUR: jax.Array) -> Cache:
    """The cache with these slots only, as many in every lane."""
    index = slot_DUR[None, :, :, None, :, None, None]
    return dataclasses.replace(
        cache,
        key=jnp.take_along_axis(cache.key, index, axis=4),
        value=jnp.take_along_axis(cache.value, index, axis=4),
    )
