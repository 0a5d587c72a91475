"""Estimators: what a model can do, from n responses a query.

Axes besides the legend's: J responses drawn so far, Z distinct texts or correct responses among
them, X drawn of the equal rewards at hand, C blocks of responses, M responses in a block.

K responses are tried and S correct ones wanted. Every `@K` figure but majority is the expectation
over *all* K-subsets of the n responses, not over one sampled subset, so it does not depend on the
order of the responses.

The two figures without a closed form walk through the responses once and decide for each whether
the random K-subset holds it. With j of the K already drawn and i responses passed, the next one is
drawn with probability (K - j) / (n - i): the walk visits every K-subset with equal probability,
and its state is small enough to carry exactly. All terms are positive, so nothing cancels: in
float32 the results are within 1e-6 of the exact fractions.

Rewards are compared as integers of 1e-6; see `micro.to_micro`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import Array, Bool, Float, Int, jaxtyped
from numpy.typing import ArrayLike

from bstar_jax.metrics.micro import to_micro


def check_k(k: int, s: int, num_samples: int) -> None:
    """Refuses a K or an S that n responses cannot give.

    Raises:
      ValueError: If K is not in 1..n, or S not in 1..K.
    """
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
    check_k(k, 1, int(num_samples_Q.min()))
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
    check_k(k, s, num_samples)
    wrong_QN, text_QN = jax.lax.sort(
        ((~is_correct_QN).astype(jnp.int32), text_id_QN), dimension=1, num_keys=2
    )
    is_new_QN = text_QN != jnp.roll(text_QN, 1, axis=1)

    def walk(state, response):
        apart_QZJ, hit_QZJ, done_Q = state  # hit: a copy of the text at hand is among the drawn
        draw_11J, skip_11J, is_wrong_Q, is_new_Q = response
        is_new_Q11 = is_new_Q[:, None, None]
        apart_QZJ = jnp.where(is_new_Q11, apart_QZJ + hit_QZJ, apart_QZJ)
        hit_QZJ = jnp.where(is_new_Q11, 0.0, hit_QZJ)
        first_QZJ = jnp.roll(apart_QZJ * draw_11J, 1, axis=2)  # nothing wraps: J = K never draws
        again_QZJ = jnp.roll(hit_QZJ * draw_11J, 1, axis=2)
        reached_Q = first_QZJ[:, -1].sum(axis=1)
        one_more_QZJ = jnp.pad(first_QZJ[:, :-1], ((0, 0), (1, 0), (0, 0)))
        # Wrong responses come last: from then on only `done` matters, which they do not change.
        done_Q = done_Q + jnp.where(is_wrong_Q, 0.0, reached_Q)
        return (apart_QZJ * skip_11J, hit_QZJ * skip_11J + again_QZJ + one_more_QZJ, done_Q), None

    empty_QZJ = jnp.zeros((num_queries, s, k + 1), jnp.float32)
    start = (empty_QZJ.at[:, 0, 0].set(1.0), empty_QZJ, jnp.zeros(num_queries, jnp.float32))
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
    check_k(k, s, num_samples)
    is_equal_QNN = reward_QN[:, :, None] == reward_QN[:, None, :]
    size_QN = is_equal_QNN.sum(axis=2)
    correct_QN = (is_equal_QNN & is_correct_QN[:, None, :]).sum(axis=2)
    order_QN, size_QN, correct_QN = jax.lax.sort(
        (-reward_QN, size_QN, correct_QN), dimension=1, num_keys=1
    )
    is_new_QN = order_QN != jnp.roll(order_QN, 1, axis=1)
    drawn_Z = jnp.arange(s)

    def walk(state, response):
        alive_QXZ, done_Q = state  # X: drawn of the equal rewards at hand, Z: drawn in all
        draw_11Z, skip_11Z, is_new_Q, size_Q, correct_Q = response
        merged_QXZ = jnp.zeros_like(alive_QXZ).at[:, 0].set(alive_QXZ.sum(axis=1))
        alive_QXZ = jnp.where(is_new_Q[:, None, None], merged_QXZ, alive_QXZ)
        # In random order, the next of the equal rewards to be drawn is correct with:
        left_QX = jnp.maximum(correct_Q[:, None] - drawn_Z[None, :], 0)
        good_QX = left_QX / jnp.maximum(size_Q[:, None] - drawn_Z[None, :], 1)
        good_QXZ = alive_QXZ * draw_11Z * good_QX[:, :, None]
        done_Q = done_Q + good_QXZ[:, :, -1].sum(axis=1)
        moved_QXZ = jnp.pad(good_QXZ[:, :-1, :-1], ((0, 0), (1, 0), (1, 0)))
        return (alive_QXZ * skip_11Z + moved_QXZ, done_Q), None

    start_QXZ = jnp.zeros((num_queries, s, s), jnp.float32).at[:, 0, 0].set(1.0)
    probabilities = _walk_probabilities(num_samples, k, s)
    responses = (*probabilities, is_new_QN.T, size_QN.T, correct_QN.T)
    start = (start_QXZ, jnp.zeros(num_queries, jnp.float32))
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
    check_k(k, 1, num_samples)
    num_blocks = num_samples // k
    block = (num_queries, num_blocks, k)
    answer_QCM = answer_id_QN[:, : num_blocks * k].reshape(block)
    is_correct_QCM = is_correct_QN[:, : num_blocks * k].reshape(block)
    votes_QCM = (answer_QCM[..., :, None] == answer_QCM[..., None, :]).sum(axis=-1)
    votes_QCM = jnp.where(answer_QCM >= 0, votes_QCM, 0)
    winner_QC1 = jnp.argmax(votes_QCM, axis=-1, keepdims=True)  # the first of equals
    is_right_QC1 = jnp.take_along_axis(is_correct_QCM, winner_QC1, axis=-1)
    is_read_QC1 = jnp.take_along_axis(answer_QCM, winner_QC1, axis=-1) >= 0
    return (is_right_QC1 & is_read_QC1).mean(axis=(1, 2), dtype=jnp.float32)


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
