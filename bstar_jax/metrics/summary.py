"""All figures of the monitor phase, from the responses to the held-out queries."""

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from bstar_jax.metrics.estimators import (
    check_k,
    diversity,
    majority_at_k,
    pass_at_k,
    pass_at_k_s,
    reward_at_k_s,
)


def summarize(
    *,
    text_id_QN: ArrayLike,
    answer_id_QN: ArrayLike,
    is_correct_QN: ArrayLike,
    reward_QN: ArrayLike,
    equations_by_query: Sequence[Sequence[str]],
    ks: Sequence[int],
    s: int,
) -> dict[str, float | None]:
    """All figures of the monitor phase but `greedy`, as means over queries.

    Example: ks = (1, 32), s = 4 -> keys pass@1, pass@32, pass@32-4, best@32, reward@32-4,
    majority@32, diversity.

    Args:
      text_id_QN: As in `pass_at_k_s`.
      answer_id_QN: As in `majority_at_k`.
      is_correct_QN: Whether the response's answer is correct.
      reward_QN: As in `reward_at_k_s`.
      equations_by_query: As in `diversity`, one entry a query.
      ks: Values of K for pass@K, in any order; the other figures take the largest. pass@1 is
        always given.
      s: S of pass@K-S and reward@K-S, in 1..max(ks).

    Returns:
      Figures in [0, 1] by name; `diversity` is None where no correct response has an equation.

    Raises:
      ValueError: If a query has no result (shapes that differ, no query, no response, a negative
        text_id), or K or S is out of range.
    """
    columns = {
        "text_id": np.asarray(text_id_QN),
        "answer_id": np.asarray(answer_id_QN),
        "is_correct": np.asarray(is_correct_QN),
        "reward": np.asarray(reward_QN),
    }
    num_queries, num_samples = _check_columns(columns, equations_by_query)
    if not ks:
        raise ValueError("ks is empty; give at least one K, such as (1,)")
    k = max(ks)
    check_k(k, s, num_samples)
    is_correct_QN = columns["is_correct"].astype(bool)
    num_samples_Q = np.full(num_queries, num_samples)
    num_correct_Q = is_correct_QN.sum(axis=1)
    figures: dict[str, float | None] = {
        f"pass@{each}": _mean(pass_at_k(num_samples_Q, num_correct_Q, each))
        for each in sorted({1, *ks})
    }
    reward_QN = columns["reward"]
    figures[f"pass@{k}-{s}"] = _mean(pass_at_k_s(columns["text_id"], is_correct_QN, k, s))
    figures[f"best@{k}"] = _mean(reward_at_k_s(reward_QN, is_correct_QN, k, 1))
    figures[f"reward@{k}-{s}"] = _mean(reward_at_k_s(reward_QN, is_correct_QN, k, s))
    figures[f"majority@{k}"] = _mean(majority_at_k(columns["answer_id"], is_correct_QN, k))
    figures["diversity"] = diversity(equations_by_query)
    return figures


def _check_columns(
    columns: dict[str, np.ndarray], equations_by_query: Sequence[Sequence[str]]
) -> tuple[int, ...]:
    """The one shape of all columns; refuses columns in which a query lacks a result."""
    shapes = {name: column.shape for name, column in columns.items()}
    shape = columns["is_correct"].shape
    if len(shape) != 2 or 0 in shape or set(shapes.values()) != {shape}:
        raise ValueError(
            f"every query needs the same number of results, at least one, in every column; "
            f"got shapes {shapes}"
        )
    num_queries, num_samples = shape
    is_missing_QN = columns["text_id"] < 0
    if is_missing_QN.any():
        raise ValueError(
            f"query {int(is_missing_QN.any(axis=1).argmax())} lacks results: text_id is negative "
            f"in {int(is_missing_QN.sum())} places; give every query {num_samples} responses"
        )
    if len(equations_by_query) != num_queries:
        raise ValueError(
            f"equations of {len(equations_by_query)} queries, results of {num_queries}"
        )
    return shape


def _mean(value_Q: jax.Array) -> float:
    return float(np.asarray(value_Q, np.float64).mean())
