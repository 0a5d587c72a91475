"""What training makes small."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, Int, jaxtyped

from bstar_jax import model
from bstar_jax.config import ModelConfig


@jaxtyped(typechecker=beartype)
def cross_entropy(
    logits_BLV: Float[Array, "B L V"],
    targets_BL: Int[Array, "B L"],
    weights_BL: Float[Array, "B L"],
) -> Float[Array, ""]:
    """Mean of -log p(target) over the weighted tokens, in nats.

        loss = sum_bl w_bl (logsumexp_v z_blv - z_bl,target) / sum_bl w_bl

    A batch without weight gives 0/0: callers make batches from examples, and every example
    ends in end-of-text, which has weight.
    """
    surprise_BL = _surprise(logits_BLV, targets_BL)
    return jnp.sum(surprise_BL * weights_BL) / jnp.sum(weights_BL)


def _surprise(logits_BLV, targets_BL):
    target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BLV, axis=-1) - target_BL


def response_loss(config: ModelConfig, params: dict, batch) -> jax.Array:
    """Cross-entropy of the responses of a `batches.Batch` under the model."""
    hidden, decoder = model.forward_hidden(
        config, params, batch.tokens_BL, batch.segments_BL, packed=False
    )
    logits = model.mask_padding(decoder.logits(hidden), config.vocab_size)
    return cross_entropy(logits, batch.targets_BL, batch.weights_BL)


@jaxtyped(typechecker=beartype)
def binary_cross_entropy(
    values_BL: Float[Array, "B L"],
    labels_BL: Float[Array, "B L"],
    weights_BL: Float[Array, "B L"],
) -> Float[Array, ""]:
    """Mean of -(y log p + (1 - y) log(1 - p)) over the weighted tokens, in nats, p = sigmoid(z).

        loss = sum_bl w_bl (log(1 + e^z_bl) - y_bl z_bl) / sum_bl w_bl

    Example: value 0 everywhere -> log 2, whatever the labels.
    """
    surprise = jax.nn.softplus(values_BL) - labels_BL * values_BL
    return jnp.sum(surprise * weights_BL) / jnp.sum(weights_BL)


def step_loss(config: ModelConfig, params: dict, batch, *, language_weight: float) -> jax.Array:
    """Binary cross-entropy of the labels of a `batches.StepBatch` under the scalar head.

    A model that goes on learning to write right responses judges better what others wrote (Cobbe
    et al., arXiv:2110.14168), so to this is added `language_weight` times the mean of
    -log p(next token) over the responses with the right answer; nothing where a batch has none.
    """
    hidden, decoder = model.forward_hidden(
        config, params, batch.tokens_BL, batch.segments_BL, packed=False
    )
    loss = binary_cross_entropy(decoder.values(hidden), batch.labels_BL, batch.weights_BL)
    if not language_weight:
        return loss
    logits = model.mask_padding(decoder.logits(hidden), config.vocab_size)
    surprise_BL = _surprise(logits, jnp.roll(batch.tokens_BL, -1, axis=1)) * batch.language_BL
    count = jnp.maximum(jnp.sum(batch.language_BL), 1.0)
    return loss + language_weight * jnp.sum(surprise_BL) / count
