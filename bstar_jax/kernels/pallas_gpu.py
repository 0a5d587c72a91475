"""Sampling on GPU, by Triton: one program a row, through whose registers the row streams once.

Rows with top-k: every lane, of 1,024, keeps the largest few logits it sees. The exact threshold
is found among these *candidates* by bisection, and holds (the *certificate*) if it lies strictly
above everything a lane has dropped; then the candidates alone draw noise. Else the row streams by
again, once a bisection step, and draws noise in full. Rows without top-k: each block of columns is
summed relative to its own maximum as it passes, draws its noise at once, and is kept if it is the
best so far; then the columns of the best block are read again.

Lowering to Triton leaves little: sizes that are powers of two, no slices, no scratch memory.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from bstar_jax.kernels import contract, noise

_LANES = 1024  # Column c feeds the candidates of lane c % 1,024.
_CHUNKS = 4  # Chunks of 1,024 columns that are loaded at once: a slab.
_SLAB = _CHUNKS * _LANES
_SLAB_BLOCKS = _SLAB // contract.BLOCK
_WARPS = 8
_LOWEST = jnp.finfo(jnp.float32).min.item()
"""Stands for the maximum of nothing: unlike -inf, it can be subtracted."""


def sample(
    logits_BV: Float[Array, "B V"],
    rows: contract.Rows,
    *,
    vocab: int,
    kmax: int,
    interpret: bool = False,
) -> contract.Sample:
    """Draws as `bstar_jax.kernels.sample` promises, what `contract.suits_kernels` lets through."""
    size, width = logits_BV.shape
    # A row fails its certificate where one lane holds `levels` of its top k: with k random
    # columns, in about C(k, levels) / 1024^(levels - 1) of rows, 0.06% at 64 of 4 levels.
    levels = 3 if kmax <= 24 else 4 if kmax <= 128 else 5
    if rows.top_k_B is None:
        levels = 0
    top_k_B = jnp.where(rows.has_top_k_B(vocab), 0 if rows.top_k_B is None else rows.top_k_B, 0)
    is_greedy_B = rows.is_greedy_B.astype(jnp.int32)
    by_row = (rows.keys_B2[:, 0], rows.keys_B2[:, 1], rows.inverse_B, is_greedy_B, top_k_B)
    scalar = pl.BlockSpec((None,), lambda i: (i,))
    token_B, logprob_B, status_B = pl.pallas_call(
        functools.partial(_kernel, vocab=vocab, levels=levels),
        grid=(size,),
        in_specs=[pl.BlockSpec((None, width), lambda i: (i, 0)), *[scalar] * len(by_row)],
        out_specs=[scalar] * 3,
        out_shape=[
            jax.ShapeDtypeStruct((size,), dtype) for dtype in (jnp.int32, jnp.float32, jnp.int32)
        ],
        compiler_params=plgpu.CompilerParams(num_warps=_WARPS, num_stages=1),
        interpret=interpret,
        name="sample",
    )(logits_BV, *by_row)
    return contract.Sample(token_B, logprob_B, status_B)


def _kernel(
    x_ref, key_0_ref, key_1_ref, inverse_ref, is_greedy_ref, top_k_ref,
    token_ref, logprob_ref, status_ref, *, vocab, levels,
):  # fmt: skip
    keys = (key_0_ref[...], key_1_ref[...])
    row = _Row(x_ref, vocab, keys, inverse_ref[...], is_greedy_ref[...], top_k_ref[...])

    def write(token, log_total, status):
        token_ref[...] = token
        logprob_ref[...] = x_ref[token].astype(jnp.float32) - log_total
        status_ref[...] = status

    if levels:
        pl.when(row.top_k > 0)(lambda: write(*_draw_from_top_k(row, levels)))
    pl.when(row.top_k <= 0)(lambda: write(*_draw_by_block(row)))


class _Row(NamedTuple):
    """One row: where its logits lie, and how it draws. All settings are scalars."""

    x_ref: Any
    vocab: int
    keys: tuple
    inverse: Any
    is_greedy: Any  # 1 or 0: Triton's loops and branches carry no booleans.
    top_k: Any

    def load(self, column):
        """Reads the logits of an array of columns as they are stored; -inf beyond the last."""
        # The mask is by the width in memory: there it is aligned, and loads stay wide.
        is_there = column < self.x_ref.shape[0]
        return plgpu.load(self.x_ref.at[column], mask=is_there, other=-jnp.inf)

    def logits(self, loaded, column):
        """Returns loaded logits in f32, -inf where the column is padding of the vocabulary."""
        x = loaded.astype(jnp.float32)
        return jnp.where(column < self.vocab, x, -jnp.inf) if self._is_padded else x

    @property
    def _is_padded(self):
        return self.vocab < self.x_ref.shape[0]

    def scores(self, x, column):
        """x / T + g; the logit itself in a greedy row."""
        bits = noise.bits_of(self.keys, column, contract.COLUMN_STREAM)
        score = x * self.inverse + noise.gumbel(bits)
        return jnp.where(self.is_greedy > 0, x, score)


def _stream(row, places, body, carry):
    """Folds body(carry, slab number, logits) over the slabs of the row.

    `places` are arrays of the columns of one slab, counted from its first: the shapes in which
    `body` gets its logits.
    """

    def columns(number):
        return [number * _SLAB + place for place in places]

    def step(number, state):
        loaded, carry = state
        # The next slab is on its way while this one is worked on.
        following = [row.load(column) for column in columns(number + 1)]
        slab = [row.logits(*pair) for pair in zip(loaded, columns(number), strict=True)]
        return following, body(carry, number, slab)

    first = [row.load(column) for column in columns(0)]
    return lax.fori_loop(0, pl.cdiv(row.vocab, _SLAB), step, (first, carry))[1]


def _lane():
    return lax.iota(jnp.int32, _LANES)


def _chunks():
    """Columns of a slab, a chunk an array."""
    return [chunk * _LANES + _lane() for chunk in range(_CHUNKS)]


# Rows without top-k: the best block, then the best of its columns.


class _Blocks(NamedTuple):
    """What has been seen of the blocks in each of the places that a slab has for them.

    Attributes:
        center: Largest logit.
        total: Sum of exp(x - center), at temperature 1.
        best: Number of the block with the best score.
        best_center: Largest logit of that block.
        best_score: Its score less best_center / T. Apart, both keep their precision.
    """

    center: Any
    total: Any
    best: Any
    best_center: Any
    best_score: Any


def _draw_by_block(row):
    """Returns the token, log sum exp(x), and status 0."""
    shape = (_SLAB_BLOCKS, contract.BLOCK)
    place = lax.broadcasted_iota(jnp.int32, shape, 0) * contract.BLOCK
    place += lax.broadcasted_iota(jnp.int32, shape, 1)
    lowest = jnp.full((_SLAB_BLOCKS,), _LOWEST)
    start = _Blocks(
        center=lowest,
        total=jnp.zeros((_SLAB_BLOCKS,)),
        best=jnp.zeros((_SLAB_BLOCKS,), jnp.int32),
        best_center=lowest,
        best_score=jnp.full((_SLAB_BLOCKS,), -jnp.inf),
    )
    seen = _stream(row, [place], functools.partial(_see_blocks, row), start)
    score = (seen.best_center - seen.best_center.max()) * row.inverse + seen.best_score
    column = _winner(score, seen.best) * contract.BLOCK + lax.iota(jnp.int32, contract.BLOCK)
    x = row.load(column).astype(jnp.float32)
    x = jnp.where((column < row.vocab) & (x == x), x, -jnp.inf)
    token = _winner(row.scores(x, column), column)
    return token, _log_total(seen.center, seen.total), 0


def _see_blocks(row, seen, number, slab):
    (x,) = slab
    is_number = x == x
    center = jnp.maximum(jnp.where(is_number, x, -jnp.inf).max(axis=1), _LOWEST)
    apart = x - center[:, None]
    largest = jnp.maximum(seen.center, center)
    # A NaN stays in the total, and shows in the log-probability.
    total = seen.total * jnp.exp(seen.center - largest)
    total += jnp.exp(apart).sum(axis=1) * jnp.exp(center - largest)

    heated = jnp.where(is_number, apart * row.inverse, -jnp.inf)
    log_mass = jnp.log(jnp.exp(heated).sum(axis=1))
    block = number * _SLAB_BLOCKS + lax.iota(jnp.int32, _SLAB_BLOCKS)
    score = log_mass + noise.gumbel(noise.bits_of(row.keys, block, contract.BLOCK_STREAM))
    # A block's own maximum has mass 1. So in greedy rows all scores are 0, and centers decide.
    score = jnp.where(row.is_greedy > 0, jnp.minimum(log_mass, 0.0), score)
    is_better = (center - seen.best_center) * row.inverse + score > seen.best_score
    return _Blocks(
        center=largest,
        total=total,
        best=jnp.where(is_better, block, seen.best),
        best_center=jnp.where(is_better, center, seen.best_center),
        best_score=jnp.where(is_better, score, seen.best_score),
    )


# Rows with top-k: candidates, their threshold, their noise.


def _draw_from_top_k(row, levels):
    """Returns the token, log sum exp(x), and 1 where the candidates were not enough, else 0."""
    values, columns, log_total = _candidates(row, levels)
    largest, outside = values[0].max(), values[-1].max()
    # Every lane has a candidate: up to 1,024 of them, the k-th is no lower than the lowest first.
    lowest = jnp.where(row.top_k <= _LANES, values[0].min(), -jnp.inf)

    def at_least(threshold):
        counts: Any = sum(_ones(value >= threshold) for value in values)
        return counts.sum()

    threshold = _kth_largest(at_least, row.top_k, lowest, largest)
    best = _nothing()
    for value, column in zip(values, columns, strict=True):
        score = jnp.where(value >= threshold, row.scores(value, column), -jnp.inf)
        best = _better(best, (score, column))
    token = _winner(*best)

    lowest_needed = jnp.where(row.is_greedy > 0, largest, threshold)
    is_certain = (lowest_needed > outside) | (outside == -jnp.inf)
    token = lax.cond(is_certain, lambda: token, lambda: _draw_in_full(row, threshold, largest))
    return token, log_total, jnp.where(is_certain, 0, 1)


def _candidates(row, levels):
    """Returns the `levels` largest logits of every lane, level by level, and their columns.

    Equal logits stay in the order of their columns. The third result is log sum exp(x).
    """

    def body(carry, number, slab):
        values, chunks, total = list(carry[0]), list(carry[1]), carry[2]
        for i, value in enumerate(slab):
            chunk = jnp.full((_LANES,), number * _CHUNKS + i, jnp.int32)
            apart = value - jnp.maximum(values[0], _LOWEST)
            mass = jnp.exp(-jnp.abs(apart))
            total = jnp.where(apart > 0, total * mass + 1.0, total + mass)
            for level in range(levels):
                above = value > values[level]
                kept = (values[level], chunks[level])
                values[level] = jnp.where(above, value, kept[0])
                chunks[level] = jnp.where(above, chunk, kept[1])
                value = jnp.where(above, kept[0], value)
                chunk = jnp.where(above, kept[1], chunk)
        return tuple(values), tuple(chunks), total

    start = (jnp.full((_LANES,), -jnp.inf),) * levels, (jnp.zeros((_LANES,), jnp.int32),) * levels
    values, chunks, total = _stream(row, _chunks(), body, (*start, jnp.zeros((_LANES,))))
    columns = [chunk * _LANES + _lane() for chunk in chunks]
    return values, columns, _log_total(jnp.maximum(values[0], _LOWEST), total)


def _draw_in_full(row, at_least_as_large, largest):
    """Draws from the whole row. Its k-th largest logit lies between the two given."""

    def at_least(threshold):
        def body(count, number, slab):
            return count + sum(_ones(x >= threshold) for x in slab)

        return _stream(row, _chunks(), body, jnp.zeros((_LANES,), jnp.int32)).sum()

    threshold = _kth_largest(at_least, row.top_k, at_least_as_large, largest)

    def body(best, number, slab):
        for i, x in enumerate(slab):
            column = (number * _CHUNKS + i) * _LANES + _lane()
            score = jnp.where(x >= threshold, row.scores(x, column), -jnp.inf)
            best = _better(best, (score, column))
        return best

    return _winner(*_stream(row, _chunks(), body, _nothing()))


# Arithmetic on lanes.


def _kth_largest(at_least, k, lowest, largest):
    """Returns a t with at_least(t) == k, or else the largest t with at_least(t) >= k.

    Bisects the floats between `lowest` and `largest`; `lowest` where none of them has k.
    """

    def halve(bounds):
        low, high = bounds
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # Rounded up, without overflow.
        count = at_least(_from_image(middle))
        # With exactly k at or above it the middle will do, whether or not it is one of them.
        high = jnp.where(count > k, high, jnp.where(count == k, middle, middle - 1))
        return jnp.where(count >= k, middle, low), high

    bounds = _to_image(lowest), _to_image(largest)
    return _from_image(lax.while_loop(lambda bounds: bounds[0] < bounds[1], halve, bounds)[0])


def _to_image(x):
    """Maps floats to integers in the same order."""
    image = lax.bitcast_convert_type(x, jnp.int32)
    return image ^ ((image >> 31) & 0x7FFFFFFF)


def _from_image(image):
    return lax.bitcast_convert_type(image ^ ((image >> 31) & 0x7FFFFFFF), jnp.float32)


def _log_total(center, total):
    """log of the sum of total * exp(center)."""
    largest = center.max()
    return largest + jnp.log((total * jnp.exp(center - largest)).sum())


def _nothing():
    return jnp.full((_LANES,), -jnp.inf), _lane()


def _better(best, other):
    """Keeps the larger score, with its column, lane by lane: the lower column among equals."""
    score, column = best
    is_better = (other[0] > score) | ((other[0] == score) & (other[1] < column))
    return jnp.where(is_better, other[0], score), jnp.where(is_better, other[1], column)


def _winner(score, number):
    """Returns the lowest number of the largest score."""
    return jnp.where(score == score.max(), number, jnp.iinfo(jnp.int32).max).min()


def _ones(mask):
    return jnp.where(mask, 1, 0)
