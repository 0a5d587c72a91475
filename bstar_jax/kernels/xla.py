"""Sampling in plain XLA: the default on every backend without a kernel of its own.

Rows with top-k, top-p or min-p read a small *window* of their largest logits. Its *certificate*
says whether the window holds every column that may be drawn: the threshold must be strictly above
everything left out. Other rows need one sum of exponentials a block, then the columns of one block;
the same sums tell a row with top-p alone what share of its mass lies in the window. Rows without a
certificate go through the exact path of `exact.py`, a few at a time.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bstar_jax.kernels import contract, draw, exact

_MARGIN = 1e-5
"""Relative room for the rounding of sums: top-p decisions nearer to the edge are not certain."""


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
    # Behind a barrier, or XLA takes the largest of all from the logits once more.
    peak_BM = lax.optimization_barrier(tiles_BMC.max(axis=2)).astype(jnp.float32)
    largest_B = peak_BM.max(axis=1)
    center_B = exact.finite(largest_B)
    plain_BN = draw.plain_masses(tiles_BMC, center_B)
    log_total_B = center_B + jnp.log(plain_BN.sum(axis=1))

    exact_turn = functools.partial(exact.sample_tiles, vocab=vocab, noise_kind=noise_kind)
    if vocab <= contract.DENSE_VOCAB:
        # So few columns are bisected and drawn from in full faster than they are narrowed down.
        token_B = exact_turn(tiles_BMC, rows).token_B
        is_due_B = jnp.zeros(token_B.shape, bool)
    else:
        token_B, is_due_B = _quick(tiles_BMC, peak_BM, plain_BN, rows, vocab, kmax, noise_kind)
        # A NaN anywhere in the row has reached its total.
        is_due_B |= jnp.isnan(log_total_B)

        def turn(*part):
            return (exact_turn(*part).token_B,)

        (token_B,) = exact.sample_rows(turn, tiles_BMC, rows, (token_B,), is_due_B)
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    logprob_B = chosen_B.astype(jnp.float32) - log_total_B
    return contract.Sample(token_B, logprob_B, is_due_B.astype(jnp.int32))


def _quick(tiles_BMC, peak_BM, plain_BN, rows, vocab, kmax, noise_kind):
    """Draws every row by its quick path; returns tokens, and which are due for the exact path."""
    center_B = exact.finite(peak_BM.max(axis=1))
    token_B = jnp.zeros(center_B.shape, jnp.int32)

    def by_block():
        mass_BN = draw.block_masses(tiles_BMC, center_B, rows, plain_BN)
        best = draw.from_blocks(rows, tiles_BMC, mass_BN, center_B, noise_kind)
        return best.token_B, mass_BN.sum(axis=1)

    def by_window(mass_B):
        value_BW, column_BW, outside_B = window(tiles_BMC, peak_BM, min(kmax + kmax // 8, vocab))
        cut = cut_window(rows, value_BW, outside_B, mass_B, vocab)
        best = from_window(rows, value_BW, column_BW, cut.threshold_B, center_B, vocab)
        return best.token_B, cut.is_certain_B

    has_top_k_B = rows.has_top_k_B(vocab)
    needs_window_B = has_top_k_B | rows.has_mass_cut_B()
    if rows.top_k_B is None:
        block_B, mass_B = by_block()
    else:
        block_B, mass_B = lax.cond(has_top_k_B.all(), lambda: (token_B, center_B), by_block)
    if rows.top_k_B is None and not rows.may_cut_mass:
        return block_B, needs_window_B

    def unproven(_):
        return token_B, jnp.zeros(token_B.shape, bool)

    window_B, is_certain_B = lax.cond(needs_window_B.any(), by_window, unproven, mass_B)
    if noise_kind == "icdf":
        is_certain_B &= has_top_k_B
    return jnp.where(needs_window_B, window_B, block_B), needs_window_B & ~is_certain_B


def _tiles(logits_BV, vocab):
    """Cuts rows into tiles of TILE columns, -inf where a tile passes the end of the vocabulary."""
    size, width = logits_BV.shape
    tile = draw.TILE
    if width % tile or vocab % tile:
        logits_BV = jnp.pad(
            logits_BV[:, :vocab], ((0, 0), (0, -vocab % tile)), constant_values=-jnp.inf
        )
    return logits_BV.reshape(size, -1, tile)[:, : -(-vocab // tile)]


class Cut(NamedTuple):
    """Where a window is cut.

    Attributes:
        threshold_B: The smallest logit that may be drawn.
        is_certain_B: Whether that is proven, and with it that the window holds all that may.
    """

    threshold_B: Float[Array, " B"]
    is_certain_B: Bool[Array, " B"]


def cut_window(
    rows: contract.Rows,
    value_BW: Float[Array, "B W"],
    outside_B: Float[Array, " B"],
    mass_B: Float[Array, " B"],
    vocab: int,
) -> Cut:
    """Finds the thresholds of rows with a truncation inside a window of their largest logits.

    Args:
        rows: How they draw.
        value_BW: The logits, largest first, NaN before all: such a row is drawn by the exact path.
        outside_B: A bound on all other logits of the row.
        mass_B: Sum of exp((x - max) / T) over the whole row; needed of rows without top-k only.
        vocab: The true V.
    """
    has_top_k_B = rows.has_top_k_B(vocab)
    largest_B = value_BW[:, 0]
    kth_B = jnp.full(outside_B.shape, -jnp.inf)
    is_all_B = outside_B == -jnp.inf
    is_certain_B = is_all_B
    if rows.top_k_B is not None:
        width = value_BW.shape[1]
        place_B = jnp.clip(rows.top_k_B, 1, width) - 1
        window_B = jnp.take_along_axis(value_BW, place_B[:, None], axis=1)[:, 0]
        kth_B = jnp.where(has_top_k_B, window_B, kth_B)
        is_certain_B |= (rows.top_k_B <= width) & (kth_B > outside_B)
        is_certain_B |= rows.is_greedy_B & (largest_B > outside_B)

    cut_B = exact.min_p_threshold(rows, largest_B)
    is_cut_inside_B = is_all_B | (cut_B > outside_B)
    if rows.top_p_B is not None:
        nucleus_B, is_inside_B, is_clear_B = _nucleus(
            rows, value_BW, outside_B, kth_B, has_top_k_B, mass_B
        )
        has_nucleus_B = rows.top_p_B < 1
        cut_B = jnp.maximum(cut_B, jnp.where(has_nucleus_B, nucleus_B, -jnp.inf))
        is_cut_inside_B |= has_nucleus_B & is_inside_B
        is_certain_B &= is_clear_B | ~has_nucleus_B
        is_cut_inside_B &= is_clear_B | ~has_nucleus_B
    is_certain_B = jnp.where(has_top_k_B, is_certain_B, is_cut_inside_B)
    return Cut(jnp.maximum(kth_B, jnp.minimum(cut_B, largest_B)), is_certain_B)


def _nucleus(rows, value_BW, outside_B, kth_B, has_top_k_B, mass_B):
    """Finds the threshold of top-p in a window.

    Returns it, whether the columns outside of the window are all below it, and whether no column
    is so near the edge that another order of adding up could decide otherwise.
    """
    scaled_BW = (value_BW - exact.finite(value_BW[:, 0])[:, None]) * rows.inverse_B[:, None]
    mass_BW = jnp.where(value_BW >= kth_B[:, None], jnp.exp(scaled_BW), 0.0)
    is_above_BWW = value_BW[:, None, :] > value_BW[:, :, None]
    above_BW = jnp.where(is_above_BWW, mass_BW[:, None, :], 0.0).sum(axis=2)
    wanted_B = rows.top_p_B * jnp.where(has_top_k_B, mass_BW.sum(axis=1), mass_B)
    threshold_B = jnp.where(above_BW < wanted_B[:, None], value_BW, jnp.inf).min(axis=1)
    margin_B = _MARGIN * wanted_B
    is_clear_B = (jnp.abs(above_BW - wanted_B[:, None]) > margin_B[:, None]).all(axis=1)
    inside_B = jnp.where(value_BW > outside_B[:, None], mass_BW, 0.0).sum(axis=1)
    return threshold_B, inside_B > wanted_B + margin_B, is_clear_B


def from_window(
    rows: contract.Rows,
    value_BW: Float[Array, "B W"],
    column_BW: Int[Array, "B W"],
    threshold_B: Float[Array, " B"],
    center_B: Float[Array, " B"],
    vocab: int,
) -> draw.Best:
    """Draws from the columns of a window that reach the threshold, as `contract` says.

    `center_B` is the largest logit of each row.
    """
    kept_BW = jnp.where(value_BW >= threshold_B[:, None], value_BW, -jnp.inf)
    if not rows.may_cut_mass:
        return draw.from_window(rows, kept_BW, column_BW)
    return draw.from_window(rows, kept_BW, column_BW, ~rows.has_top_k_B(vocab), center_B)


def window(tiles_BMC, peak_BM, window):
    """Returns the `window` largest logits, their columns, and a bound on all the others.

    The columns above the `window`-th largest tile maximum all lie in the tiles with the largest
    maxima, so a first, short top-k over tiles leaves few columns for the second.
    """
    size, tiles, tile = tiles_BMC.shape
    outside_B = jnp.full((size,), -jnp.inf)
    column_BC = jnp.broadcast_to(jnp.arange(tiles * tile, dtype=jnp.int32), (size, tiles * tile))
    value_BC = tiles_BMC.reshape(size, -1).astype(jnp.float32)
    if tiles > 2 * window:
        best_BW, tile_BW = top_k(peak_BM, window)
        value_BC = jnp.take_along_axis(tiles_BMC, tile_BW[:, :, None], axis=1)
        value_BC = value_BC.reshape(size, -1).astype(jnp.float32)
        column_BC = tile_BW[:, :, None] * tile + jnp.arange(tile, dtype=jnp.int32)[None, None, :]
        column_BC = column_BC.reshape(size, -1)
        outside_B = best_BW[:, -1]
        # What is below the bound cannot be certified: out of the way, top-k takes half the time.
        value_BC = jnp.where(value_BC >= outside_B[:, None], value_BC, -jnp.inf)
    value_BW, place_BW = top_k(value_BC, window)
    column_BW = jnp.take_along_axis(column_BC, place_BW, axis=1)
    if value_BC.shape[1] > window:
        outside_B = jnp.maximum(outside_B, value_BW[:, -1])
    return value_BW, column_BW, outside_B


def top_k(value_BC, k):
    """The k largest of each row, the largest first, and their columns."""
    # Without a barrier a slice of the result turns XLA's TopK into a sort of everything; one
    # barrier for both results, seen as their tuple, stops the compiler under a mesh.
    value_BW, place_BW = lax.top_k(value_BC, k)
    return lax.optimization_barrier(value_BW), lax.optimization_barrier(place_BW)
