"""Which response stands in which slot: refilled on the device, a function of the work alone.

A shard of the mesh works through queries of its own, Q of them, with N responses each. It has U
lanes of R slots. A lane holds the prompts of up to two queries, so that it begins the next one
while the last responses of the one before still run:

    lane    prompts      slots
    0       q3 (q5)      q3.6  q3.7  q5.0  q3.2
    1       q4 (q6)      q4.1  q4.5  q4.6  q4.7

Every step, a slot whose response has ended begins the next response of its lane's query; a lane
that has a free place fetches the next query, in order; and a lane that finds none left helps the
query with the most responses left. The host has no part in it. A row is a response of the unit:
query * N + response.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """The slots of a shard.

    Attributes:
      row_UR: The row that the slot draws, int32; -1 where it is free.
      side_UR: Which of the lane's prompts is the row's.
      age_UR: Tokens drawn so far.
      token_UR: The token to feed next.
      stop_UR: State of the automaton of stop strings.
    """

    row_UR: jax.Array
    side_UR: jax.Array
    age_UR: jax.Array
    token_UR: jax.Array
    stop_UR: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """The lanes of a shard, and what is left to do.

    Attributes:
      query_UK: The queries whose prompts a lane holds, K = 1 or 2 of them, int32; -1 is none.
      side_U: The one whose responses begin now.
      begun_Q: Responses begun of each query; N for queries that only fill the unit.
      fetched_1: Queries that some lane has fetched: the first ones. (Of an array without axes
        beside the shards JAX forgets where it lies, and compiles anew.)
    """

    query_UK: jax.Array
    side_U: jax.Array
    begun_Q: jax.Array
    fetched_1: jax.Array


def start(num_lanes: int, num_slots: int, sides: int, real: jax.Array, sizes: tuple[int, int]):
    """All slots free; lane u holds the prompt of query u.

    Args:
      num_lanes: U.
      num_slots: R.
      sides: K.
      real: Queries that are not there to fill the unit, int32 scalar; they come first.
      sizes: (Q, N).
    """
    num_queries, num_samples = sizes
    lane_U = jnp.arange(num_lanes, dtype=jnp.int32)
    query_UK = jnp.full((num_lanes, sides), -1, jnp.int32)
    query_UK = query_UK.at[:, 0].set(jnp.where(lane_U < real, lane_U, -1))
    nothing_UR = jnp.zeros((num_lanes, num_slots), jnp.int32)
    is_real_Q = jnp.arange(num_queries) < real
    return (
        Slots(nothing_UR - 1, nothing_UR, nothing_UR, nothing_UR, nothing_UR),
        Lanes(
            query_UK=query_UK,
            side_U=jnp.zeros(num_lanes, jnp.int32),
            begun_Q=jnp.where(is_real_Q, 0, num_samples).astype(jnp.int32),
            fetched_1=jnp.minimum(num_lanes, real).astype(jnp.int32)[None],
        ),
    )


def fetch(slots: Slots, lanes: Lanes, real: jax.Array, num_samples: int):
    """Gives one lane, if any has a free place, the prompt that it needs next.

    Returns:
      The lanes, and (lane, side, query) whose prompt is to be copied there. Where there is nothing
      to fetch this names a place and what it holds already, so that the copy changes nothing.
    """
    left_UK = _left(lanes, num_samples)
    lane_U = jnp.arange(len(lanes.side_U))
    other_U = 1 - lanes.side_U
    is_used_U = ((slots.row_UR >= 0) & (slots.side_UR == other_U[:, None])).any(axis=1)
    is_free_U = ~is_used_U & (left_UK[lane_U, other_U] == 0)
    is_idle_U = left_UK[lane_U, lanes.side_U] == 0
    left_Q = num_samples - lanes.begun_Q
    fetched = lanes.fetched_1[0]
    is_new = fetched < real
    query = jnp.where(is_new, fetched, jnp.argmax(left_Q).astype(jnp.int32))
    # Lanes without work come first; only they help with a query that another lane has.
    wants_U = jnp.where(is_free_U, 1 + is_idle_U.astype(jnp.int32), 0)
    lane = jnp.argmax(wants_U)
    go = (wants_U[lane] == 2) & (left_Q[query] > 0) | (wants_U[lane] == 1) & is_new
    side = other_U[lane]
    held = lanes.query_UK[lane, side]
    query = jnp.where(go, query, held)
    lanes = dataclasses.replace(
        lanes,
        query_UK=lanes.query_UK.at[lane, side].set(query),
        fetched_1=lanes.fetched_1 + (go & is_new),
    )
    return lanes, (lane, side, jnp.maximum(query, 0))


def begin(slots: Slots, lanes: Lanes, num_samples: int) -> tuple[Slots, Lanes]:
    """Lets every free slot begin the next response of its lane's query; its token is not set."""
    lane_U = jnp.arange(len(lanes.side_U))
    left_UK = _left(lanes, num_samples)
    if left_UK.shape[1] == 2:
        other_U = 1 - lanes.side_U
        is_over_U = (left_UK[lane_U, lanes.side_U] == 0) & (left_UK[lane_U, other_U] > 0)
        side_U = jnp.where(is_over_U, other_U, lanes.side_U)
    else:
        side_U = lanes.side_U
    query_U = lanes.query_UK[lane_U, side_U]
    is_free_UR = slots.row_UR < 0
    # Lanes that share a query take its responses in the order of the lanes.
    free_U = is_free_UR.sum(axis=1, dtype=jnp.int32)
    is_before_UU = (query_U[:, None] == query_U[None]) & (lane_U[:, None] > lane_U[None])
    before_U = jnp.where(is_before_UU, free_U[None], 0).sum(axis=1, dtype=jnp.int32)
    place_UR = jnp.cumsum(is_free_UR, axis=1, dtype=jnp.int32) - 1 + before_U[:, None]
    sample_UR = lanes.begun_Q[query_U][:, None] + place_UR
    begins_UR = is_free_UR & (query_U >= 0)[:, None] & (sample_UR < num_samples)
    begins_U = begins_UR.sum(axis=1, dtype=jnp.int32)
    query_UR = jnp.broadcast_to(query_U[:, None], begins_UR.shape)
    slots = dataclasses.replace(
        slots,
        row_UR=jnp.where(begins_UR, query_UR * num_samples + sample_UR, slots.row_UR),
        side_UR=jnp.where(begins_UR, side_U[:, None], slots.side_UR),
        age_UR=jnp.where(begins_UR, 0, slots.age_UR),
        stop_UR=jnp.where(begins_UR, 0, slots.stop_UR),
    )
    is_of_UQ = query_U[:, None] == jnp.arange(len(lanes.begun_Q))[None]
    begun_Q = lanes.begun_Q + jnp.where(is_of_UQ, begins_U[:, None], 0).sum(axis=0, dtype=jnp.int32)
    return slots, dataclasses.replace(lanes, side_U=side_U, begun_Q=begun_Q)


def _left(lanes: Lanes, num_samples: int) -> jax.Array:
    """Responses not begun of the queries that a lane holds."""
    left_UK = num_samples - lanes.begun_Q[lanes.query_UK]
    return jnp.where(lanes.query_UK >= 0, left_UK, 0)
