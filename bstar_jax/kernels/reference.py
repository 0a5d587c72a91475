"""The sampling rule written out plainly: slow, exact, and what every kernel is held against."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from bstar_jax.kernels import contract, noise


def sample(
    logits_BV: Float[Array, "B V"],
    row_keys_B2: UInt32[Array, "B 2"],
    temperature_B: Float[Array, " B"],
    top_k_B: Int[Array, " B"],
    top_p_B: Float[Array, " B"],
    min_p_B: Float[Array, " B"],
    *,
    noise_kind: str = "gumbel",
) -> contract.Sample:
    """Draws every row by itself, as `bstar_jax.kernels.sample` promises.

    Off values: top_k 0, top_p 1, min_p 0. Columns of padding have been cut off.
    """
    token_B, logprob_B = jax.vmap(functools.partial(_sample_row, noise_kind=noise_kind))(
        logits_BV.astype(jnp.float32), row_keys_B2, temperature_B, top_k_B, top_p_B, min_p_B
    )
    return contract.Sample(token_B, logprob_B, jnp.ones_like(token_B))


def _sample_row(logits_V, row_key_2, temperature, top_k, top_p, min_p, *, noise_kind):
    (vocab,) = logits_V.shape
    clean_V = jnp.where(jnp.isnan(logits_V), -jnp.inf, logits_V)
    keep_V = kept(clean_V, temperature, top_k, top_p, min_p)
    kept_V = jnp.where(keep_V, clean_V, -jnp.inf)
    top_k_off = ~_is_on(top_k, vocab)
    token = draw_dense(kept_V, row_key_2, temperature)
    if noise_kind == "icdf":
        token = jnp.where(top_k_off, draw_by_cdf(kept_V, row_key_2, temperature), token)
    elif vocab > contract.DENSE_VOCAB:
        token = jnp.where(top_k_off, draw_by_block(kept_V, row_key_2, temperature), token)
    token = jnp.where(temperature > 0, token, jnp.argmax(clean_V)).astype(jnp.int32)
    return token, jax.nn.log_softmax(logits_V)[token]


def kept(clean_V, temperature, top_k, top_p, min_p) -> Bool[Array, " V"]:
    """Marks the columns that may be drawn: top-k, then temperature, then top-p, then min-p.

    A column stays with every column of equal logit. top-k: at least the k-th largest. top-p: less
    than top_p of the mass lies strictly above. min-p: at least min_p times the largest mass.
    """
    (vocab,) = clean_V.shape
    descending_V = -jnp.sort(-clean_V)
    smallest = descending_V[jnp.where(_is_on(top_k, vocab), top_k, vocab) - 1]
    largest = descending_V[0]
    inverse = _inverse(temperature)
    mass_V = jnp.exp((descending_V - largest) * inverse)
    mass_V = jnp.where(descending_V >= smallest, mass_V, 0.0)
    above_V = jnp.concatenate([jnp.zeros(1), jnp.cumsum(mass_V)[:-1]])
    rank_V = jnp.searchsorted(-descending_V, -clean_V, side="left")
    in_nucleus_V = (top_p >= 1) | (above_V[rank_V] < top_p * mass_V.sum()) | (clean_V == largest)
    likely_V = (min_p <= 0) | (clean_V >= largest + temperature * jnp.log(jnp.minimum(min_p, 1.0)))
    return (clean_V >= smallest) & in_nucleus_V & likely_V


def draw_dense(kept_V, row_key_2, temperature) -> Int[Array, ""]:
    """Gumbel-max over all columns."""
    return jnp.argmax(column_scores(kept_V, row_key_2, temperature))


def draw_by_block(kept_V, row_key_2, temperature) -> Int[Array, ""]:
    """Gumbel-max over blocks by log-mass, then over the columns of the winning block."""
    winner = jnp.argmax(block_scores(kept_V, row_key_2, temperature))
    in_winner_V = jnp.arange(kept_V.size) // contract.BLOCK == winner
    score_V = column_scores(kept_V, row_key_2, temperature)
    return jnp.argmax(jnp.where(in_winner_V, score_V, -jnp.inf))


def draw_by_cdf(kept_V, row_key_2, temperature) -> Int[Array, ""]:
    """Inverse CDF with two uniforms: over the blocks, then within the block that was hit."""
    bits_12 = noise.bits_at(row_key_2[None, :], jnp.arange(2)[None, :], contract.CDF_STREAM)
    uniform_2 = noise.uniform(bits_12)[0]
    mass_V = jnp.exp((kept_V - kept_V.max()) * _inverse(temperature))
    mass_N = jnp.pad(mass_V, (0, -mass_V.size % contract.BLOCK))
    mass_N = mass_N.reshape(-1, contract.BLOCK).sum(axis=1)
    winner = _invert(mass_N, uniform_2[0])
    in_winner_V = jnp.arange(kept_V.size) // contract.BLOCK == winner
    return _invert(jnp.where(in_winner_V, mass_V, 0.0), uniform_2[1])


def column_scores(kept_V, row_key_2, temperature) -> Float[Array, " V"]:
    """x / T + g for every column."""
    column_1V = jnp.arange(kept_V.size)[None, :]
    bits_1V = noise.bits_at(row_key_2[None, :], column_1V, contract.COLUMN_STREAM)
    return kept_V * _inverse(temperature) + noise.gumbel(bits_1V)[0]


def block_scores(kept_V, row_key_2, temperature) -> Float[Array, " N"]:
    """log sum over the block of exp((x - row maximum) / T), plus g, for every block."""
    scaled_V = (kept_V - kept_V.max()) * _inverse(temperature)
    padding = (0, -kept_V.size % contract.BLOCK)
    scaled_V = jnp.pad(scaled_V, padding, constant_values=-jnp.inf)
    mass_N = jax.nn.logsumexp(scaled_V.reshape(-1, contract.BLOCK), axis=1)
    block_1N = jnp.arange(mass_N.size)[None, :]
    bits_1N = noise.bits_at(row_key_2[None, :], block_1N, contract.BLOCK_STREAM)
    return mass_N + noise.gumbel(bits_1N)[0]


def _is_on(top_k, vocab):
    return (top_k > 0) & (top_k < vocab)


def _inverse(temperature):
    return 1.0 / jnp.maximum(temperature, contract.MIN_TEMPERATURE)


def _invert(mass_I, uniform):
    """Returns the first index whose cumulative mass exceeds uniform * total and that has mass."""
    cumulative_I = jnp.cumsum(mass_I)
    is_hit_I = (cumulative_I > uniform * cumulative_I[-1]) & (mass_I > 0)
    return jnp.argmax(is_hit_I)
