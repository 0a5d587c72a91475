"""The random half of sampling: which of the kept columns a row takes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bstar_jax.kernels import contract, noise

TILE = 32
"""Columns whose mass is summed first: divides every common vocabulary, and BLOCK."""


class Best(NamedTuple):
    """What won a draw, and by what score: a vocabulary in shards has its winner among theirs.

    Attributes:
        score_B: Of a column, or of a block in rows that draw by block; the larger wins.
        token_B: The column, numbered over the whole vocabulary.
    """

    score_B: Float[Array, " B"]
    token_B: Int[Array, " B"]


def from_window(
    rows: contract.Rows,
    kept_BW: Float[Array, "B W"],
    column_BW: Int[Array, "B W"],
    by_block_B: Bool[Array, " B"] | None = None,
    center_B: Float[Array, " B"] | None = None,
) -> Best:
    """Gumbel-max over columns in any order: score x / T + g, the lowest column among equals.

    `kept_BW` is -inf where a column may not be drawn. The rows of `by_block_B`, all of whose kept
    columns must be there, draw a block first: exactly `from_blocks` with the same `center_B`.
    """
    block_score_B: Any = None
    if by_block_B is not None:
        block_score_B, in_winner_BW = _block_of_window(rows, kept_BW, column_BW, center_B)
        kept_BW = jnp.where(in_winner_BW | ~by_block_B[:, None], kept_BW, -jnp.inf)
    bits_BW = noise.bits_at(rows.keys_B2, column_BW, contract.COLUMN_STREAM)
    score_BW = _scores(rows, kept_BW, bits_BW)
    score_B = score_BW.max(axis=1)
    is_best_BW = score_BW == score_B[:, None]
    token_B = jnp.where(is_best_BW, column_BW, jnp.iinfo(jnp.int32).max).min(axis=1)
    if by_block_B is not None:
        score_B = jnp.where(by_block_B, block_score_B, score_B)
    return Best(score_B, token_B)


def from_columns(
    rows: contract.Rows, kept_BC: Float[Array, "B C"], first_B: Int[Array, " B"]
) -> Best:
    """Gumbel-max over neighbouring columns, of which `first_B`, a multiple of BLOCK, is the first.

    Columns are numbered over the whole vocabulary: a shard of it adds where it begins.
    """
    count = kept_BC.shape[1]
    bits_BC = noise.bits_span(rows.keys_B2, first_B, count, contract.COLUMN_STREAM)
    score_B, place_B = _argmax(_scores(rows, kept_BC, bits_BC))
    return Best(score_B, first_B + place_B)


def from_blocks(
    rows: contract.Rows,
    kept_BMC: Float[Array, "B M C"],
    mass_BN: Float[Array, "B N"],
    center_B: Float[Array, " B"],
    noise_kind: str,
    first_B: Int[Array, " B"] | None = None,
) -> Best:
    """Draws a block by its mass, then a column of it.

    `kept_BMC` are the logits in tiles of TILE columns, `center_B` the largest of each row,
    `mass_BN` the `block_masses` of both. A shard gives `first_B`, the column it begins with.
    """
    if noise_kind == "icdf":
        uniform_B2 = _two_uniforms(rows)
        block_B = _invert(mass_BN, uniform_B2[:, 0])
        kept_BC = _columns_of(kept_BMC, block_B)
        mass_BC = jnp.exp((kept_BC - center_B[:, None]) * rows.inverse_B[:, None])
        token_B = block_B * contract.BLOCK + _invert(mass_BC, uniform_B2[:, 1])
        return Best(jnp.zeros_like(center_B), token_B)
    bits_BN = _block_bits(rows, mass_BN.shape[1], first_B)
    score_BN = jnp.log(mass_BN) + noise.gumbel(bits_BN)
    # At the inverse temperature of a greedy row only blocks that hold the maximum have mass.
    score_BN = jnp.where(rows.is_greedy_B[:, None], jnp.sign(mass_BN), score_BN)
    score_B, block_B = _argmax(score_BN)
    block_first_B = block_B * contract.BLOCK
    if first_B is not None:
        block_first_B = first_B + block_first_B
    return Best(score_B, from_columns(rows, _columns_of(kept_BMC, block_B), block_first_B).token_B)


def block_masses(
    kept_BMC: Float[Array, "B M C"],
    center_B: Float[Array, " B"],
    rows: contract.Rows,
    plain_BN: Float[Array, "B N"],
) -> Float[Array, "B N"]:
    """The sum of exp((x - center) / T) over every block: over its tiles' sums.

    `plain_BN` are the `plain_masses`, which rows at temperature 1 take. Where all rows do, another
    pass over the logits is saved.
    """
    is_plain_B = rows.temperature_B == 1

    def tempered():
        scaled_BMC = (kept_BMC - center_B[:, None, None]) * rows.inverse_B[:, None, None]
        return _block_sums(jnp.exp(scaled_BMC))

    mass_BN = lax.cond(is_plain_B.all(), lambda: plain_BN, tempered)
    return jnp.where(is_plain_B[:, None], plain_BN, mass_BN)


def plain_masses(
    kept_BMC: Float[Array, "B M C"], center_B: Float[Array, " B"]
) -> Float[Array, "B N"]:
    """The sum of exp(x - center) over every block, whatever its row's temperature."""
    # Behind a barrier, or the difference is shared with other masses and written out in full.
    apart_B = lax.optimization_barrier(center_B)
    return _block_sums(jnp.exp(kept_BMC - apart_B[:, None, None]))


def _block_sums(part_BMC):
    # Behind a barrier, or XLA adds the blocks up from the columns, once more for every sum of them.
    mass_BM = lax.optimization_barrier(part_BMC.sum(axis=2))
    tiles = contract.BLOCK // TILE
    mass_BM = jnp.pad(mass_BM, ((0, 0), (0, -mass_BM.shape[1] % tiles)))
    return mass_BM.reshape(mass_BM.shape[0], -1, tiles).sum(axis=2)


def _block_of_window(rows, kept_BW, column_BW, center_B):
    """Draws a block of those in the window; returns its score, and which columns are its own."""
    block_BW = column_BW // contract.BLOCK
    scaled_BW = (kept_BW - center_B[:, None]) * rows.inverse_B[:, None]
    is_same_BWW = block_BW[:, :, None] == block_BW[:, None, :]
    mass_BW = jnp.where(is_same_BWW, jnp.exp(scaled_BW)[:, None, :], 0.0).sum(axis=2)
    bits_BW = noise.bits_at(rows.keys_B2, block_BW, contract.BLOCK_STREAM)
    score_BW = jnp.log(mass_BW) + noise.gumbel(bits_BW)
    score_B = score_BW.max(axis=1)
    is_best_BW = score_BW == score_B[:, None]
    block_B = jnp.where(is_best_BW, block_BW, jnp.iinfo(jnp.int32).max).min(axis=1)
    return score_B, block_BW == block_B[:, None]


def _block_bits(rows, count, first_B):
    if first_B is None:
        zero_B = jnp.zeros(rows.keys_B2.shape[:1], jnp.int32)
        return noise.bits_span(rows.keys_B2, zero_B, count, contract.BLOCK_STREAM)
    # A shard's first block need not be a multiple of 256, which a span begins with.
    block_BN = (first_B // contract.BLOCK)[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]
    return noise.bits_at(rows.keys_B2, block_BN, contract.BLOCK_STREAM)


def _scores(rows, kept_BI, bits_BI):
    score_BI = kept_BI * rows.inverse_B[:, None] + noise.gumbel(bits_BI)
    return jnp.where(rows.is_greedy_B[:, None], kept_BI, score_BI)


def _columns_of(kept_BMC, block_B):
    """Gathers the columns of one block a row; -inf beyond the end of the vocabulary."""
    tiles = contract.BLOCK // TILE
    tile_BT = (block_B * tiles)[:, None] + jnp.arange(tiles, dtype=jnp.int32)[None, :]
    kept_BTC = jnp.take_along_axis(
        kept_BMC, tile_BT[:, :, None], axis=1, mode="fill", fill_value=-jnp.inf
    )
    return kept_BTC.reshape(block_B.shape[0], contract.BLOCK).astype(jnp.float32)


def _two_uniforms(rows):
    index_B2 = jnp.broadcast_to(jnp.arange(2)[None, :], rows.keys_B2.shape)
    bits_B2 = noise.bits_at(rows.keys_B2, index_B2, contract.CDF_STREAM)
    # A greedy row takes the first column that has mass. The bound keeps u * total below total.
    uniform_B2 = jnp.minimum(noise.uniform(bits_B2), 1.0 - 2.0**-23)
    return jnp.where(rows.is_greedy_B[:, None], 0.0, uniform_B2)


def _invert(mass_BI, uniform_B):
    """Returns the first index whose cumulative mass exceeds uniform * total."""
    cumulative_BI = jnp.cumsum(mass_BI, axis=1)
    target_B = uniform_B * cumulative_BI[:, -1]
    return _first(cumulative_BI > target_B[:, None])


def _argmax(score_BI):
    """Returns the largest score and where it stands first."""
    # Two passes with vectors; XLA's argmax on CPU is one without, and pulls the noise into it.
    score_B = score_BI.max(axis=1)
    return score_B, _first(score_BI == score_B[:, None])


def _first(is_it_BI):
    """Returns the first index that holds, 0 where none does."""
    count = is_it_BI.shape[1]
    index_BI = lax.broadcasted_iota(jnp.int32, is_it_BI.shape, 1)
    first_B = jnp.where(is_it_BI, index_BI, count).min(axis=1)
    return jnp.where(first_B < count, first_B, 0)
