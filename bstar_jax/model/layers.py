"""The parts of a layer: norms, products with weights, attention, the gated feed-forward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bstar_jax import sharding
from bstar_jax.config import ModelConfig
from bstar_jax.model.rotary import Flag, LayerKind, rotary_amplitude, rotary_rates, rotate

Attend = Callable[[jax.Array, jax.Array, jax.Array, Any, Flag], tuple[jax.Array, Any]]
"""(query_BLAE, key_BLGE, value_BLGE, state, is_windowed) -> (mixed_BLAE, state), of one layer."""


def normal(shape: tuple[int, ...], axes: tuple[str, ...], scale: float) -> nnx.Param:
    """A parameter that starts as `scale` times normal noise, truncated at two deviations."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, noise=scale, start=0.0)


def constant(shape: tuple[int, ...], axes: tuple[str, ...], start: float) -> nnx.Param:
    """A parameter that starts with the value `start` everywhere."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, noise=0.0, start=start)


class Norm(nnx.Module):
    """Divides by the root mean square, in f32, and scales each channel."""

    def __init__(self, config: ModelConfig, sizes: dict[str, int]):
        start = 0.0 if config.norm_offset else 1.0
        self.scale = constant(tuple(sizes.values()), tuple(sizes), start)
        self.epsilon, self.offset = config.norm_epsilon, config.norm_offset

    def __call__(self, x: jax.Array) -> jax.Array:
        """Norms the last dimensions, as many as the scale has."""
        wide = x.astype(jnp.float32)
        over = tuple(range(-self.scale[...].ndim, 0))
        mean_square = jnp.mean(wide * wide, axis=over, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        scale = self.scale[...] + 1.0 if self.offset else self.scale[...]
        scale = jnp.expand_dims(scale, range(normed.ndim - scale.ndim))
        return (normed * scale).astype(x.dtype)


class Projections(nnx.Module):
    """Products of activations with weights, their biases and adapters included.

    A weight `name` may have a bias `name_bias` and an adapter (LoRA, arXiv:2106.09685), made of
    `name_lora_in` and `name_lora_out`. The product of these two, times alpha / rank, acts as if it
    were added to the weight, but is never formed.
    """

    def __init__(self, config: ModelConfig):
        self.config = config

    def add(self, name: str, summed: dict, kept: dict, scale: float, bias: bool = False) -> None:
        """Makes a weight.

        Args:
          name: Name of the weight.
          summed: Sizes of the dimensions that its product sums over, by logical axis.
          kept: Sizes of the dimensions that its product has, by logical axis.
          scale: Standard deviation at the start.
          bias: Whether it has a bias.
        """
        sizes = {**summed, **kept}
        setattr(self, name, normal(tuple(sizes.values()), tuple(sizes), scale))
        if bias:
            setattr(self, f"{name}_bias", constant(tuple(kept.values()), tuple(kept), 0.0))
        rank = self.config.lora_rank
        if rank and name in self.config.lora_targets:
            enter, leave = {**summed, "rank": rank}, {"rank": rank, **kept}
            fan_in = math.prod(summed.values())
            noise = normal(tuple(enter.values()), tuple(enter), fan_in**-0.5)
            setattr(self, f"{name}_lora_in", noise)
            setattr(self, f"{name}_lora_out", constant(tuple(leave.values()), tuple(leave), 0.0))

    def apply(self, name: str, x: jax.Array, summed: int = 1) -> jax.Array:
        """The product of the last `summed` dimensions of `x` with a weight."""
        product = self._product(x, getattr(self, name), summed)
        if hasattr(self, f"{name}_bias"):
            bias = getattr(self, f"{name}_bias")[...].astype(x.dtype)
            product += jnp.expand_dims(bias, range(product.ndim - bias.ndim))
        if hasattr(self, f"{name}_lora_in"):
            low = self._product(x, getattr(self, f"{name}_lora_in"), summed)
            low *= self.config.lora_alpha / self.config.lora_rank
            product += self._product(low, getattr(self, f"{name}_lora_out"), 1)
        return product

    @staticmethod
    def _product(x: jax.Array, weight: nnx.Param, summed: int) -> jax.Array:
        """Sums over the last `summed` dimensions of x and the first of the parameter."""
        values = weight[...].astype(x.dtype)
        rows, inner = x.shape[: x.ndim - summed], math.prod(x.shape[x.ndim - summed :])
        kept = values.shape[summed:]
        product = x.reshape(-1, inner) @ values.reshape(inner, -1)
        return product.reshape(*rows, *kept)


class Attention(Projections):
    """Grouped-query attention with rotary positions; `attend` mixes the values."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        width, head = {"width": config.width}, {"head_width": config.width_per_head}
        heads, groups = {"heads": config.heads, **head}, {"kv_heads": config.kv_heads, **head}
        narrow = config.width**-0.5
        self.add("query", width, heads, narrow, config.qkv_bias)
        self.add("key", width, groups, narrow, config.qkv_bias)
        self.add("value", width, groups, narrow, config.qkv_bias)
        scale = (math.prod(heads.values()) * 2 * config.layers) ** -0.5
        self.add("output", heads, width, scale, config.output_bias)
        if config.qk_norm:
            self.query_norm = Norm(config, heads if config.qk_norm_whole else head)
            self.key_norm = Norm(config, groups if config.qk_norm_whole else head)

    def __call__(
        self, x: jax.Array, positions_BL: jax.Array, attend: Attend, state: Any, kind: LayerKind
    ) -> tuple[jax.Array, Any]:
        """Attention's output for each token, and the state that `attend` returns."""
        query, key, value = (self.apply(name, x) for name in ("query", "key", "value"))
        query = sharding.constrain(query, "batch", "length", "heads", "head_width")
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        rates, amplitude = rotary_rates(self.config, kind), rotary_amplitude(self.config, kind)
        query, key = (rotate(part, positions_BL, rates, amplitude) for part in (query, key))
        if self.config.query_divisor:
            query = query * (self.config.width_per_head / self.config.query_divisor) ** 0.5
        mixed, state = attend(query, key, value, state, kind.is_windowed)
        return self.apply("output", mixed, summed=2), state


class FeedForward(Projections):
    """The gated feed-forward: down(activation(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        width, inner = {"width": config.width}, {"feed_forward": config.feed_forward}
        bias = config.feed_forward_bias
        self.add("gate", width, inner, config.width**-0.5, bias)
        self.add("up", width, inner, config.width**-0.5, bias)
        scale = (config.feed_forward * 2 * config.layers) ** -0.5
        self.add("down", inner, width, scale, bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The output for each token."""
        gate = ACTIVATIONS[self.config.activation](self.apply("gate", x))
        hidden = sharding.constrain(gate * self.apply("up", x), "batch", "length", "feed_forward")
        return self.apply("down", hidden)


ACTIVATIONS = {"silu": jax.nn.silu, "gelu": functools.partial(jax.nn.gelu, approximate=True)}


class Block(nnx.Module):
    """One layer: attention and feed-forward, each with a residual connection.

    What enters them is normed, or what they give, or both, as the config says.
    """

    def __init__(self, config: ModelConfig):
        norm = functools.partial(Norm, config, {"width": config.width})
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.config = config
        if config.pre_norms:
            self.attention_norm, self.feed_forward_norm = norm(), norm()
        if config.post_norms:
            self.attention_post_norm, self.feed_forward_post_norm = norm(), norm()

    def __call__(
        self, x: jax.Array, positions_BL: jax.Array, attend: Attend, state: Any, kind: LayerKind
    ) -> tuple[jax.Array, Any]:
        """The residual stream after the layer, and the state that `attend` returns."""
        entering = self.attention_norm(x) if self.config.pre_norms else x
        mixed, state = self.attention(entering, positions_BL, attend, state, kind)
        if self.config.post_norms:
            mixed = self.attention_post_norm(mixed)
        x = self._add(x, mixed)
        entering = self.feed_forward_norm(x) if self.config.pre_norms else x
        hidden = self.feed_forward(entering)
        if self.config.post_norms:
            hidden = self.feed_forward_post_norm(hidden)
        return self._add(x, hidden), state

    def _add(self, x: jax.Array, part: jax.Array) -> jax.Array:
        if self.config.residual_scale != 1.0:
            part = part * self.config.residual_scale
        return sharding.constrain(x + part, "batch", "length", None)
