"""Sampling in plain XLA: the default on every backend without a kernel of its own.

Rows with top-k read a small *window* of their largest logits. Its *certificate* says whether the
window holds every column that may be drawn: the threshold must be strictly above everything left
out. Rows without top-k need one sum of exponentials a block, then the columns of one block.
Rows without a certificate go through the exact path of `exact.py`, a few at a time.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from bstar_jax.kernels import contract, draw, exact


def sample(
    logits_BV: Float[Array, "B V"],
    rows: contract.Rows,
    *,
    vocab: int,
    kmax: int,
    noise_kind: str,
) -> contract.Sample:
    """Draws as `bstar_jax.kernels.sample` promises; columns from `vocab` on are padding."""
    tiles_BMC = _tiles(logits_BV, vocab)
    peak_BM = tiles_BMC.max(axis=2).astype(jnp.float32)
    largest_B = peak_BM.max(axis=1)
    center_B = exact.finite(largest_B)
    # Behind a barrier, or the difference is shared with the block masses and written out in full.
    apart_B = lax.optimization_barrier(center_B)
    total_B = jnp.exp(tiles_BMC - apart_B[:, None, None]).sum(axis=2).sum(axis=1)
    log_total_B = center_B + jnp.log(total_B)

    if vocab <= contract.DENSE_VOCAB:
        # So few columns are bisected and drawn from in full faster than they are narrowed down.
        token_B = exact.sample_tiles(tiles_BMC, rows, vocab, noise_kind)
        is_due_B = jnp.zeros(token_B.shape, bool)
    else:
        token_B, is_due_B = _quick(tiles_BMC, peak_BM, rows, vocab, kmax, noise_kind)
        # A NaN anywhere in the row has reached its total.
        is_due_B |= jnp.isnan(log_total_B)
        token_B = exact.sample_rows(tiles_BMC, rows, token_B, is_due_B, vocab, noise_kind)
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    logprob_B = chosen_B.astype(jnp.float32) - log_total_B
    return contract.Sample(token_B, logprob_B, is_due_B.astype(jnp.int32))


def _quick(tiles_BMC, peak_BM, rows, vocab, kmax, noise_kind):
    """Draws every row by its quick path; returns tokens, and which are due for the exact path."""

    def without_top_k():
        center_B = exact.finite(peak_BM.max(axis=1))
        return draw.from_blocks(rows, tiles_BMC, center_B, noise_kind)

    def with_top_k():
        return _from_top_k(tiles_BMC, peak_BM, rows, window=min(kmax + kmax // 8, vocab))

    is_cut_B = rows.has_mass_cut_B()
    if rows.top_k_B is None:
        return without_top_k(), is_cut_B
    has_top_k_B = rows.has_top_k_B(vocab)
    nothing_B = jnp.zeros(has_top_k_B.shape, jnp.int32), has_top_k_B
    window_B, is_certain_B = lax.cond(has_top_k_B.any(), with_top_k, lambda: nothing_B)
    block_B = lax.cond(has_top_k_B.all(), lambda: nothing_B[0], without_top_k)
    is_due_B = jnp.where(has_top_k_B, ~is_certain_B, is_cut_B)
    return jnp.where(has_top_k_B, window_B, block_B), is_due_B


def _tiles(logits_BV, vocab):
    """Cuts rows into tiles of TILE columns, -inf where a tile passes the end of the vocabulary."""
    size, width = logits_BV.shape
    tile = draw.TILE
    if width % tile or vocab % tile:
        logits_BV = jnp.pad(
            logits_BV[:, :vocab], ((0, 0), (0, -vocab % tile)), constant_values=-jnp.inf
        )
    return logits_BV.reshape(size, -1, tile)[:, : -(-vocab // tile)]


def _from_top_k(tiles_BMC, peak_BM, rows, window):
    """Draws the rows with top-k; returns their tokens and which of them are proven."""
    value_BW, column_BW, outside_B = _window(tiles_BMC, peak_BM, window)
    # top_k puts NaN first; a row that has one is drawn again by the exact path.
    k_B = jnp.clip(rows.top_k_B, 1, value_BW.shape[1])
    threshold_B = jnp.take_along_axis(value_BW, k_B[:, None] - 1, axis=1)[:, 0]
    is_certain_B = (rows.top_k_B <= value_BW.shape[1]) & (threshold_B > outside_B)
    is_certain_B |= rows.is_greedy_B & (value_BW[:, 0] > outside_B)
    is_certain_B |= outside_B == -jnp.inf
    threshold_B = _cut_mass(value_BW, threshold_B, rows)
    kept_BW = jnp.where(value_BW >= threshold_B[:, None], value_BW, -jnp.inf)
    return draw.from_window(rows, kept_BW, column_BW), is_certain_B


def _window(tiles_BMC, peak_BM, window):
    """Returns the `window` largest logits, their columns, and a bound on all the others.

    The columns above the `window`-th largest tile maximum all lie in the tiles with the largest
    maxima, so a first, short top-k over tiles leaves few columns for the second.
    """
    size, tiles, tile = tiles_BMC.shape
    outside_B = jnp.full((size,), -jnp.inf)
    column_BC = jnp.broadcast_to(jnp.arange(tiles * tile, dtype=jnp.int32), (size, tiles * tile))
    value_BC = tiles_BMC.reshape(size, -1).astype(jnp.float32)
    if tiles > 2 * window:
        best_BW, tile_BW = _top_k(peak_BM, window)
        value_BC = jnp.take_along_axis(tiles_BMC, tile_BW[:, :, None], axis=1)
        value_BC = value_BC.reshape(size, -1).astype(jnp.float32)
        column_BC = tile_BW[:, :, None] * tile + jnp.arange(tile, dtype=jnp.int32)[None, None, :]
        column_BC = column_BC.reshape(size, -1)
        outside_B = best_BW[:, -1]
        # What is below the bound cannot be certified: out of the way, top-k takes half the time.
        value_BC = jnp.where(value_BC >= outside_B[:, None], value_BC, -jnp.inf)
    value_BW, place_BW = _top_k(value_BC, window)
    column_BW = jnp.take_along_axis(column_BC, place_BW, axis=1)
    if value_BC.shape[1] > window:
        outside_B = jnp.maximum(outside_B, value_BW[:, -1])
    return value_BW, column_BW, outside_B


def _top_k(value_BC, k):
    # Without a barrier a slice of the result turns XLA's TopK into a sort of everything; one
    # barrier for both results, seen as their tuple, stops the compiler under a mesh.
    value_BW, place_BW = lax.top_k(value_BC, k)
    return lax.optimization_barrier(value_BW), lax.optimization_barrier(place_BW)


def _cut_mass(value_BW, threshold_B, rows):
    """Raises the top-k threshold to those of top-p and min-p, inside the window."""
    largest_B = value_BW[:, 0]
    cut_B = exact.min_p_threshold(rows, largest_B)
    if rows.top_p_B is not None:
        scaled_BW = (value_BW - exact.finite(largest_B)[:, None]) * rows.inverse_B[:, None]
        mass_BW = jnp.where(value_BW >= threshold_B[:, None], jnp.exp(scaled_BW), 0.0)
        is_above_BWW = value_BW[:, None, :] > value_BW[:, :, None]
        above_BW = jnp.where(is_above_BWW, mass_BW[:, None, :], 0.0).sum(axis=2)
        wanted_B = rows.top_p_B * mass_BW.sum(axis=1)
        in_nucleus_BW = above_BW < wanted_B[:, None]
        nucleus_B = jnp.where(in_nucleus_BW, value_BW, jnp.inf).min(axis=1)
        cut_B = jnp.maximum(cut_B, jnp.where(rows.top_p_B < 1, nucleus_B, -jnp.inf))
    return jnp.maximum(threshold_B, jnp.minimum(cut_B, largest_B))
