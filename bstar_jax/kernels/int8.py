"""Weights in eight bits: whole numbers, and one scale an output channel.

A quantised weight stands in the parameters where the array stood. It answers to the two things
that a layer does with a weight, `weight[index]` and `.astype(dtype)`, so that layers do not know
which of the two they have, and the compiler multiplies it out where it is used.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

LARGEST = 127
"""Of the whole numbers; -128 has no opposite and stays unused."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A weight of about `values * scale`.

    Attributes:
      values: int8, in -127..127.
      scale: f32, of the same rank; 1 long along the axes that a product sums over.
    """

    values: jax.Array
    scale: jax.Array

    def __getitem__(self, index) -> Int8:
        """Part of the weight along axes that are not summed over, or `[...]`, all of it."""
        return Int8(self.values[index], self.scale[index])

    def astype(self, dtype) -> jax.Array:
        """The weight as an array, rounded once."""
        return (self.values.astype(jnp.float32) * self.scale).astype(dtype)


def quantise(weight: jax.Array, summed: tuple[int, ...]) -> Int8:
    """The nearest whole numbers to a weight, each channel in units of its largest / 127.

        scale = max |w| / 127 over the summed axes,   values = round(w / scale)

    Example: [[1., -0.5], [-2., 0.]] summed over axis 1 -> values [[127, -64], [-127, 0]],
    scale [[0.00787], [0.01575]].

    Args:
      weight: Any float type; finite.
      summed: The axes that the product with the weight sums over. A channel of zeros stays so.
    """
    wide = weight.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=summed, keepdims=True) / LARGEST
    values = jnp.round(wide / jnp.where(scale > 0, scale, 1.0))
    return Int8(values.astype(jnp.int8), scale)
