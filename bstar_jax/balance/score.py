"""The balance score of queries, and its mean to the last digit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Array, Bool, Float, Int, jaxtyped

from bstar_jax.balance.rules import RULES
from bstar_jax.metrics import MICRO

DIGIT_BITS = 12  # sums of such digits over 2^12 queries are exact in float32 too
EXACT_DIGITS = 4  # 48 bits: the mean is known to 1e-14, and rounds as the true one does


def check_settings(
    target_correct: int, shape: tuple[int, ...], *, rules: str = "paper", cap: int = 0
) -> None:
    """Refuses settings that are out of range.

    Args:
      target_correct: n*, unique correct responses wanted a query.
      shape: Shape of the responses; ends in [Q, N].
      rules: A key of `RULES`.
      cap: Most responses selected a query; 0 keeps all.

    Raises:
      ValueError: Naming the value and the rule.
    """
    *_, num_queries, num_samples = shape
    if rules not in RULES:
        raise ValueError(f"rules={rules!r} is not known; write one of {tuple(RULES)}")
    if cap < 0:
        raise ValueError(f"cap={cap} must be at least 0; 0 keeps all")
    if target_correct < 1:
        raise ValueError(f"target_correct={target_correct} must be at least 1")
    if target_correct * num_samples >= 1 << (31 - DIGIT_BITS):  # score_digits shifts it by 12
        raise ValueError(
            f"target_correct={target_correct} times {num_samples} responses a query must be "
            f"below {1 << (31 - DIGIT_BITS)}; lower target_correct"
        )
    if num_queries >= 1 << (31 - DIGIT_BITS):  # a digit is at most 2^12, sums are int32
        raise ValueError(f"{num_queries} queries must be below {1 << (31 - DIGIT_BITS)}")


def _counts(is_correct_QN: Array, is_selected_QN: Array) -> tuple[Array, Array]:
    return (is_selected_QN & is_correct_QN).sum(axis=1), is_selected_QN.sum(axis=1)


@partial(jax.jit, static_argnames="target_correct")
@jaxtyped(typechecker=beartype)
def balance_score(
    is_correct_QN: Bool[Array, "Q N"],
    is_selected_QN: Bool[Array, "Q N"],
    *,
    target_correct: int,
) -> Float[Array, " Q"]:
    """Scores each query by how many, and how pure, its selected responses are.

    For query q with n_q responses selected and n'_q of those correct,

        bs_q = min(n'_q / n*, 1) * n'_q / n_q        (B-STaR, arXiv:2412.17256)

    Example: n* = 8; 4 selected, all correct -> 0.5; 16 selected, 8 correct -> 0.5.

    Args:
      is_correct_QN: Whether response n of query q has the reference answer.
      is_selected_QN: Whether it was selected, see `select`. Repeats of an earlier response are
        False: n'_q counts unique responses.
      target_correct: n*, unique correct responses wanted a query, at least 1.

    Returns:
      Scores in [0, 1], no unit; exactly 0 for a query with nothing selected.

    Raises:
      ValueError: If `target_correct` is below 1.
    """
    check_settings(target_correct, is_correct_QN.shape)
    num_correct_Q, num_selected_Q = _counts(is_correct_QN, is_selected_QN)
    enough_Q = jnp.minimum(num_correct_Q, target_correct)
    return enough_Q * num_correct_Q / (target_correct * jnp.maximum(num_selected_Q, 1))


def score_digits(
    num_correct: Int[Array, "*axes"],
    num_selected: Int[Array, "*axes"],
    target_correct: Int[Array, ""],
    num_digits: int,
) -> Int[Array, "I+1 *axes"]:
    """Computes the first digits of balance scores in base 2^12, then whether any is selected.

        score = sum_i digit_i * 2^(-12 i), i from 1

    by long division in integers. A score of 1 has the digits 2^12, 0, 0, ...: only sums of digits
    over queries are used, which are exact in any order of adding.

    Example: 1 of 3 selected correct, n* = 1, 2 digits -> 1365, 1365, then 1.

    Args:
      num_correct: Correct responses among those selected.
      num_selected: Responses selected.
      target_correct: n*.
      num_digits: I.

    Returns:
      The I digits, then 1 where something is selected, else 0.
    """
    rest = jnp.minimum(num_correct, target_correct) * num_correct
    whole = jnp.maximum(target_correct * num_selected, 1)
    rows = []
    for _ in range(num_digits):
        rest = rest << DIGIT_BITS
        rows.append(rest // whole)
        rest = rest % whole
    return jnp.stack([*rows, (num_selected > 0).astype(rest.dtype)])


def objective_micro(sums: np.ndarray, num_queries: int, rules: str, *, axis: int) -> np.ndarray:
    """Returns mean scores in micro-units, int64.

    Args:
      sums: Sums of `score_digits` over queries, digits along `axis`.
      num_queries: Q.
      rules: A key of `RULES`.
      axis: Of the digits.
    """
    *digits, num_covered = np.moveaxis(np.asarray(sums, np.float64), axis, 0)
    total = sum(digit * 2.0 ** (-DIGIT_BITS * i) for i, digit in enumerate(digits, start=1))
    covered_only = RULES[rules].averages_covered_queries
    mean = total / (np.maximum(num_covered, 1) if covered_only else num_queries)
    # To 1e-12 first: it restores exact halves of 1e-6 that the digits cut short by 1e-14.
    return np.rint(np.round(mean, 12) * MICRO).astype(np.int64)


@jax.jit
def _digit_sums(is_correct_QN: Array, is_selected_QN: Array, target_correct: Array) -> Array:
    num_correct_Q, num_selected_Q = _counts(is_correct_QN, is_selected_QN)
    return score_digits(num_correct_Q, num_selected_Q, target_correct, EXACT_DIGITS).sum(axis=1)


def objective(
    is_correct_QN: Bool[Array | np.ndarray, "Q N"],
    is_selected_QN: Bool[Array | np.ndarray, "Q N"],
    *,
    target_correct: int,
    rules: str = "paper",
) -> float:
    """Computes the mean balance score of a set of queries, rounded to 1e-6.

    The paper's rules average over all queries; the reference's over those with something
    selected, and give 0 where there are none.

    Example: scores 0.5 and 0, the latter because nothing is selected -> paper 0.25,
    reference 0.5.

    Args:
      is_correct_QN: Whether response n of query q has the reference answer.
      is_selected_QN: Whether it was selected, see `select`.
      target_correct: n*, unique correct responses wanted a query, at least 1.
      rules: A key of `RULES`.

    Raises:
      ValueError: If a setting is out of range, shapes differ or there is no query.
    """
    shape = np.shape(is_correct_QN)
    if len(shape) != 2 or 0 in shape or shape != np.shape(is_selected_QN):
        raise ValueError(
            "is_correct and is_selected must have the same shape [Q, N] and not be empty, got "
            f"{shape} and {np.shape(is_selected_QN)}"
        )
    check_settings(target_correct, shape, rules=rules)
    arguments = jax.device_put((is_correct_QN, is_selected_QN, np.int32(target_correct)))
    sums_I = jax.device_get(_digit_sums(*arguments))
    return float(objective_micro(sums_I, shape[0], rules, axis=0)) / MICRO
