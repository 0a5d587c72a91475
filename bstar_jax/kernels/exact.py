"""The exact path: any top-k, top-p and min-p, any ties, NaN; by bisection, a few rows at a time.

The quick paths send their rows here when they cannot prove a result. Bisection on an
order-preserving integer image of the logits finds each threshold in 32 counts, without a sort.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bstar_jax.kernels import contract, draw

_ROWS_A_TURN = 8


class Shard(NamedTuple):
    """The part of the vocabulary that a device holds, inside a `shard_map`.

    Attributes:
        axis: Name of the mesh axis that the columns are spread over.
        first: The column it begins with, int32.
    """

    axis: str
    first: Int[Array, ""]


def sample_rows(
    sample_turn: Callable,
    tiles_BMC: Float[Array, "B M C"],
    rows: contract.Rows,
    found_B: tuple[Array, ...],
    is_due_B: Bool[Array, " B"],
) -> tuple[Array, ...]:
    """Replaces what was found for the rows that are due, in as many turns as they need, often none.

    `sample_turn` takes the tiles and settings of a few rows and returns what it found for them.
    """
    size = is_due_B.size
    due_B = jnp.flatnonzero(is_due_B, size=size, fill_value=size).astype(jnp.int32)
    due_B = jnp.pad(due_B, (0, -size % _ROWS_A_TURN), constant_values=size)

    # The rows due move up each turn: were they looked up by a counter, few rows would make the
    # turns alike, and the compiler would take their work out of the loop, where it is always done.
    def turn(state):
        due_B, found_B = state
        row_R, rest_B = due_B[:_ROWS_A_TURN], due_B[_ROWS_A_TURN:]

        def take(array_B):
            return array_B.at[row_R].get(mode="clip")

        def put(array_B, new_R):
            return array_B.at[row_R].set(new_R, mode="drop")

        found_R = sample_turn(take(tiles_BMC), jax.tree.map(take, rows))
        done_B = jnp.pad(rest_B, (0, _ROWS_A_TURN), constant_values=size)
        return done_B, jax.tree.map(put, found_B, found_R)

    return lax.while_loop(lambda state: state[0][0] < size, turn, (due_B, found_B))[1]


def sample_tiles(
    tiles_BMC: Float[Array, "B M C"],
    rows: contract.Rows,
    vocab: int,
    noise_kind: str,
    shard: Shard | None = None,
) -> draw.Best:
    """Draws a token for every row: its threshold, then the draw of `contract` above it.

    Of a `shard` the tiles are its own, and so is the winner; the threshold is that of all.
    """
    clean_BMC = tiles_BMC.astype(jnp.float32)
    clean_BMC = jnp.where(jnp.isnan(clean_BMC), -jnp.inf, clean_BMC)
    clean_BV = clean_BMC.reshape(clean_BMC.shape[0], -1)
    threshold_B = threshold(clean_BV, rows, vocab, shard)
    kept_BMC = jnp.where(clean_BMC >= threshold_B[:, None, None], clean_BMC, -jnp.inf)
    kept_BV = kept_BMC.reshape(clean_BV.shape)
    center_B = finite(_over(shard, lax.pmax, kept_BV.max(axis=1)))
    first_B = jnp.full(center_B.shape, 0 if shard is None else shard.first, jnp.int32)

    def nothing():
        return draw.Best(center_B, first_B)

    def dense():
        return draw.from_columns(rows, kept_BV, first_B)

    def blocks():
        plain_BN = draw.plain_masses(kept_BMC, center_B)
        mass_BN = draw.block_masses(kept_BMC, center_B, rows, plain_BN)
        given_B = None if shard is None else first_B
        return draw.from_blocks(rows, kept_BMC, mass_BN, center_B, noise_kind, given_B)

    if vocab <= contract.DENSE_VOCAB and noise_kind == "gumbel":
        return dense()
    has_top_k_B = rows.has_top_k_B(vocab)
    dense_B = lax.cond(has_top_k_B.any(), dense, nothing)
    block_B = lax.cond(has_top_k_B.all(), nothing, blocks)
    return jax.tree.map(lambda d_B, b_B: jnp.where(has_top_k_B, d_B, b_B), dense_B, block_B)


def finite(center_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Replaces what cannot be subtracted, the maximum of a row without a finite logit, by 0."""
    return jnp.where(jnp.isfinite(center_B), center_B, 0.0)


def threshold(
    clean_BV: Float[Array, "B V"],
    rows: contract.Rows,
    vocab: int,
    shard: Shard | None = None,
) -> Float[Array, " B"]:
    """Returns the smallest logit that may be drawn; -inf where nothing is cut. No NaN allowed.

    All three truncations are thresholds: top-k the k-th largest logit; top-p the largest logit t
    for which the mass at or above t reaches top_p; min-p the maximum + T log(min_p).
    """
    image_BV = _ordered_image(clean_BV)
    largest_B = _over(shard, lax.pmax, clean_BV.max(axis=1))

    def total(array_BV):
        return _over(shard, lax.psum, array_BV.sum(axis=1))

    threshold_B = jnp.full(largest_B.shape, -jnp.inf)
    if rows.top_k_B is not None:
        has_top_k_B = rows.has_top_k_B(vocab)
        k_B = jnp.where(has_top_k_B, rows.top_k_B, vocab)
        kth_B = lax.cond(
            has_top_k_B.any(),
            lambda: _bisect(lambda t_B: total(image_BV >= t_B[:, None]) >= k_B, k_B.shape),
            lambda: k_B,
        )
        threshold_B = jnp.where(has_top_k_B, _from_image(kth_B), threshold_B)
    cut_B = min_p_threshold(rows, largest_B)
    if rows.top_p_B is not None:
        scaled_BV = (clean_BV - finite(largest_B)[:, None]) * rows.inverse_B[:, None]
        mass_BV = jnp.where(clean_BV >= threshold_B[:, None], jnp.exp(scaled_BV), 0.0)
        wanted_B = rows.top_p_B * total(mass_BV)
        nucleus_B = _bisect(
            lambda t_B: total(jnp.where(image_BV >= t_B[:, None], mass_BV, 0.0)) >= wanted_B,
            wanted_B.shape,
        )
        nucleus_B = jnp.where(rows.top_p_B < 1, _from_image(nucleus_B), -jnp.inf)
        cut_B = jnp.maximum(cut_B, nucleus_B)
    # The largest logit stays whatever top-p and min-p say.
    return jnp.maximum(threshold_B, jnp.minimum(cut_B, largest_B))


def min_p_threshold(rows: contract.Rows, largest_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Returns the smallest logit that min-p keeps: the largest + T log(min_p)."""
    if rows.min_p_B is None:
        return jnp.full(largest_B.shape, -jnp.inf)
    is_on_B = (rows.min_p_B > 0) & ~rows.is_greedy_B
    log_share_B = jnp.log(jnp.where(is_on_B, rows.min_p_B, 1.0))
    return jnp.where(is_on_B, largest_B + rows.temperature_B * log_share_B, -jnp.inf)


def _over(shard, collective, array_B):
    return array_B if shard is None else collective(array_B, shard.axis)


def _ordered_image(x):
    """Maps floats without NaN to integers that compare alike; -0 and +0 to the same."""
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _from_image(image):
    return lax.bitcast_convert_type(image ^ ((image >> 31) & 0x7FFFFFFF), jnp.float32)


def _bisect(holds, shape):
    """Returns the largest integer for which `holds`, true up to it and false above, bit by bit."""
    lowest = jnp.iinfo(jnp.int32).min

    def settle(i, found_B):
        # The sign bit is set where the number is at least 0: counted from the lowest integer.
        trial_B = found_B + (jnp.uint32(1 << 31) >> i.astype(jnp.uint32)).astype(jnp.int32)
        return jnp.where(holds(trial_B), trial_B, found_B)

    return lax.fori_loop(0, 32, settle, jnp.full(shape, lowest, jnp.int32))
