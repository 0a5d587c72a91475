"""Prefill: the keys and values of every prompt, once a query.

Decoding feeds the last prompt token first, so prefill runs over all prompt tokens but that one.
Prompts stand in buckets of doubling length, and a program runs over few at a time: what is
computed for padding stays below what is computed for text.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from bstar_jax import model
from bstar_jax.config import ModelConfig
from bstar_jax.sampling.cache import Prompts

SHORTEST_BUCKET = 64
TOKENS_A_TURN = 8192


def bucket(length: int, limit: int) -> int:
    """The buffer for prompts of up to `length` tokens: 64, 128, 256 ... and at most `limit`.

    Example: 50 of 300 -> 64; 65 -> 128; 257 -> 300.
    """
    size = SHORTEST_BUCKET
    while size < length:
        size *= 2
    return min(size, max(limit, 1))


@functools.partial(jax.jit, static_argnames=("config",), donate_argnames=("prompts",))
def prefill(
    config: ModelConfig,
    params: dict,
    prompts: Prompts,
    tokens_DBP: jax.Array,
    lengths_DB: jax.Array,
    first: jax.Array,
) -> Prompts:
    """Computes some prompts and puts them in their places.

    Args:
      config: The model.
      params: Its parameters.
      prompts: Where they go; given up.
      tokens_DBP: Prompt tokens of B queries of every shard, padded on the right.
      lengths_DB: Their true lengths, at least 1.
      first: Place of the first among the shard's queries.
    """
    shards, rows, length = tokens_DBP.shape
    decoder = model.merge(config, params)
    column_1P = jnp.arange(length)[None]
    tokens_BP = tokens_DBP.reshape(-1, length)
    real_BP = column_1P < (lengths_DB.reshape(-1, 1) - 1)
    segments_BP = real_BP.astype(jnp.int32)
    attend = model.attend_whole(config, segments_BP, keep_state=True, packed=False)
    positions_BP = jnp.broadcast_to(column_1P, tokens_BP.shape)
    _, (key, value) = decoder.hidden(tokens_BP, positions_BP, attend, None)
    key, value = (
        part.reshape(part.shape[0], shards, rows, *part.shape[2:]) for part in (key, value)
    )

    def put(room, part):
        return jax.lax.dynamic_update_slice(room, part.swapaxes(3, 4), (0, 0, first, 0, 0, 0))

    return Prompts(put(prompts.key, key), put(prompts.value, value))
