"""Estimators: what a model can do, from n responses a query.

Axes: Q queries, N responses a query, S correct answers wanted, K responses tried. Every
`@K` figure but majority is the expectation over *all* K-subsets of the n responses, not over
one sampled subset, so it does not depend on the order of the responses.

The two figures without a closed form walk through the responses once and decide for each
whether the random K-subset holds it. With j of the K already drawn and i responses passed,
the next one is drawn with probability (K - j) / (n - i): the walk visits every K-subset with
equal probability, and its state is small enough to carry exactly. All terms are positive, so
nothing cancels: in float32 the results are within 1e-6 of the exact fractions.

Rewards are compared as integers of 1e-6, see `to_micro`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Array, Bool, Float, Int, jaxtyped
from numpy.typing import ArrayLike

MICRO = 1_000_000  # micro-units in one unit of reward
_LARGEST_REWARD = 1000.0  # keeps every difference of two rewards inside int32


def to_micro(value: ArrayLike) -> np.ndarray:
    """Rounds rewards or thresholds to 1e-6, as int32 counts of micro-units.

        micro = rint(float64(value) * 1e6), halves to even

    This runs on the host, in float64, and is the only rounding of rewards in the project:
    what devices compare, what files store (`micro / 1e6`) and what a script recomputes with
    `np.round(reward, 6)` are then the same numbers.

    Example: to_micro([0.1 + 0.2, 0.3, -0.5]) -> [300000, 300000, -500000].

    Args:
        value: A number or an array of any shape, in [-1000, 1000].

    Raises:
        ValueError: If a value is not finite or lies outside of the range.
    """
    exact = np.asarray(value, dtype=np.float64)
    allowed = np.abs(exact) <= _LARGEST_REWARD  # False for NaN
    if not allowed.all():
        raise ValueError(
            f"reward or threshold {exact[~allowed].ravel()[0]} is not a number in "
            f"[-{_LARGEST_REWARD:g}, {_LARGEST_REWARD:g}]; give 0 where no reward was computed"
        )
    return np.rint(exact * MICRO).astype(np.int32)


def _check_k(k: int, s: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(
            f"k={k} responses cannot be drawn from {num_samples} a query: k must be in "
            f"1..{num_samples}; sample more responses or lower k"
        )
    if not 1 <= s <= k:
        raise ValueError(f"s={s} of k={k}: s must be in 1..{k}")


def _walk_probabilities(num_samples: int, k: int, num_drawn: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether response i is drawn or skipped after j draws, [N, 1, 1, J] each, j < num_drawn."""
    left_NJ = num_samples - np.arange(num_samples)[:, None]
    wanted_NJ = np.clip(k - np.arange(num_drawn)[None, :], 0, left_NJ)
    draw_NJ = (wanted_NJ / left_NJ)[:, None, None].astype(np.float32)
    skip_NJ = ((left_NJ - wanted_NJ) / left_NJ)[:, None, None].astype(np.float32)
    return draw_NJ, skip_NJ


@partial(jax.jit, static_argnames="k")
def _pass_at_k(num_samples_Q: Array, num_correct_Q: Array, k: int) -> Array:
    shorter_Q = jnp.minimum(num_correct_Q, k)
    longer_Q = jnp.maximum(num_correct_Q, k)
    miss_Q = jnp.ones(num_samples_Q.shape, jnp.float32)
    for j in range(k):
        left_Q = jnp.maximum(num_samples_Q - longer_Q - j, 0)
        factor_Q = left_Q / jnp.maximum(num_samples_Q - j, 1)
        miss_Q = jnp.where(j < shorter_Q, miss_Q * factor_Q, miss_Q)
    return 1.0 - miss_Q


def pass_at_k(num_samples_Q: ArrayLike, num_correct_Q: ArrayLike, k: int) -> Float[Array, " Q"]:
    """Chance that at least one of K random responses is correct.

    With n responses of which c are correct, a = min(c, K) and b = max(c, K),

        pass@K = 1 - C(n-c, K) / C(n, K) = 1 - prod_{j<a} (n-b-j) / (n-j)

    The product has the fewest factors of the equal ones, all in [0, 1]: no binomial
    overflows (unbiased estimator of arXiv:2107.03374, section 2.1).

    Example: pass_at_k([4, 4], [1, 3], 2) -> [0.5, 1.0].

    Args:
        num_samples_Q: n, responses of each query, whole numbers of at least `k`.
        num_correct_Q: c, correct ones among them, in 0..n.
        k: K, responses tried.

    Returns:
        Probabilities in [0, 1].

    Raises:
        ValueError: If there is no query, c lies outside 0..n, or K outside 1..min(n).
    """
    num_samples_Q = np.asarray(num_samples_Q, np.int32)
    num_correct_Q = np.asarray(num_correct_Q, np.int32)
    if num_samples_Q.ndim != 1 or num_samples_Q.shape != num_correct_Q.shape:
        raise ValueError(
            f"num_samples has shape {num_samples_Q.shape}, num_correct {num_correct_Q.shape}; "
            "both must be [Q], one number a query"
        )
    if num_samples_Q.size == 0:
        raise ValueError("pass@k of no query is undefined; give at least one query")
    if (num_correct_Q < 0).any() or (num_correct_Q > num_samples_Q).any():
        raise ValueError("num_correct must be in 0..num_samples for every query")
    _check_k(k, 1, int(num_samples_Q.min()))
    return _pass_at_k(num_samples_Q, num_correct_Q, k)


@partial(jax.jit, static_argnames=("k", "s"))
@jaxtyped(typechecker=beartype)
def pass_at_k_s(
    text_id_QN: Int[Array, "Q N"], is_correct_QN: Bool[Array, "Q N"], k: int, s: int
) -> Float[Array, " Q"]:
    """Chance that K random responses hold at least S distinct correct texts.

    The walk (see the module) passes equal texts one after the other and carries how many
    responses and how many texts were drawn, and whether the text at hand is among them.

    Example: texts a a b b, all correct, K = 2, S = 2 -> 4 of the 6 pairs differ: 2/3.

    Args:
        text_id_QN: Equal for equal texts of a query: the index of the first response
            with the same stripped text.
        is_correct_QN: Whether the response's answer is correct.
        k: K, responses tried, in 1..N.
        s: S, distinct correct texts wanted, in 1..K.

    Returns:
        Probabilities in [0, 1]; with S = 1, pass@K.

    Raises:
        ValueError: If K or S is out of range.
    """
    num_queries, num_samples = text_id_QN.shape
    _check_k(k, s, num_samples)
    wrong_QN, text_QN = jax.lax.sort(
        ((~is_correct_QN).astype(jnp.int32), text_id_QN), dimension=1, num_keys=2
    )
    is_new_QN = text_QN != jnp.roll(text_QN, 1, axis=1)

    def walk(state, response):
        apart_QSJ, hit_QSJ, done_Q = state  # hit: a copy of the text at hand is among the drawn
        draw_11J, skip_11J, is_wrong_Q, is_new_Q = response
        is_new_Q11 = is_new_Q[:, None, None]
        apart_QSJ = jnp.where(is_new_Q11, apart_QSJ + hit_QSJ, apart_QSJ)
        hit_QSJ = jnp.where(is_new_Q11, 0.0, hit_QSJ)
        first_QSJ = jnp.roll(apart_QSJ * draw_11J, 1, axis=2)  # nothing wraps: J = K never draws
        again_QSJ = jnp.roll(hit_QSJ * draw_11J, 1, axis=2)
        reached_Q = first_QSJ[:, -1].sum(axis=1)
        one_more_QSJ = jnp.pad(first_QSJ[:, :-1], ((0, 0), (1, 0), (0, 0)))
        # Wrong responses come last: from then on only `done` matters, which they do not change.
        done_Q = done_Q + jnp.where(is_wrong_Q, 0.0, reached_Q)
        return (apart_QSJ * skip_11J, hit_QSJ * skip_11J + again_QSJ + one_more_QSJ, done_Q), None

    empty_QSJ = jnp.zeros((num_queries, s, k + 1), jnp.float32)
    start = (empty_QSJ.at[:, 0, 0].set(1.0), empty_QSJ, jnp.zeros(num_queries, jnp.float32))
    probabilities = _walk_probabilities(num_samples, k, k + 1)
    responses = (*probabilities, wrong_QN.T == 1, is_new_QN.T)
    (_, _, done_Q), _ = jax.lax.scan(walk, start, responses)
    return done_Q


@partial(jax.jit, static_argnames=("k", "s"))
@jaxtyped(typechecker=beartype)
def _reward_at_k_s(
    reward_QN: Int[Array, "Q N"], is_correct_QN: Bool[Array, "Q N"], k: int, s: int
) -> Float[Array, " Q"]:
    num_queries, num_samples = reward_QN.shape
    _check_k(k, s, num_samples)
    is_equal_QNN = reward_QN[:, :, None] == reward_QN[:, None, :]
    size_QN = is_equal_QNN.sum(axis=2)
    correct_QN = (is_equal_QNN & is_correct_QN[:, None, :]).sum(axis=2)
    order_QN, size_QN, correct_QN = jax.lax.sort(
        (-reward_QN, size_QN, correct_QN), dimension=1, num_keys=1
    )
    is_new_QN = order_QN != jnp.roll(order_QN, 1, axis=1)
    drawn_S = jnp.arange(s)

    def walk(state, response):
        alive_QES, done_Q = state  # E: drawn of the equal rewards at hand, S: drawn in all
        draw_11S, skip_11S, is_new_Q, size_Q, correct_Q = response
        merged_QES = jnp.zeros_like(alive_QES).at[:, 0].set(alive_QES.sum(axis=1))
        alive_QES = jnp.where(is_new_Q[:, None, None], merged_QES, alive_QES)
        # In random order, the next of the equal rewards to be drawn is correct with:
        left_QE = jnp.maximum(correct_Q[:, None] - drawn_S[None, :], 0)
        good_QE = left_QE / jnp.maximum(size_Q[:, None] - drawn_S[None, :], 1)
        good_QES = alive_QES * draw_11S * good_QE[:, :, None]
        done_Q = done_Q + good_QES[:, :, -1].sum(axis=1)
        moved_QES = jnp.pad(good_QES[:, :-1, :-1], ((0, 0), (1, 0), (1, 0)))
        return (alive_QES * skip_11S + moved_QES, done_Q), None

    start_QES = jnp.zeros((num_queries, s, s), jnp.float32).at[:, 0, 0].set(1.0)
    probabilities = _walk_probabilities(num_samples, k, s)
    responses = (*probabilities, is_new_QN.T, size_QN.T, correct_QN.T)
    start = (start_QES, jnp.zeros(num_queries, jnp.float32))
    (_, done_Q), _ = jax.lax.scan(walk, start, responses)
    return done_Q


def reward_at_k_s(
    reward_QN: ArrayLike, is_correct_QN: ArrayLike, k: int, s: int
) -> Float[Array, " Q"]:
    """Chance that the S highest rewards of K random responses are all correct.

    Equal rewards stand in random order, exactly: of e responses with the same reward, c of
    them correct, the first y drawn are all correct with probability
    prod_{i<y} (c - i) / (e - i). With S = 1 this is best@K, Best-of-K selection.

    Example: rewards 3 2 2, correct 0 1 0, K = 2, S = 1 -> only {2, 2} may win, with 1/2: 1/6.

    Args:
        reward_QN: Rewards, floats (rounded with `to_micro`) or integers (micro-units).
        is_correct_QN: Whether the response's answer is correct.
        k: K, responses tried, in 1..N.
        s: S, correct ones wanted at the top, in 1..K.

    Returns:
        Probabilities in [0, 1].

    Raises:
        ValueError: If K or S is out of range, or a reward is not finite.
    """
    reward_QN = np.asarray(reward_QN)
    if not np.issubdtype(reward_QN.dtype, np.integer):
        reward_QN = to_micro(reward_QN)
    return _reward_at_k_s(reward_QN, is_correct_QN, k, s)


@partial(jax.jit, static_argnames="k")
@jaxtyped(typechecker=beartype)
def majority_at_k(
    answer_id_QN: Int[Array, "Q N"], is_correct_QN: Bool[Array, "Q N"], k: int
) -> Float[Array, " Q"]:
    """Share of blocks of K consecutive responses whose most frequent answer is correct.

    Ties go to the answer seen first in the block; unreadable answers do not vote, and a
    block with nothing readable is wrong. The last n mod K responses fill no block.

    Example: answers 7 8 8 | -1 7 8, reference 7, K = 3 -> blocks vote 8 and 7: 0.5.

    Args:
        answer_id_QN: Equal for equal answers of a query, at least 0; -1 is unreadable.
        is_correct_QN: Whether the answer is correct, alike for equal answers.
        k: K, responses a vote, in 1..N.

    Returns:
        Shares in [0, 1].

    Raises:
        ValueError: If K is out of range.
    """
    num_queries, num_samples = answer_id_QN.shape
    _check_k(k, 1, num_samples)
    num_blocks = num_samples // k
    block = (num_queries, num_blocks, k)
    answer_QBK = answer_id_QN[:, : num_blocks * k].reshape(block)
    is_correct_QBK = is_correct_QN[:, : num_blocks * k].reshape(block)
    votes_QBK = (answer_QBK[..., :, None] == answer_QBK[..., None, :]).sum(axis=-1)
    votes_QBK = jnp.where(answer_QBK >= 0, votes_QBK, 0)
    winner_QB1 = jnp.argmax(votes_QBK, axis=-1, keepdims=True)  # the first of equals
    is_right_QB1 = jnp.take_along_axis(is_correct_QBK, winner_QB1, axis=-1)
    is_read_QB1 = jnp.take_along_axis(answer_QBK, winner_QB1, axis=-1) >= 0
    return (is_right_QB1 & is_read_QB1).mean(axis=(1, 2), dtype=jnp.float32)


def diversity(equations_by_query: Sequence[Sequence[str]]) -> float | None:
    """Distinct equations over all equations of a query's correct responses, mean over queries.

    Example: [["1+1=2", "1+1=2"], [], ["2*3=6"]] -> (1/2 + 1/1) / 2 = 0.75; the query
    without an equation has no say.

    Args:
        equations_by_query: For each query the equations of all its correct responses,
            repeats included.

    Returns:
        A share in (0, 1], or None where no query has any equation.
    """
    shares = [len(set(equations)) / len(equations) for equations in equations_by_query if equations]
    return sum(shares) / len(shares) if shares else None


def auc(scores: ArrayLike, is_positive: ArrayLike) -> float | None:
    """The chance that a random positive has a higher score than a random negative.

        AUC = P(score+ > score-) + P(score+ = score-) / 2

    Example: scores [0.1, 0.4, 0.4, 0.8], positives [F, F, T, T] -> 0.875.

    Args:
        scores: Numbers [N], finite.
        is_positive: Their classes [N].

    Returns:
        In [0, 1]; 0.5 tells nothing apart. None where a class is empty.
    """
    scores, is_positive = np.asarray(scores, np.float64), np.asarray(is_positive, bool)
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks, from 1.
    rank = np.cumsum(counts) - (counts - 1) / 2
    above = rank[place][is_positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def calibration(
    probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10
) -> list[dict[str, float]]:
    """How often what was said to happen with probability p did happen.

    Args:
        probabilities: In [0, 1], [N].
        outcomes: 0, 1, or a share between them, [N].
        bins: Equal parts of [0, 1]; 1 belongs to the last.

    Returns:
        Of every bin that is not empty, in order: its `count`, and the means of both as
        `predicted` and `observed`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    outcomes = np.asarray(outcomes, np.float64)
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        {
            "count": int((place == index).sum()),
            "predicted": float(probabilities[place == index].mean()),
            "observed": float(outcomes[place == index].mean()),
        }
        for index in np.unique(place)
    ]


def _mean(value_Q: Array) -> float:
    return float(np.asarray(value_Q, np.float64).mean())


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
        ks: Values of K for pass@K, in any order; the other figures take the largest. pass@1
            is always given.
        s: S of pass@K-S and reward@K-S, in 1..max(ks).

    Returns:
        Name to figure in [0, 1]; `diversity` is None where no correct response has an
        equation.

    Raises:
        ValueError: If a query is without a result (shapes that differ, no query, no
            response, a negative text_id), or a K or S is out of range.
    """
    columns = {
        "text_id": np.asarray(text_id_QN),
        "answer_id": np.asarray(answer_id_QN),
        "is_correct": np.asarray(is_correct_QN),
        "reward": np.asarray(reward_QN),
    }
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
    if not ks:
        raise ValueError("ks is empty; give at least one K, such as (1,)")
    k = max(ks)
    _check_k(k, s, num_samples)
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
