"""Rotary positions: how fast each channel pair turns, and the turning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bstar_jax.config import ModelConfig

# Whether a layer is windowed: known while tracing where all are alike.
IsWindowed = bool | jax.Array


def rotary_rates(config: ModelConfig, is_windowed: IsWindowed) -> jax.Array:
    """Radians a position by which each channel pair turns, f32 [E / 2].

    Pair i turns by theta^(-2i/E). Stretched texts turn slower: by `rope_factor` all pairs, or
    ("llama3") those that turn fewer than `rope_low_frequency` times within `rope_length` tokens;
    between that and `rope_high_frequency` turns the two rates are mixed in proportion.

    Source: arXiv:2104.09864; section 3.2 of arXiv:2306.15595; the released code of Llama 3.1.
    """
    half = config.width_per_head // 2
    places = jnp.arange(half, dtype=jnp.float32) / half
    rates = config.rope_theta**-places
    slow = rates / config.rope_factor
    if config.rope_scaling == "linear":
        rates = slow
    elif config.rope_scaling == "llama3":
        low, high = config.rope_low_frequency, config.rope_high_frequency
        turns = config.rope_length * rates / (2 * jnp.pi)
        share = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        rates = (1.0 - share) * slow + share * rates
    if config.rope_local_theta:
        rates = jnp.where(is_windowed, config.rope_local_theta**-places, rates)
    return rates


def rotate(x_BLAE: jax.Array, positions_BL: jax.Array, rates: jax.Array) -> jax.Array:
    """Turns channel pairs (i, i + E/2) by position * rates[i], in f32.

    Source: rotary position embedding, arXiv:2104.09864, in the split-half layout of Llama.
    """
    angles = positions_BL[..., None, None].astype(jnp.float32) * rates[None, None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x_BLAE.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return turned.astype(x_BLAE.dtype)
