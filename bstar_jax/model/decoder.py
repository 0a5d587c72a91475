"""The whole decoder: embedding, layers, head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bstar_jax import sharding
from bstar_jax.config import ModelConfig
from bstar_jax.kernels import attention
from bstar_jax.model.embedding import look_up
from bstar_jax.model.layers import Attend, Block, Norm, constant, normal
from bstar_jax.model.rotary import LayerKind


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm, vocabulary head, optionally a scalar head."""

    def __init__(self, config: ModelConfig):
        v, d = config.vocab_size, config.width
        self.embedding = normal((v, d), ("vocab", "width"), d**-0.5)

        stacked = nnx.vmap(lambda: Block(config), axis_size=config.layers, out_axes=0)
        self.blocks = stacked()
        self.final_norm = Norm(config, {"width": d})
        if not config.tied:
            self.head = normal((d, v), ("width", "vocab"), d**-0.5)
        if config.scalar_head:
            self.scalar = constant((d,), ("width",), 0.0)
        self.config = config

    def hidden(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        attend: Attend,
        states: Any,
        *,
        is_stored: bool = False,
    ) -> tuple[jax.Array, Any]:
        """Final hidden states [B, L, D] and the attention states of all layers.

        Where logits are divided by a constant, these states are, which gives the same logits.

        Args:
          tokens_BL: Token ids.
          positions_BL: Position of each token in its text, from 0.
          attend: How a layer mixes values.
          states: A pytree with a leading Y axis, one slice a layer. What `attend` returns for each
            layer is stacked in the same way.
          is_stored: Whether the parameters are on the storage map, rather than on the sampling
            map. The result is the same; what devices exchange is not.
        """
        x = look_up(self.embedding[...], tokens_BL, self.config.dtype, is_stored=is_stored)
        if self.config.embedding_scale:
            x = x * jnp.asarray(self.config.width**0.5, x.dtype)
        if self.config.embedding_multiplier != 1.0:
            x = x * jnp.asarray(self.config.embedding_multiplier, x.dtype)
        x = sharding.constrain(x, "batch", "length", None)
        graphdef, blocks_Y = nnx.split(self.blocks)
        flags = self.config.windowed, self.config.rotated
        known = [of_layers[0] if len(set(of_layers)) == 1 else None for of_layers in flags]

        def layer(x, scanned):
            block, state, varying = scanned
            pairs = zip(known, varying, strict=True)
            kind = LayerKind(*(given if flag is None else flag for flag, given in pairs))
            return nnx.merge(graphdef, block)(x, positions_BL, attend, state, kind)

        varying = [
            jnp.array(of_layers) if flag is None else None
            for flag, of_layers in zip(known, flags, strict=True)
        ]
        scanned = blocks_Y, states, varying
        x, states = jax.lax.scan(_remat(layer, self.config.remat), x, scanned)
        hidden = self.final_norm(x)
        if self.config.logit_divisor != 1.0:
            hidden = hidden * jnp.asarray(1 / self.config.logit_divisor, hidden.dtype)
        return hidden, states

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, f32 [..., V]."""
        weight_DV = self.head_weight().astype(hidden.dtype)
        product = jnp.matmul(hidden, weight_DV, preferred_element_type=jnp.float32)
        return attention.capped(product.astype(jnp.float32), self.config.logit_cap)

    def head_weight(self) -> jax.Array:
        """The matrix that turns hidden states into logits, [D, V]."""
        return self.embedding[...].T if self.config.tied else self.head[...]

    def values(self, hidden: jax.Array) -> jax.Array:
        """The scalar head, f32 [...]: one value a token, no unit."""
        return hidden.astype(jnp.float32) @ self.scalar[...]


def _remat(layer: Callable, policy: str) -> Callable:
    """The layer, with what its backward pass computes again set by `model.remat`."""
    if policy == "none":
        return layer
    if policy == "full":
        return jax.checkpoint(layer, prevent_cse=False)
    policies = jax.checkpoint_policies
    saved = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names("attention")
    )
    return jax.checkpoint(layer, policy=saved, prevent_cse=False)
