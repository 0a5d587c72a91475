"""Selection of responses: their rewards, ranks, and the reference's second choice of a filter."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bstar_jax.balance.rules import RULES
from bstar_jax.balance.score import EXACT_DIGITS, check_settings, objective_micro, score_digits
from bstar_jax.metrics import to_micro

_UNRANKED = np.iinfo(np.int32).max  # as a cost: its reward is below every threshold


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradedResponses:
    """Graded responses as selection sees them: arrays of one shape, [Q, N] or [T, K, Q, N].

    Attributes:
      is_correct: Whether the response counts as correct.
      process_reward: float32 as stored, in [-1, 1]; 0 where there is none.
      is_eligible: Whether the answer is readable and the response ended before the length limit.
      is_first: Whether no equal text (stripped) of the query has a lower sample_index, within a
        temperature and top-k. A repeat is never selected, whatever becomes of its first.
      tie_rank: Orders the texts of a query as their SHA-256 does: any integers, int32, equal for
        equal texts.
      score: float32 as stored, in [0, 1]: how right the response is, where that is not just
        `is_correct`. Rewards are made of it on the host, and it never goes to a device.
    """

    is_correct: Bool[Array | np.ndarray, "*cells Q N"]
    process_reward: Float[Array | np.ndarray, "*cells Q N"]
    is_eligible: Bool[Array | np.ndarray, "*cells Q N"]
    is_first: Bool[Array | np.ndarray, "*cells Q N"]
    tie_rank: Int[Array | np.ndarray, "*cells Q N"]
    score: Float[np.ndarray, "*cells Q N"] | None = None

    def checked_shape(self, num_axes: int) -> tuple[int, ...]:
        """Returns the shape of all arrays.

        Args:
          num_axes: 2 for [Q, N], 4 for [T, K, Q, N].

        Raises:
          ValueError: If shapes differ, an axis is empty, or a mask is not boolean.
        """
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        shape = shapes["is_correct"]
        if len(shape) != num_axes or 0 in shape or set(shapes.values()) != {shape}:
            axes = "[Q, N]" if num_axes == 2 else "[T, K, Q, N]"
            raise ValueError(
                f"graded arrays must have one shape {axes} and not be empty, got {shapes}"
            )
        for name in ("is_correct", "is_eligible", "is_first"):
            if arrays[name].dtype != bool:
                raise ValueError(f"{name} must be boolean, got {arrays[name].dtype}")
        return shape

    def rewards(self, process_weight: float) -> np.ndarray:
        """Returns the rewards of the responses, see the function `rewards`."""
        score = self.is_correct if self.score is None else self.score
        return rewards(score, self.process_reward, process_weight)

    def without_score(self) -> "GradedResponses":
        """Returns what goes to a device."""
        return dataclasses.replace(self, score=None)


def rewards(
    score: Bool[Array | np.ndarray, "*axes"] | Float[Array | np.ndarray, "*axes"],
    process_reward: Float[Array | np.ndarray, "*axes"],
    process_weight: float,
) -> Int[np.ndarray, "*axes"]:
    """Computes the rewards of responses in micro-units, int32.

        micro = rint((float64(score) + process_weight * float64(process_reward)) * 1e6)

    on the host, in float64 from the stored float32, halves to even: a script that reads the
    stored columns gets the same numbers by `np.round(reward, 6)`. Files hold micro / 1e6.

    Examples: correct, process reward -0.5, weight 0.2 -> 900000; score 0.25, no process reward
    -> 250000.

    Args:
      score: In [0, 1]; or whether the response is correct.
      process_reward: In [-1, 1]; 0 where there is none.
      process_weight: Factor of the process reward.

    Raises:
      ValueError: If a process reward is not finite, see `to_micro`.
    """
    process = np.asarray(process_reward, np.float32).astype(np.float64)
    return to_micro(np.asarray(score, np.float64) + float(process_weight) * process)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ranking:
    """Each query's responses in order of preference: a selection is the first few ranks.

    Attributes:
      rank_QN: Each response's rank, a permutation of 0..N-1.
      cost_QN: Minus the reward at each rank, ascending; `_UNRANKED` behind the last one.
      kept_QM: How many of the first m ranks are not repeats, m from 0 to N.
      correct_QM: How many of those are correct.
    """

    rank_QN: Int[Array, "Q N"]
    cost_QN: Int[Array, "Q N"]
    kept_QM: Int[Array, "Q M"]
    correct_QM: Int[Array, "Q M"]

    def reach(self, threshold_H: Int[Array, " H"], cap: Int[Array, ""]) -> Int[Array, "Q H"]:
        """Counts the first ranks above each threshold (micro-units) and within the cap."""
        above_QH = jax.vmap(lambda cost_N: jnp.searchsorted(cost_N, -threshold_H))(self.cost_QN)
        return jnp.where(cap == 0, above_QH, jnp.minimum(above_QH, cap))

    def counts(self, reach_QH: Int[Array, "Q H"]) -> tuple[Array, Array]:
        """Counts the correct responses, and all, that selecting these first ranks selects."""
        at = partial(jnp.take_along_axis, indices=reach_QH, axis=1)
        return at(self.correct_QM), at(self.kept_QM)


def rank(graded: GradedResponses, reward_QN: Int[Array, "Q N"], rules: str) -> Ranking:
    """Orders each query's responses by (reward descending, tie_rank, sample_index).

    Under the paper's rules repeats get no rank; under the reference's they come right after
    their first, where they use up the cap.
    """
    is_kept_QN = graded.is_eligible & graded.is_first
    is_ranked_QN = graded.is_eligible if RULES[rules].repeats_use_cap else is_kept_QN
    cost_QN = jnp.where(is_ranked_QN, -reward_QN, _UNRANKED)
    index_QN = jax.lax.broadcasted_iota(jnp.int32, reward_QN.shape, 1)
    is_right_QN = is_kept_QN & graded.is_correct
    columns: Any = (cost_QN, graded.tie_rank, index_QN, is_kept_QN, is_right_QN)
    cost_QN, _, order_QN, *masks = jax.lax.sort(columns, dimension=1, num_keys=3)
    kept_QM, correct_QM = (
        jnp.pad(jnp.cumsum(mask_QN, axis=1, dtype=jnp.int32), ((0, 0), (1, 0))) for mask_QN in masks
    )
    return Ranking(jnp.argsort(order_QN, axis=1), cost_QN, kept_QM, correct_QM)


@partial(jax.jit, static_argnames="rules")
def _select(
    graded: GradedResponses, reward_QN: Array, threshold: Array, cap: Array, rules: str
) -> Array | np.ndarray:
    ranking = rank(graded, reward_QN, rules)
    reach_Q1 = ranking.reach(threshold[None], cap)
    return graded.is_eligible & graded.is_first & (ranking.rank_QN < reach_Q1)


def select(
    graded: GradedResponses,
    *,
    threshold: float,
    process_weight: float,
    cap: int = 0,
    rules: str = "paper",
) -> Bool[Array, "Q N"]:
    """Marks the responses that training uses.

    For each query: of equal texts the one with the lowest sample_index stays; unreadable and cut
    responses go; the reward must exceed the threshold; in the order of (reward descending,
    SHA-256 of the text ascending) the first `cap` stay. Under the reference's rules repeats go
    after the cap, not before.

    Example: rewards 1.2 1.2 0.9 0.1, the second a repeat of the first, threshold 0.5, cap 2 ->
    paper: the first and the third; reference: the first alone.

    Args:
      graded: Graded responses, arrays [Q, N].
      threshold: In units of reward, rounded to 1e-6 as rewards are.
      process_weight: Factor of the process reward in the reward.
      cap: Most responses selected a query, at least 0; 0 keeps all.
      rules: A key of `RULES`.

    Raises:
      ValueError: If an array or a setting is out of range.
    """
    check_settings(1, graded.checked_shape(2), rules=rules, cap=cap)
    rewards_QN = graded.rewards(process_weight)
    arguments = (graded.without_score(), rewards_QN, to_micro(threshold), np.int32(cap))
    return _select(*jax.device_put(arguments), rules)


@partial(jax.jit, static_argnames=("max_cap", "rules"))
def _filters(
    graded: GradedResponses,
    reward_QN: Array,
    threshold_H: Array,
    target_correct: Array,
    target_total: Array,
    max_cap: int,
    rules: str,
) -> tuple[Array, Array]:
    """For each threshold the cap [H], and the sums of `score_digits` with it [H, I + 1]."""
    ranking = rank(graded, reward_QN, rules)
    cap_J = jnp.arange(1, max_cap + 1)

    def one(threshold: Array) -> tuple[Array, Array]:
        reach_Q1 = ranking.reach(threshold[None], jnp.int32(max_cap))
        _, total_QJ = ranking.counts(jnp.minimum(reach_Q1, cap_J[None]))
        is_enough_J = total_QJ.sum(axis=0) >= target_total
        cap = jnp.where(is_enough_J.any(), jnp.argmax(is_enough_J) + 1, max_cap)
        counts = ranking.counts(jnp.minimum(reach_Q1, cap))
        digits_IQ1 = score_digits(*counts, target_correct, EXACT_DIGITS)
        return cap, digits_IQ1.sum(axis=(1, 2))

    return jax.lax.map(one, threshold_H)


def choose_filter(
    graded: GradedResponses,
    thresholds: tuple[float, ...],
    *,
    process_weight: float,
    target_correct: int,
    target_total: int,
    max_cap: int = 64,
    rules: str = "reference",
) -> tuple[float, int]:
    """Chooses threshold and cap again, on the generated responses, where the rules say so.

    For each threshold the cap is the smallest in 1..max_cap with which the selected responses of
    all queries, repeats removed, number at least `target_total`; it is `max_cap` where even that
    selects too few. Of these pairs the one with the highest objective is chosen; among equals, the
    first threshold. What `select` then marks is not cut to `target_total`.

    Example: 3 queries of 4 distinct responses above the only threshold, target_total 5 -> cap 2,
    which selects 6.

    Args:
      graded: Graded responses, arrays [Q, N].
      thresholds: In units of reward, in the order in which ties are broken.
      process_weight: Factor of the process reward in the reward.
      target_correct: n*, unique correct responses wanted a query, at least 1.
      target_total: Selected responses wanted in all, at least 1.
      max_cap: Largest cap tried, at least 1.
      rules: A key of `RULES`.

    Returns:
      (threshold, cap).

    Raises:
      ValueError: If an array or a setting is out of range.
    """
    shape = graded.checked_shape(2)
    check_settings(target_correct, shape, rules=rules)
    if target_total < 1 or max_cap < 1 or not thresholds:
        raise ValueError(
            f"target_total={target_total} and max_cap={max_cap} must be at least 1, and there "
            f"must be a threshold, got {thresholds}"
        )
    targets = (np.int32(target_correct), np.int32(target_total))
    rewards_QN = graded.rewards(process_weight)
    arguments = (graded.without_score(), rewards_QN, to_micro(thresholds), *targets)
    cap_H, sums_HI = jax.device_get(_filters(*jax.device_put(arguments), max_cap, rules))
    best = int(np.argmax(objective_micro(sums_HI, shape[0], rules, axis=1)))
    return thresholds[best], int(cap_H[best])
