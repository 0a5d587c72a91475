"""The exact path: any top-k, top-p and min-p, any ties, NaN; by bisection, a few rows at a time.

The quick paths send their rows here when they cannot prove a result. Bisection on an
order-preserving integer image of the logits finds each threshold in 32 counts, without a sort.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bstar_jax.kernels import contract, draw

_ROWS_A_TURN = 8


def sample_rows(
    tiles_BMC: Float[Array, "B M C"],
    rows: contract.Rows,
    token_B: Int[Array, " B"],
    is_due_B: Bool[Array, " B"],
    vocab: int,
    noise_kind: str,
) -> Int[Array, " B"]:
    """Replaces the tokens of the rows that are due, in as many turns as they need, often none."""
    size = token_B.size
    due_B = jnp.flatnonzero(is_due_B, size=size, fill_value=size).astype(jnp.int32)
    due_B = jnp.pad(due_B, (0, -size % _ROWS_A_TURN), constant_values=size)
    turns = -(-is_due_B.sum() // _ROWS_A_TURN)

    def turn(i, token_B):
        row_R = lax.dynamic_slice_in_dim(due_B, i * _ROWS_A_TURN, _ROWS_A_TURN)
        take = lambda array_B: array_B.at[row_R].get(mode="clip")  # noqa: E731
        token_R = sample_tiles(take(tiles_BMC), jax.tree.map(take, rows), vocab, noise_kind)
        return token_B.at[row_R].set(token_R, mode="drop")

    return lax.fori_loop(0, turns, turn, token_B)


def sample_tiles(
    tiles_BMC: Float[Array, "B M C"], rows: contract.Rows, vocab: int, noise_kind: str
) -> Int[Array, " B"]:
    """Draws a token for every row: its threshold, then the draw of `contract` above it."""
    clean_BMC = tiles_BMC.astype(jnp.float32)
    clean_BMC = jnp.where(jnp.isnan(clean_BMC), -jnp.inf, clean_BMC)
    clean_BV = clean_BMC.reshape(clean_BMC.shape[0], -1)
    threshold_B = threshold(clean_BV, rows, vocab)
    kept_BMC = jnp.where(clean_BMC >= threshold_B[:, None, None], clean_BMC, -jnp.inf)
    kept_BV = kept_BMC.reshape(clean_BV.shape)
    first_B = jnp.zeros(threshold_B.shape, jnp.int32)
    center_B = finite(kept_BV.max(axis=1))
    dense = lambda: draw.from_columns(rows, kept_BV, first_B)  # noqa: E731
    blocks = lambda: draw.from_blocks(rows, kept_BMC, center_B, noise_kind)  # noqa: E731
    if vocab <= contract.DENSE_VOCAB and noise_kind == "gumbel":
        return dense()
    has_top_k_B = rows.has_top_k_B(vocab)
    dense_B = lax.cond(has_top_k_B.any(), dense, lambda: first_B)
    return jnp.where(has_top_k_B, dense_B, lax.cond(has_top_k_B.all(), lambda: first_B, blocks))


def finite(center_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Replaces what cannot be subtracted, the maximum of a row without a finite logit, by 0."""
    return jnp.where(jnp.isfinite(center_B), center_B, 0.0)


def threshold(clean_BV: Float[Array, "B V"], rows: contract.Rows, vocab: int) -> Float[Array, " B"]:
    """Returns the smallest logit that may be drawn; -inf where nothing is cut. No NaN allowed.

    All three truncations are thresholds: top-k the k-th largest logit; top-p the largest logit t
    for which the mass at or above t reaches top_p; min-p the maximum + T log(min_p).
    """
    image_BV = _ordered_image(clean_BV)
    largest_B = clean_BV.max(axis=1)
    threshold_B = jnp.full(largest_B.shape, -jnp.inf)
    if rows.top_k_B is not None:
        has_top_k_B = rows.has_top_k_B(vocab)
        k_B = jnp.where(has_top_k_B, rows.top_k_B, vocab)
        kth_B = lax.cond(
            has_top_k_B.any(),
            lambda: _bisect(lambda t_B: (image_BV >= t_B[:, None]).sum(axis=1) >= k_B, k_B.shape),
            lambda: k_B,
        )
        threshold_B = jnp.where(has_top_k_B, _from_image(kth_B), threshold_B)
    cut_B = min_p_threshold(rows, largest_B)
    if rows.top_p_B is not None:
        scaled_BV = (clean_BV - finite(largest_B)[:, None]) * rows.inverse_B[:, None]
        mass_BV = jnp.where(clean_BV >= threshold_B[:, None], jnp.exp(scaled_BV), 0.0)
        wanted_B = rows.top_p_B * mass_BV.sum(axis=1)
        nucleus_B = _bisect(
            lambda t_B: jnp.where(image_BV >= t_B[:, None], mass_BV, 0.0).sum(axis=1) >= wanted_B,
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
