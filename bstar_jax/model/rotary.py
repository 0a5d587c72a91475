"""Rotary positions: how fast each pair of channels rotates, and the rotation."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bstar_jax.config import ModelConfig

Flag = bool | jax.Array
"""A property of a layer; known while tracing where all layers are alike."""


class LayerKind(NamedTuple):
    """In what layers of one model differ.

    Attributes:
      is_windowed: Whether tokens attend to a window only.
      is_rotated: Whether queries and keys are rotated.
    """

    is_windowed: Flag
    is_rotated: Flag


def rotary_rates(config: ModelConfig, kind: LayerKind) -> jax.Array:
    """Rotation of each pair of channels, in radians a position, f32 [E / 2].

    Pair i rotates by theta^(-2i/E), and not at all in a layer that is not rotated. A stretched
    context slows the rotation by `rope_factor`: "linear" slows all pairs, "llama3" and "yarn" those
    that turn fewer than `rope_low_frequency` times within `rope_length` tokens. From there to
    `rope_high_frequency` turns they interpolate between the slow rate and the plain one: "llama3"
    by the number of turns, "yarn" by the number of the pair.

    Source: arXiv:2104.09864; section 3.2 of arXiv:2306.15595; the released code of Llama 3.1;
    section 3.2 of arXiv:2309.00071.
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
    elif config.rope_scaling == "yarn":
        plain = _plain_share(config)
        rates = (1.0 - plain) * slow + plain * rates
    if config.rope_local_theta:
        rates = jnp.where(kind.is_windowed, config.rope_local_theta**-exponents, rates)
    return rates if kind.is_rotated is True else jnp.where(kind.is_rotated, rates, 0.0)


def _plain_share(config: ModelConfig) -> jax.Array:
    """How much of its plain rate each pair keeps in "yarn", f32 [E / 2]."""
    width, length = config.width_per_head, config.rope_length

    def pair(turns: float) -> float:
        """The pair that turns so many times within the length, as a real number."""
        return width * math.log(length / (2 * math.pi * turns)) / (2 * math.log(config.rope_theta))

    first = max(math.floor(pair(config.rope_high_frequency)), 0)
    last = min(math.ceil(pair(config.rope_low_frequency)), width - 1)
    place = jnp.arange(width // 2, dtype=jnp.float32)
    return 1.0 - jnp.clip((place - first) / max(last - first, 0.001), 0.0, 1.0)


def rotary_amplitude(config: ModelConfig, kind: LayerKind) -> float | jax.Array:
    """What rotated queries and keys are multiplied by: 1 where wavelengths are not stretched."""
    if config.rope_amplitude == 1.0:
        return 1.0
    is_plain = jnp.logical_not(kind.is_rotated)
    if config.rope_local_theta:
        is_plain = jnp.logical_or(is_plain, kind.is_windowed)
    return jnp.where(is_plain, 1.0, config.rope_amplitude)


def rotate(
    x_BLAE: jax.Array,
    positions_BL: jax.Array,
    rates: jax.Array,
    amplitude: float | jax.Array = 1.0,
) -> jax.Array:
    """Rotates the pair of channels (i, i + E/2) by position * rates[i], in f32.

    Source: rotary position embedding, arXiv:2104.09864, with the split halves of Llama.
    """
    angles = positions_BL[..., None, None].astype(jnp.float32) * rates[None, None, None, :]
    sin, cos = amplitude * jnp.sin(angles), amplitude * jnp.cos(angles)
    left, right = jnp.split(x_BLAE.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return rotated.astype(x_BLAE.dtype)
