"""The balance score over a grid of cells, the choice, and how certain it is."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bstar_jax.balance.rules import RULES
from bstar_jax.balance.score import (
    DIGIT_BITS,
    EXACT_DIGITS,
    check_settings,
    objective_micro,
    score_digits,
)
from bstar_jax.balance.selection import GradedResponses, rank
from bstar_jax.metrics import MICRO, to_micro

_BOOTSTRAP_DIGITS = 2  # 24 bits, what a float32 holds
_PERCENTILES = (2.5, 97.5)
BLOCK_BYTES = 256 * 2**20
"""Bytes of the largest array that the device programs make, by default."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One cell: how to sample, and what to keep.

    Attributes:
      temperature: Divides the logits in sampling; 0 is greedy.
      top_k: Tokens kept in sampling; 0 is off.
      threshold: Responses with a reward strictly above it are kept.
      process_weight: Factor of the process reward in the reward.
    """

    temperature: float
    top_k: int
    threshold: float
    process_weight: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells searched: every combination of the values of four axes.

    Attributes:
      temperatures: Values of `Choice.temperature`.
      top_ks: Values of `Choice.top_k`.
      thresholds: Values of `Choice.threshold`.
      process_weights: Values of `Choice.process_weight`.

    Raises:
      ValueError: If an axis is empty.
    """

    temperatures: tuple[float, ...]
    top_ks: tuple[int, ...]
    thresholds: tuple[float, ...]
    process_weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if 0 in self.shape:
            raise ValueError(f"every axis of a grid needs a value, got lengths {self.shape}")

    @property
    def axes(self) -> dict[str, tuple]:
        """Values by the field of `Choice` that they are for, in axis order T, K, H, W."""
        values = (self.temperatures, self.top_ks, self.thresholds, self.process_weights)
        names = (field.name for field in dataclasses.fields(Choice))
        return dict(zip(names, values, strict=True))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths (T, K, H, W)."""
        num_t, num_k, num_h, num_w = (len(values) for values in self.axes.values())
        return num_t, num_k, num_h, num_w

    def choice(self, index: tuple[int, int, int, int]) -> Choice:
        """Returns the cell at (t, k, h, w)."""
        return Choice(*(axis[i] for axis, i in zip(self.axes.values(), index, strict=True)))


@dataclasses.dataclass(frozen=True)
class Surface:
    """The balance score over the grid, and the cell chosen.

    Attributes:
      grid: The cells.
      rules: A key of `RULES`.
      score_TKHW: Objectives, rounded to 1e-6.
      low_TKHW: 2.5 percentiles of the resampled objectives, rounded to 1e-6.
      high_TKHW: 97.5 percentiles.
      index: (t, k, h, w) of the highest score; among equals the first in axis order.
      probability_best: Share of resamples in which no cell beats the chosen one, objectives
        rounded to 1e-6; a tie counts for the choice.
      num_queries: Q, calibration queries.
      num_samples: N, responses a query, temperature and top-k.
    """

    grid: Grid
    rules: str
    score_TKHW: Float[np.ndarray, "T K H W"]
    low_TKHW: Float[np.ndarray, "T K H W"]
    high_TKHW: Float[np.ndarray, "T K H W"]
    index: tuple[int, int, int, int]
    probability_best: float
    num_queries: int
    num_samples: int

    @property
    def choice(self) -> Choice:
        """The cell chosen."""
        return self.grid.choice(self.index)

    def to_json(self) -> dict:
        """Returns the content of balance.json: no NaN; nested lists are indexed [T][K][H][W]."""
        chosen = {
            "balance_score": float(self.score_TKHW[self.index]),
            "balance_low": float(self.low_TKHW[self.index]),
            "balance_high": float(self.high_TKHW[self.index]),
        }
        return {
            "axes": {name: list(values) for name, values in self.grid.axes.items()},
            "score": self.score_TKHW.tolist(),
            "low": self.low_TKHW.tolist(),
            "high": self.high_TKHW.tolist(),
            "chosen": dataclasses.asdict(self.choice) | chosen,
            "probability_best": self.probability_best,
            "rules": self.rules,
            "queries": self.num_queries,
            "samples": self.num_samples,
        }


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["graded", "reward_TKWQN", "threshold_H", "cap", "target_correct"],
    meta_fields=["rules"],
)
@dataclasses.dataclass(frozen=True)
class GridSearch:
    """The input of the two device programs; everything but `rules` and the shapes is traced.

    Attributes:
      graded: Graded responses, arrays [T, K, Q, N].
      reward_TKWQN: Their rewards at each process weight, micro-units, int32.
      threshold_H: Micro-units, int32.
      cap: Most responses selected a query; 0 keeps all.
      target_correct: n*.
      rules: A key of `RULES`.
    """

    graded: GradedResponses
    reward_TKWQN: Array
    threshold_H: Array
    cap: Array
    target_correct: Array
    rules: str

    @property
    def slabs(self) -> Array:
        """Indices of the slabs, (t, k, w) in axis order."""
        return jnp.arange(int(np.prod(self.reward_TKWQN.shape[:3])))

    def digits(self, slab: Array, num_digits: int) -> Int[Array, "I+1 Q H"]:
        """Computes `score_digits` of a slab: one sort serves all of its thresholds."""
        num_weights, *queries = self.reward_TKWQN.shape[2:]
        reward_QN = self.reward_TKWQN.reshape(-1, *queries)[slab]
        cell = slab // num_weights
        graded = jax.tree.map(lambda x_TKQN: x_TKQN.reshape(-1, *queries)[cell], self.graded)
        ranking = rank(graded, reward_QN, self.rules)
        counts = ranking.counts(ranking.reach(self.threshold_H, self.cap))
        return score_digits(*counts, self.target_correct, num_digits)


@partial(jax.jit, static_argnames="block")
def digit_sums(search: GridSearch, block: int) -> Int[Array, "C I+1 H"]:
    """Sums `score_digits` over queries, a block of slabs at a time; `objective_micro` reads it."""
    return jax.lax.map(
        lambda slab: search.digits(slab, EXACT_DIGITS).sum(axis=1), search.slabs, batch_size=block
    )


@partial(jax.jit, static_argnames=("num_resamples", "num_queries"))
def bootstrap_counts(key: Array, num_resamples: int, num_queries: int) -> Int[Array, "R Q"]:
    """Draws Q queries with replacement for each resample; returns how often each was drawn.

    One draw serves every cell, so that cells are compared on the same queries (paired).
    """
    drawn_RQ = jax.random.randint(key, (num_resamples, num_queries), 0, num_queries)
    return jax.vmap(lambda drawn_Q: jnp.bincount(drawn_Q, length=num_queries))(drawn_RQ)


@partial(jax.jit, static_argnames="block")
def bootstrap(
    search: GridSearch, counts_RQ: Array, choice: tuple[Array, Array], block: int
) -> tuple[Float[Array, "C 2 H"], Int[Array, ""]]:
    """Computes the interval of each cell, and in how many resamples the choice is best.

    Args:
      search: The cells.
      counts_RQ: As `bootstrap_counts` returns them.
      choice: Indices (slab, h) of the chosen cell.
      block: Slabs computed at once.
    """

    def resample(slab: Array) -> tuple[Array, Array, Array]:
        # Whole numbers up to 2^24: exact in float32 in any order of adding, for Q <= 4096.
        first_RH, second_RH, num_covered_RH = jnp.einsum(
            "rq,iqh->irh",
            counts_RQ.astype(jnp.float32),
            search.digits(slab, _BOOTSTRAP_DIGITS).astype(jnp.float32),
            precision="highest",
        )
        total_RH = (first_RH + second_RH * 2.0**-DIGIT_BITS) * 2.0**-DIGIT_BITS
        covered_only = RULES[search.rules].averages_covered_queries
        count = jnp.maximum(num_covered_RH, 1.0) if covered_only else counts_RQ.shape[1]
        mean_RH = total_RH / count
        micro_RH = jnp.rint(mean_RH * MICRO)
        chosen_R = jnp.where(slab == choice[0], micro_RH[:, choice[1]], 0.0)
        interval_2H = jnp.percentile(mean_RH, jnp.array(_PERCENTILES), axis=0)
        return interval_2H, micro_RH.max(axis=1), chosen_R

    interval_C2H, best_CR, chosen_CR = jax.lax.map(resample, search.slabs, batch_size=block)
    return interval_C2H, (chosen_CR.max(axis=0) >= best_CR.max(axis=0)).sum()


def slabs_per_block(grid: Grid, num_queries: int, num_resamples: int, max_bytes: int) -> int:
    """Returns how many slabs the programs compute at once.

    Args:
      grid: The cells.
      num_queries: Q.
      num_resamples: R.
      max_bytes: Bytes of the largest array.

    Raises:
      ValueError: If an array of a single slab is larger.
    """
    num_slabs = int(np.prod(grid.shape)) // len(grid.thresholds)
    widest = max((EXACT_DIGITS + 1) * num_queries, (_BOOTSTRAP_DIGITS + 1) * num_resamples)
    slab_bytes = 4 * len(grid.thresholds) * widest
    if max(slab_bytes, 4 * num_slabs * num_resamples) > max_bytes:
        raise ValueError(
            f"{num_resamples} resamples of {num_queries} queries for {len(grid.thresholds)} "
            f"thresholds and {num_slabs} other settings need an array of more than {max_bytes} "
            "bytes; use fewer resamples or thresholds"
        )
    return min(num_slabs, max_bytes // slab_bytes)


def balance_surface(
    grid: Grid,
    graded: GradedResponses,
    key: Array,
    *,
    target_correct: int,
    cap: int = 0,
    rules: str = "paper",
    num_resamples: int = 1000,
    max_bytes: int = BLOCK_BYTES,
) -> Surface:
    """Scores every cell of the grid on the calibration responses, and chooses one.

    Compiles once for each grid shape: other temperatures, thresholds, weights, caps, targets and
    keys run the same programs. A grid of one cell is a fixed choice, which is scored.

    Args:
      grid: The cells.
      graded: Graded calibration responses, arrays [T, K, Q, N]; the same queries in the same order
        for every temperature and top-k.
      key: JAX key of the bootstrap.
      target_correct: n*, unique correct responses wanted a query, at least 1.
      cap: Most responses selected a query; 0 keeps all.
      rules: A key of `RULES`.
      num_resamples: R, at least 1.
      max_bytes: Bytes of the largest array of the device programs, which work in blocks; results
        do not depend on it.

    Raises:
      ValueError: If an array does not fit the grid, or a setting is out of range.
    """
    num_t, num_k, num_h, num_w = grid.shape
    shape = graded.checked_shape(4)
    num_queries, num_samples = shape[2:]
    if shape[:2] != (num_t, num_k):
        raise ValueError(
            f"the responses have shape {shape}, the grid wants [{num_t}, {num_k}, Q, N]"
        )
    check_settings(target_correct, shape, rules=rules, cap=cap)
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples} must be at least 1")
    block = slabs_per_block(grid, num_queries, num_resamples, max_bytes)
    reward_TKWQN = np.stack([graded.rewards(weight) for weight in grid.process_weights], axis=2)
    numbers = to_micro(grid.thresholds), np.int32(cap), np.int32(target_correct)
    search = GridSearch(
        *jax.device_put((graded.without_score(), reward_TKWQN, *numbers)), rules=rules
    )

    def to_grid(value_CH: np.ndarray) -> np.ndarray:
        return value_CH.reshape(num_t, num_k, num_w, num_h).swapaxes(2, 3)

    sums_CIH = jax.device_get(digit_sums(search, block))
    micro_TKHW = to_grid(objective_micro(sums_CIH, num_queries, rules, axis=1))
    t, k, h, w = (int(i) for i in np.unravel_index(np.argmax(micro_TKHW), micro_TKHW.shape))
    choice = jax.device_put((np.int32((t * num_k + k) * num_w + w), np.int32(h)))
    counts_RQ = bootstrap_counts(key, num_resamples, num_queries)
    interval_C2H, num_best = jax.device_get(bootstrap(search, counts_RQ, choice, block))
    low_CH, high_CH = np.round(interval_C2H.astype(np.float64), 6).swapaxes(0, 1)
    return Surface(
        grid=grid,
        rules=rules,
        score_TKHW=micro_TKHW / MICRO,
        low_TKHW=to_grid(low_CH),
        high_TKHW=to_grid(high_CH),
        index=(t, k, h, w),
        probability_best=int(num_best) / num_resamples,
        num_queries=num_queries,
        num_samples=num_samples,
    )
