"""Sampling on TPU: eight rows at a time rest in VMEM and are read there as often as needed.

Rows with top-k: one pass keeps the largest few logits of each of 512 lane groups. The exact
threshold is found among these *candidates* by bisection, and holds (the *certificate*) if it lies
strictly above everything a group has dropped; then the candidates alone draw noise. Else the
resident row is bisected and draws noise in full. Rows without top-k: one pass sums the mass of
each block, and only the block that wins draws noise for its columns.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from bstar_jax.kernels import contract, noise

_ROWS, _LANES = _TILE = 8, 128
_GROUPS = 4  # Tile t feeds the groups t % 4, one a lane: 512 groups.
_SLAB_TILES = 16  # Tiles read with one dynamic address: computing one a tile would be slower.
_BLOCK_TILES = contract.BLOCK // _LANES
_VMEM_SPARE = 4 << 20


def sample(
    logits_BV: Float[Array, "B V"],
    rows: contract.Rows,
    *,
    vocab: int,
    kmax: int,
    interpret: bool = False,
) -> contract.Sample:
    """Draws as `bstar_jax.kernels.sample` promises, what `contract.suits_kernels` lets through."""
    size = logits_BV.shape[0]
    width = pl.cdiv(vocab, contract.BLOCK) * contract.BLOCK
    blocks = pl.cdiv(width // contract.BLOCK, _LANES) * _LANES
    levels = 3 if kmax <= 16 else 4 if kmax <= 64 else 5
    top_k_B = jnp.where(rows.has_top_k_B(vocab), 0 if rows.top_k_B is None else rows.top_k_B, 0)
    keys_B2 = lax.bitcast_convert_type(rows.keys_B2, jnp.int32)
    is_greedy_B = rows.is_greedy_B.astype(jnp.int32)
    by_row = (keys_B2[:, 0], keys_B2[:, 1], rows.inverse_B, is_greedy_B, top_k_B)
    # A number a row, repeated over the lanes: broadcasting inside the loops costs more.
    by_row = [jnp.broadcast_to(array_B[:, None], (size, _LANES)) for array_B in by_row]
    row_spec = pl.BlockSpec((_ROWS, _LANES), lambda i: (i, 0))
    candidates = levels * _GROUPS
    token, log_total, status = pl.pallas_call(
        functools.partial(_kernel, vocab=vocab, size=size, levels=levels),
        grid=(pl.cdiv(size, _ROWS),),
        in_specs=[pl.BlockSpec((_ROWS, width), lambda i: (i, 0)), *[row_spec] * len(by_row)],
        out_specs=[row_spec] * 3,
        out_shape=[
            jax.ShapeDtypeStruct((size, _LANES), dtype)
            for dtype in (jnp.int32, jnp.float32, jnp.int32)
        ],
        scratch_shapes=[
            pltpu.VMEM((_ROWS, _LANES), jnp.float32),
            pltpu.VMEM((candidates, _ROWS, _LANES), jnp.float32),
            pltpu.VMEM((candidates, _ROWS, _LANES), jnp.int32),
            pltpu.VMEM((_ROWS, blocks), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            vmem_limit_bytes=2 * _ROWS * width * logits_BV.dtype.itemsize + _VMEM_SPARE,
        ),
        cost_estimate=pl.CostEstimate(
            flops=30 * size * vocab,
            transcendentals=2 * size * vocab,
            bytes_accessed=size * vocab * logits_BV.dtype.itemsize,
        ),
        interpret=interpret,
    )(logits_BV, *by_row)
    token_B = token[:, 0]
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return contract.Sample(token_B, chosen_B.astype(jnp.float32) - log_total[:, 0], status[:, 0])


def _kernel(
    x_ref, key_0_ref, key_1_ref, inverse_ref, is_greedy_ref, top_k_ref,
    token_ref, log_total_ref, status_ref,
    center_ref, value_ref, tile_ref, mass_ref, *, vocab, size, levels,
):  # fmt: skip
    rows = _Rows((key_0_ref, key_1_ref), inverse_ref, is_greedy_ref, top_k_ref)
    # Rows past the end of the batch hold whatever was in memory: nothing is done for them.
    is_row = pl.program_id(0) * _ROWS + lax.broadcasted_iota(jnp.int32, _TILE, 0) < size
    has_top_k = is_row & (top_k_ref[...] > 0)
    any_top_k = _any(has_top_k)

    @pl.when(any_top_k)
    def _():
        _keep_candidates(x_ref, value_ref, tile_ref, vocab, levels)
        largest = [value_ref[group] for group in range(_GROUPS)]
        center_ref[...] = _finite(_lane_max(functools.reduce(jnp.maximum, largest)))

    @pl.when(jnp.logical_not(any_top_k))
    def _():
        center_ref[...] = _finite(_lane_max(_maximum(x_ref, vocab)))

    log_total_ref[...] = center_ref[...] + jnp.log(_total(x_ref, center_ref, vocab))
    status_ref[...] = jnp.zeros(_TILE, jnp.int32)

    @pl.when(_any(is_row & (top_k_ref[...] <= 0)))
    def _():
        _sum_blocks(x_ref, center_ref, rows, mass_ref, vocab)
        token_ref[...] = _draw_by_block(x_ref, mass_ref, rows, vocab)

    @pl.when(any_top_k)
    def _():
        threshold, outside = _candidate_threshold(value_ref, rows)
        token = _draw_candidates(value_ref, tile_ref, threshold, rows)
        token_ref[...] = jnp.where(has_top_k, token, token_ref[...])
        lowest_needed = jnp.where(rows.is_greedy, center_ref[...], threshold)
        is_certain = (lowest_needed > outside) | (outside == -jnp.inf)
        status_ref[...] = (has_top_k & ~is_certain).astype(jnp.int32)

    @pl.when(_any(status_ref[...] > 0))
    def _():
        token = _draw_in_full(x_ref, _row_threshold(x_ref, rows, vocab), rows, vocab)
        token_ref[...] = jnp.where(status_ref[...] > 0, token, token_ref[...])


class _Rows(NamedTuple):
    """The settings of eight rows, each repeated over the lanes; read anew at every use."""

    key_refs: tuple
    inverse_ref: Any
    is_greedy_ref: Any
    top_k_ref: Any

    @property
    def is_greedy(self):
        return self.is_greedy_ref[...] > 0

    def words(self, counter, stream: int):
        """Returns both noise words of a tile of counters."""
        keys = (self.key_refs[0][...], self.key_refs[1][...])
        return noise.threefry2x32(keys, (jnp.full_like(counter, stream), counter))

    def scores(self, x, bits):
        """x / T + g; the logit itself in a greedy row."""
        score = x * self.inverse_ref[...] + noise.gumbel(bits)
        return jnp.where(self.is_greedy, x, score)


# Passes over the resident rows. A tile is (8 rows, 128 lanes), column = 128 * tile + lane.


def _each_slab(x_ref, vocab, body, carry):
    """Folds body(carry, first tile, tiles) over the row, -inf where it passes the vocabulary."""
    slab = _SLAB_TILES * _LANES

    def step(s, carry):
        start = pl.multiple_of(s * slab, slab)
        return body(carry, s * _SLAB_TILES, _tiles(x_ref[:, pl.ds(start, slab)]))

    slabs = vocab // slab
    if slabs:
        carry = lax.fori_loop(0, slabs, step, carry)
    if vocab % slab:
        tiles = _tiles(x_ref[:, slabs * slab :])
        first = slabs * _SLAB_TILES
        tiles = [_inside(tile, first + t, vocab) for t, tile in enumerate(tiles)]
        carry = body(carry, first, tiles)
    return carry


def _tiles(x):
    x = x.astype(jnp.float32)
    return [x[:, start : start + _LANES] for start in range(0, x.shape[1], _LANES)]


def _inside(tile, number, vocab):
    """Replaces columns beyond the vocabulary by -inf; `number` may differ from row to row."""
    return jnp.where(number * _LANES + _lane() < vocab, tile, -jnp.inf)


def _maximum(x_ref, vocab):
    def body(largest, first, tiles):
        largest = list(largest)
        for t, tile in enumerate(tiles):  # In turns: a chain of comparisons would wait for itself.
            i = t % _GROUPS
            largest[i] = jnp.where(tile > largest[i], tile, largest[i])  # NaN never is larger.
        return tuple(largest)

    start = (jnp.full(_TILE, -jnp.inf),) * _GROUPS
    return functools.reduce(jnp.maximum, _each_slab(x_ref, vocab, body, start))


def _total(x_ref, center_ref, vocab):
    """Sum of exp(x - center) over the row, on every lane; NaN if any logit is."""

    def body(total, first, tiles):
        center = center_ref[...]
        return total + _sum([jnp.exp(tile - center) for tile in tiles])

    return _lane_sum(_each_slab(x_ref, vocab, body, jnp.zeros(_TILE)))


# Rows without top-k: the mass of each block, a block, one of its columns.


def _sum_blocks(x_ref, center_ref, rows, mass_ref, vocab):
    """Writes the mass of block b to lane b: sum of exp((x - center) / T) over its columns."""
    mass_ref[...] = jnp.zeros(mass_ref.shape, jnp.float32)

    def body(carry, first, tiles):
        center, inverse = center_ref[...], rows.inverse_ref[...]
        block = first >> 1
        start = block - (block & (_LANES - 1))
        place = pl.ds(start if isinstance(start, int) else pl.multiple_of(start, _LANES), _LANES)
        masses = mass_ref[:, place]
        scaled = [(tile - center) * inverse for tile in tiles]
        mass = [jnp.where(tile == tile, jnp.exp(tile), 0.0) for tile in scaled]
        for i in range(0, len(tiles), _BLOCK_TILES):
            lane = block + i // _BLOCK_TILES - start
            masses = jnp.where(_lane() == lane, _lane_sum(_sum(mass[i : i + _BLOCK_TILES])), masses)
        mass_ref[:, place] = masses
        return carry

    _each_slab(x_ref, vocab, body, 0)


def _draw_by_block(x_ref, mass_ref, rows, vocab):
    best = (jnp.full(_TILE, -jnp.inf), jnp.zeros(_TILE, jnp.int32))
    for pair in range(0, mass_ref.shape[1] // _LANES, 2):
        words = rows.words(pair // 2 * _LANES + _lane(), contract.BLOCK_STREAM)
        for group, bits in zip(range(pair, mass_ref.shape[1] // _LANES), words, strict=False):
            mass = mass_ref[:, group * _LANES : (group + 1) * _LANES]
            score = jnp.log(mass) + noise.gumbel(bits)
            score = jnp.where(rows.is_greedy, _ones(mass > 0), score)
            best = _better(best, (score, jnp.full(_TILE, group)))
    block = _winner(*best)

    # Eight rows, eight blocks: each is read for all rows, and its own row is kept.
    row = lax.broadcasted_iota(jnp.int32, _TILE, 0)
    tiles = [jnp.zeros(_TILE)] * _BLOCK_TILES
    for r in range(_ROWS):
        number = jnp.max(jnp.where(row == r, block.astype(jnp.float32), 0.0)).astype(jnp.int32)
        start = pl.multiple_of(number * contract.BLOCK, contract.BLOCK)
        slab = _tiles(x_ref[:, pl.ds(start, contract.BLOCK)])
        tiles = [jnp.where(row == r, new, old) for new, old in zip(slab, tiles, strict=True)]
    words = rows.words(block * _LANES + _lane(), contract.COLUMN_STREAM)
    best = (jnp.full(_TILE, -jnp.inf), block * _BLOCK_TILES)
    for t, (tile, bits) in enumerate(zip(tiles, words, strict=True)):
        number = block * _BLOCK_TILES + t
        score = rows.scores(_inside(tile, number, vocab), bits)
        best = _better(best, (score, number))
    return _winner(*best)


# Rows with top-k: candidates, their threshold, their noise.


def _keep_candidates(x_ref, value_ref, tile_ref, vocab, levels):
    """Keeps the `levels` largest logits of every lane of every group, and their tiles.

    Entry level * _GROUPS + group; equal logits stay in the order of their columns.
    """
    count = levels * _GROUPS

    def body(carry, first, tiles):
        values, numbers = list(carry[:count]), list(carry[count:])
        for t, value in enumerate(tiles):
            number = jnp.full(_TILE, first + t, jnp.int32)
            for place in range(t % _GROUPS, count, _GROUPS):
                above = value > values[place]
                kept = (values[place], numbers[place])
                values[place] = jnp.where(above, value, kept[0])
                numbers[place] = jnp.where(above, number, kept[1])
                value = jnp.where(above, kept[0], value)
                number = jnp.where(above, kept[1], number)
        return (*values, *numbers)

    nothing = [jnp.full(_TILE, -jnp.inf)] * count + [jnp.zeros(_TILE, jnp.int32)] * count
    found = _each_slab(x_ref, vocab, body, tuple(nothing))
    for place in range(count):
        value_ref[place], tile_ref[place] = found[place], found[count + place]


def _candidate_threshold(value_ref, rows):
    """Returns the k-th largest candidate, and the largest logit that may not be a candidate."""
    count = value_ref.shape[0]

    def at_least(threshold):
        return _lane_sum(_sum([_ones(value_ref[i] >= threshold) for i in range(count)]))

    last = [value_ref[place] for place in range(count - _GROUPS, count)]
    threshold = _kth_largest(at_least, rows)
    # NaN: there are fewer candidates than top-k; all may be drawn if no logit was dropped.
    threshold = jnp.where(jnp.isnan(threshold), -jnp.inf, threshold)
    return threshold, _lane_max(functools.reduce(jnp.maximum, last))


def _draw_candidates(value_ref, tile_ref, threshold, rows):
    best = (jnp.full(_TILE, -jnp.inf), jnp.zeros(_TILE, jnp.int32))
    for place in range(value_ref.shape[0]):
        value, number = value_ref[place], tile_ref[place]
        words = rows.words((number >> 1) * _LANES + _lane(), contract.COLUMN_STREAM)
        bits = jnp.where(number & 1 == 0, *words)
        score = jnp.where(value >= threshold, rows.scores(value, bits), -jnp.inf)
        best = _better(best, (score, number))
    return _winner(*best)


# Rows whose candidates were not enough: the same over the whole row.


def _row_threshold(x_ref, rows, vocab):
    def at_least(threshold):
        def body(total, first, tiles):
            return total + _sum([_ones(tile >= threshold) for tile in tiles])

        return _lane_sum(_each_slab(x_ref, vocab, body, jnp.zeros(_TILE)))

    return _kth_largest(at_least, rows)


def _draw_in_full(x_ref, threshold, rows, vocab):
    def body(best, first, tiles):
        for t in range(0, len(tiles), 2):
            words = rows.words(((first + t) >> 1) * _LANES + _lane(), contract.COLUMN_STREAM)
            for i, bits in enumerate(words):
                score = rows.scores(tiles[t + i], bits)
                score = jnp.where(tiles[t + i] >= threshold, score, -jnp.inf)
                best = _better(best, (score, jnp.full(_TILE, first + t + i, jnp.int32)))
        return best

    start = (jnp.full(_TILE, -jnp.inf), jnp.zeros(_TILE, jnp.int32))
    return _winner(*_each_slab(x_ref, vocab, body, start))


# Arithmetic on tiles.


def _kth_largest(at_least, rows):
    """Returns the largest t with at_least(t) >= k, by bisection on the floats' bit patterns."""
    k = rows.top_k_ref[...].astype(jnp.float32)

    def settle(i, found):
        trial = found + lax.shift_left(jnp.int32(1), 31 - i)
        return jnp.where(at_least(_float(trial)) >= k, trial, found)

    return _float(lax.fori_loop(0, 32, settle, jnp.full(_TILE, jnp.iinfo(jnp.int32).min)))


def _float(image):
    """Maps integers to floats in the same order; the lowest and highest to NaN."""
    return lax.bitcast_convert_type(image ^ ((image >> 31) & 0x7FFFFFFF), jnp.float32)


def _better(best, other):
    """Keeps the larger score, with its number, lane by lane: the earlier among equals."""
    score, number = best
    is_better = (other[0] > score) | ((other[0] == score) & (other[1] < number))
    return jnp.where(is_better, other[0], score), jnp.where(is_better, other[1], number)


def _winner(score, number):
    """Returns the lowest 128 * number + lane of the largest score, on every lane."""
    # As floats, exact below 2^24: lanes reduce floats only.
    index = (number * _LANES + _lane()).astype(jnp.float32)
    index = jnp.where(score == _lane_max(score), index, jnp.inf)
    return jnp.broadcast_to(jnp.min(index, axis=1, keepdims=True), _TILE).astype(jnp.int32)


def _sum(tiles):
    """Adds pairs of pairs: short chains, and less rounding than one after the other."""
    while len(tiles) > 1:
        tiles = [functools.reduce(jnp.add, tiles[i : i + 2]) for i in range(0, len(tiles), 2)]
    return tiles[0]


def _lane():
    return lax.broadcasted_iota(jnp.int32, _TILE, 1)


def _lane_max(tile):
    return jnp.broadcast_to(jnp.max(tile, axis=1, keepdims=True), _TILE)


def _lane_sum(tile):
    return jnp.broadcast_to(jnp.sum(tile, axis=1, keepdims=True), _TILE)


def _ones(mask):
    return jnp.where(mask, 1.0, 0.0)


def _any(mask):
    return jnp.max(_ones(mask)) > 0


def _finite(center):
    return jnp.where(jnp.abs(center) < jnp.inf, center, 0.0)
