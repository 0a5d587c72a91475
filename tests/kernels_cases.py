"""Rows that are hard to sample from, and what the tests of every kernel compare."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from bstar_jax.kernels import contract, reference
from tests.rounding import most_apart

TOP_KS = (0, -1, 1, 2, 5, 20, 50, 64, 70, 200)


def hard_logits(rng, rows, vocab):
    """Returns rows of normal logits, the first eleven of them with ties, infinities, zeros, NaN."""
    logits_BV = (3 * rng.standard_normal((rows, vocab))).astype(np.float32)
    logits_BV[0] = np.round(logits_BV[0])
    logits_BV[1] = 1.5
    logits_BV[2] = np.where(np.arange(vocab) % 2, 0.0, -0.0)
    logits_BV[3, : vocab // 2] = -np.inf
    logits_BV[4] = -np.inf
    logits_BV[5, 3] = np.nan
    logits_BV[6] = np.nan
    logits_BV[7] = -np.inf
    logits_BV[7, vocab - 1] = 2.0
    logits_BV[8, vocab // 3] = 1e30
    logits_BV[9, ::2] = -1e30
    logits_BV[10, -40:] = logits_BV[10].max()
    return logits_BV


def row_keys(seed, rows):
    return jax.random.bits(jax.random.key(seed), (rows, 2), jnp.uint32)


def settings(rng, rows, vocab):
    """Returns temperatures (a fifth of them greedy), top-k, top-p and min-p, some of each off."""
    temperature_B = rng.uniform(0.3, 2.0, rows) * (rng.random(rows) > 0.2)
    top_k_B = rng.choice([*TOP_KS, vocab - 1, vocab, vocab + 5], rows)
    top_p_B = rng.choice([0.15, 0.5, 0.9, 1.0], rows)
    min_p_B = rng.choice([0.0, 0.02, 0.1], rows)
    return (
        jnp.asarray(temperature_B, jnp.float32),
        jnp.asarray(top_k_B, jnp.int32),
        jnp.asarray(top_p_B, jnp.float32),
        jnp.asarray(min_p_B, jnp.float32),
    )


def kept_by_numpy(logits_V, temperature, top_k, top_p, min_p):
    """The kept columns by sorting, in float64."""
    x_V = np.where(np.isnan(logits_V), -np.inf, logits_V).astype(np.float64)
    keep_V = np.ones(x_V.size, bool)
    if 0 < top_k < x_V.size:
        keep_V = x_V >= np.sort(x_V)[-top_k]
    if temperature <= 0:
        return keep_V
    with np.errstate(invalid="ignore"):
        mass_V = np.where(keep_V, np.exp((x_V - x_V.max()) / temperature), 0.0)
    if top_p < 1:
        above_V = np.array([mass_V[x_V > x].sum() for x in x_V])
        keep_V &= (above_V < top_p * mass_V.sum()) | (x_V == x_V.max())
    if min_p > 0:
        keep_V &= mass_V >= min_p * mass_V.max()
    return keep_V


def assert_same_tokens(result, expected, logits_BV, keys_B2, temperature_B, top_k_B):
    """Asserts equal tokens, but where two scores of the reference are a few ulp apart.

    Returns how many rows differed.
    """
    differing = np.flatnonzero(np.asarray(result.token_B != expected.token_B))
    for row in differing:
        two = jnp.asarray([result.token_B[row], expected.token_B[row]])
        clean_V = jnp.where(jnp.isnan(logits_BV[row]), -jnp.inf, logits_BV[row])
        clean_V = clean_V.astype(jnp.float32)
        arguments = (clean_V, keys_B2[row], temperature_B[row])
        score_2 = reference.column_scores(*arguments)[two]
        block_2 = two // contract.BLOCK
        is_off = not 0 < int(top_k_B[row]) < clean_V.size
        if is_off and clean_V.size > contract.DENSE_VOCAB and block_2[0] != block_2[1]:
            score_2 = reference.block_scores(*arguments)[block_2]
        gap, size = abs(score_2[0] - score_2[1]), jnp.abs(score_2).max()
        assert gap <= 4 * np.spacing(np.float32(size)), f"row {row}: tokens {two}, gap {gap}"
    return differing.size


def assert_near_logprobs(got_B, expected_B, vocab):
    """Asserts equal log-probabilities but for rounding.

    The logarithm of the total has the relative error of a sum by blocks, and then of the blocks;
    a logit that is subtracted is rounded with its own size.
    """
    depth = contract.BLOCK + vocab // contract.BLOCK
    limits = {"rtol": most_apart(4), "atol": most_apart(depth)}
    np.testing.assert_allclose(got_B, expected_B, **limits)


def assert_distribution(token_N, probability_V):
    """Chi-square of drawn tokens against probabilities; rare columns share one bin."""
    count_V = np.bincount(np.asarray(token_N), minlength=probability_V.size)
    assert count_V[probability_V == 0].sum() == 0
    expected_V = probability_V * count_V.sum()
    is_rare_V = expected_V < 10
    count = np.append(count_V[~is_rare_V], count_V[is_rare_V].sum())
    expected = np.append(expected_V[~is_rare_V], expected_V[is_rare_V].sum())
    if expected[-1] < 10:
        count[-2:-1] += count[-1:]
        expected[-2:-1] += expected[-1:]
        count, expected = count[:-1], expected[:-1]
    p_value = stats.chisquare(count, expected * count.sum() / expected.sum()).pvalue
    assert p_value > 1e-3, p_value


def probability_by_numpy(logits_V, temperature, top_k=0, top_p=1.0, min_p=0.0):
    keep_V = kept_by_numpy(logits_V, temperature, top_k, top_p, min_p)
    scaled_V = np.where(keep_V, np.asarray(logits_V, np.float64) / temperature, -np.inf)
    mass_V = np.exp(scaled_V - scaled_V.max())
    return mass_V / mass_V.sum()


def assert_mixed_batch_distribution(draw, draws, size):
    """Asserts that rows of three settings, side by side, each have their own distribution.

    Args:
      draw: (logits_BV, keys_B2, temperature_B, top_k_B) -> token_B.
      draws: Rows in all; their keys are counted up, the worst that a caller can pass.
      size: Rows a call.
    """
    vocab, kinds = 1100, [(0.5, 0), (1.0, 12), (1.3, -1)]  # temperature, top-k: 0 and -1 are off
    logits_V = jnp.asarray(1.5 * np.random.default_rng(2).standard_normal(vocab), jnp.float32)
    logits_BV = jnp.broadcast_to(logits_V[None, :], (size, vocab))
    kind_B = np.arange(draws) % 3
    keys_B2 = jnp.stack([jnp.arange(draws), jnp.zeros(draws)], axis=1).astype(jnp.uint32)
    temperature_K, top_k_K = np.array(kinds).T
    temperature_B = jnp.asarray(temperature_K[kind_B], jnp.float32)
    top_k_B = jnp.asarray(top_k_K[kind_B], jnp.int32)
    parts = [slice(start, start + size) for start in range(0, draws, size)]
    token_B = np.concatenate(
        [draw(logits_BV, keys_B2[part], temperature_B[part], top_k_B[part]) for part in parts]
    )
    for kind, (temperature, top_k) in enumerate(kinds):
        probability_V = probability_by_numpy(logits_V, temperature, max(top_k, 0))
        assert_distribution(token_B[kind_B == kind], probability_V)


def assert_few_are_exact(result, temperature_B, top_k_B, vocab, *, expects_any):
    """Rows whose top-k is as large as the window take the exact path; most others do not."""
    is_large_B = (top_k_B >= 200) & (top_k_B < vocab) & (temperature_B > 0)
    ordinary = slice(11, None)
    status_B = np.asarray(result.status_B)
    assert status_B[~np.asarray(is_large_B)][ordinary].mean() < 0.1
    assert status_B.any() == expects_any
