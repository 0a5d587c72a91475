"""Rotary positions: how fast each pair of channels rotates, and the rotation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bstar_jax.config import ModelConfig

IsWindowed = bool | jax.Array
"""Whether a layer is windowed; known while tracing where all layers are alike."""


def rotary_rates(config: ModelConfig, is_windowed: IsWindowed) -> jax.Array:
    """Rotation of each pair of channels, in radians a position, f32 [E / 2].

    Pair i rotates by theta^(-2i/E). A stretched context slows the rotation by `rope_factor`:
    "linear" slows all pairs, "llama3" those that turn fewer than `rope_low_frequency` times within
    `rope_length` tokens. From there to `rope_high_frequency` turns, "llama3" interpolates between
    the slow rate and the plain one.

    Source: arXiv:2104.09864; section 3.2 of arXiv:2306.15595; the released code of Llama 3.1.
    """
    half = config.width_per_head // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / half
    rates = config.rope_theta**-exponents
    slow = rates / config.rope_factor
    if config.rope_scaling == "linear":
        rates = slow
    elif config.rope_scaling == "llama3":
        low, high = config.rope_low_frequency, config.rope_high_frequency
        turns = config.rope_length * rates / (2 * jnp.pi)
        plain = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        rates = (1.0 - plain) * slow + plain * rates
    if config.rope_local_theta:
        rates = jnp.where(is_windowed, config.rope_local_theta**-exponents, rates)
    return rates


def rotate(x_BLAE: jax.Array, positions_BL: jax.Array, rates: jax.Array) -> jax.Array:
    """Rotates the pair of channels (i, i + E/2) by position * rates[i], in f32.

    Source: rotary position embedding, arXiv:2104.09864, with the split halves of Llama.
    """
    angles = positions_BL[..., None, None].astype(jnp.float32) * rates[None, None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x_BLAE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return rotated.astype(x_BLAE.dtype)
