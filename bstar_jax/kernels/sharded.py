"""Sampling where the vocabulary is spread over devices: the logits stay where they are.

Every device draws from its own columns, with the noise of their numbers in the whole vocabulary,
and the best of the winners is the token: the one that a single device would draw. Two small
collectives a call suffice:

    meet      each row's largest logit and its window of candidates, from which every device finds
              the same thresholds
    settle    of every device the winner with its score and logit, and the sum of exponentials

Programs with top-p add up one number a row between them. Rows that the windows cannot prove take
the exact path of `exact.py`, whose counts are then sums over the devices.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from bstar_jax.kernels import contract, draw, exact, xla


def supports(width: int, shards: int, noise_kind: str) -> bool:
    """Whether logits of so many columns, padding included, are drawn from in so many shards.

    Blocks lie on one device each. Inverse CDF adds up over all columns in their order.
    """
    return shards > 1 and width % (contract.BLOCK * shards) == 0 and noise_kind == "gumbel"


def sample(
    logits_BV: Float[Array, "B V"],
    rows: contract.Rows,
    *,
    vocab: int,
    kmax: int,
    axis: str,
) -> contract.Sample:
    """Draws as `bstar_jax.kernels.sample` promises, inside a `shard_map`.

    Args:
        logits_BV: The columns of this device, a multiple of BLOCK; those that are `vocab` or
            beyond over all devices are padding.
        rows: How they draw, the same on every device of the axis.
        vocab: The true vocabulary over all devices.
        kmax: The largest top-k that the quick path is sized for.
        axis: Mesh axis of the columns.

    Returns:
        The same on every device of the axis.
    """
    width = logits_BV.shape[1]
    shard = exact.Shard(axis, lax.axis_index(axis).astype(jnp.int32) * width)
    tiles_BMC = _tiles(logits_BV, shard, vocab)
    peak_BM = tiles_BMC.max(axis=2).astype(jnp.float32)
    exact_turn = functools.partial(
        exact.sample_tiles, vocab=vocab, noise_kind="gumbel", shard=shard
    )
    if vocab <= contract.DENSE_VOCAB:
        center_B = exact.finite(_over_shards(peak_BM.max(axis=1)[:, None], shard).max(axis=(1, 2)))
        best, is_due_B = exact_turn(tiles_BMC, rows), jnp.zeros(center_B.shape, bool)
        plain_BN = draw.plain_masses(tiles_BMC, center_B)
    else:
        best, center_B, plain_BN, is_due_B = _quick(tiles_BMC, peak_BM, rows, shard, vocab, kmax)
    token_B, logit_B, total_BS = _settle(best, tiles_BMC, shard, plain_BN.sum(axis=1))
    log_total_B = center_B + jnp.log(total_BS.sum(axis=1))

    if vocab > contract.DENSE_VOCAB:
        is_due_B |= jnp.isnan(log_total_B)

        def turn(*part):
            return _settle(exact_turn(*part), part[0], shard)[:2]

        found_B = (token_B, logit_B)
        token_B, logit_B = exact.sample_rows(turn, tiles_BMC, rows, found_B, is_due_B)
    return contract.Sample(token_B, logit_B - log_total_B, is_due_B.astype(jnp.int32))


def _tiles(logits_BV, shard, vocab):
    """Cuts rows into tiles of TILE columns, those of padding at -inf."""
    size, width = logits_BV.shape
    column_1V = shard.first + jnp.arange(width, dtype=jnp.int32)[None, :]
    clean_BV = jnp.where(column_1V < vocab, logits_BV, -jnp.inf)
    return clean_BV.reshape(size, -1, draw.TILE)


def _quick(tiles_BMC, peak_BM, rows, shard, vocab, kmax):
    """Draws every row by its quick path.

    Returns this device's winners, the largest logit over all devices, this device's masses at
    temperature 1, and the rows that are due for the exact path.
    """
    has_top_k_B = rows.has_top_k_B(vocab)
    needs_window_B = has_top_k_B | rows.has_mass_cut_B()
    window, whole, center_B = _meet(tiles_BMC, peak_BM, needs_window_B, rows, shard, kmax)
    plain_BN = draw.plain_masses(tiles_BMC, center_B)

    def by_block():
        first_B = jnp.full(center_B.shape, shard.first)
        mass_BN = draw.block_masses(tiles_BMC, center_B, rows, plain_BN)
        best = draw.from_blocks(rows, tiles_BMC, mass_BN, center_B, "gumbel", first_B)
        return best, mass_BN.sum(axis=1)

    if window is None or whole is None:
        return by_block()[0], center_B, plain_BN, needs_window_B
    nothing = draw.Best(center_B, jnp.zeros(center_B.shape, jnp.int32))
    block, mass_B = lax.cond(has_top_k_B.all(), lambda: (nothing, center_B), by_block)
    if rows.top_p_B is not None:
        mass_B = lax.psum(mass_B, shard.axis)
    value_BW, column_BW = window
    cut = xla.cut_window(rows, *whole, mass_B, vocab)
    best = lax.cond(
        needs_window_B.any(),
        lambda: xla.from_window(rows, value_BW, column_BW, cut.threshold_B, center_B, vocab),
        lambda: nothing,
    )
    best = _choose(needs_window_B, best, block)
    return best, center_B, plain_BN, needs_window_B & ~cut.is_certain_B


def _meet(
    tiles_BMC, peak_BM, needs_window_B, rows, shard, kmax
) -> tuple[tuple[Any, Any] | None, tuple[Any, Any] | None, Any]:
    """The first collective: what every device must know of all columns.

    Returns this device's window (logits, columns), that of all devices (largest logits, bound on
    all others), both None where no row can need one, and the largest logit made finite.
    """
    largest_B1 = peak_BM.max(axis=1)[:, None]
    if rows.top_k_B is None and not rows.may_cut_mass:
        largest_BS = _over_shards(largest_B1, shard)[:, :, 0]
        return None, None, exact.finite(largest_BS.max(axis=1))
    size, tiles, tile = tiles_BMC.shape
    count = kmax + kmax // 8
    width = min(count, tiles * tile)

    def nothing():
        return (
            jnp.full((size, width), -jnp.inf),
            jnp.zeros((size, width), jnp.int32),
            jnp.full((size,), -jnp.inf),
        )

    value_BW, column_BW, outside_B = lax.cond(
        needs_window_B.any(), lambda: xla.window(tiles_BMC, peak_BM, width), nothing
    )
    met_BSI = _over_shards(
        jnp.concatenate([largest_B1, outside_B[:, None], value_BW], axis=1), shard
    )
    center_B = exact.finite(met_BSI[:, :, 0].max(axis=1))
    outside_B = met_BSI[:, :, 1].max(axis=1)
    # The largest logits of all are among the largest of each device.
    every_BW = met_BSI[:, :, 2:].reshape(size, -1)
    whole_BW, _ = xla.top_k(every_BW, min(count, every_BW.shape[1]))
    if whole_BW.shape[1] < every_BW.shape[1]:
        outside_B = jnp.maximum(outside_B, whole_BW[:, -1])
    return (value_BW, shard.first + column_BW), (whole_BW, outside_B), center_B


def _settle(best, tiles_BMC, shard, *others_B):
    """The second collective: the token and logit of the best winner, and `others_B` of each."""
    row_BV = tiles_BMC.reshape(tiles_BMC.shape[0], -1)
    place_B = best.token_B - shard.first
    logit_B = jnp.take_along_axis(row_BV, place_B[:, None], axis=1)[:, 0].astype(jnp.float32)
    floats_BI = jnp.stack([best.score_B, logit_B, *others_B], axis=1)
    # Floats travel as integers: tokens as floats could be flushed to zero on the way.
    words_BI = lax.bitcast_convert_type(floats_BI, jnp.int32)
    met_BSI = _over_shards(jnp.concatenate([best.token_B[:, None], words_BI], axis=1), shard)
    floats_BSI = lax.bitcast_convert_type(met_BSI[:, :, 1:], jnp.float32)
    # Devices are in the order of their columns: among equals the lowest column wins.
    winner_B1 = jnp.argmax(floats_BSI[:, :, 0], axis=1)[:, None]
    token_B = jnp.take_along_axis(met_BSI[:, :, 0], winner_B1, axis=1)[:, 0]
    logit_B = jnp.take_along_axis(floats_BSI[:, :, 1], winner_B1, axis=1)[:, 0]
    return token_B, logit_B, *(floats_BSI[:, :, i] for i in range(2, floats_BSI.shape[2]))


def _over_shards(array_BI, shard):
    """Gathers every device's numbers: [B, S, I]."""
    return lax.all_gather(array_BI, shard.axis, axis=1)


def _choose(is_first_B, first, second):
    chosen_B = (jnp.where(is_first_B, *pair) for pair in zip(first, second, strict=True))
    return draw.Best(*chosen_B)
