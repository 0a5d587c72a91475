"""The losses that training minimizes.

A loss is a weighted sum over tokens. Training scales the weights of a step to add up to 1
(`Batch.normalized`), which makes the loss a mean and lets a step be computed in parts.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from bstar_jax import model
from bstar_jax.config import ModelConfig
from bstar_jax.training.batches import Batch, StepBatch
from bstar_jax.training.cross_entropy import total_cross_entropy


def response_loss(config: ModelConfig, params: dict, batch: Batch) -> jax.Array:
    """Cross-entropy of the responses of a batch under the model, in nats.

    loss = -sum_bl w_bl log p(target_bl)
    """
    hidden, decoder = _hidden(config, params, batch)
    return total_cross_entropy(
        config, hidden, decoder.head_weight(), batch.targets_BL, batch.weights_BL
    )


@jaxtyped(typechecker=beartype)
def binary_cross_entropy(
    values_BL: Float[Array, "B L"],
    labels_BL: Float[Array, "B L"],
    weights_BL: Float[Array, "B L"],
) -> Float[Array, ""]:
    """Sum of -w (y log p + (1 - y) log(1 - p)) over the tokens, in nats, p = sigmoid(z).

        loss = sum_bl w_bl (log(1 + e^z_bl) - y_bl z_bl)

    Example: value 0 everywhere, weights that add up to 1 -> log 2, whatever the labels.
    """
    entropy_BL = jax.nn.softplus(values_BL) - labels_BL * values_BL
    return jnp.sum(entropy_BL * weights_BL)


def step_loss(
    config: ModelConfig, params: dict, batch: StepBatch, *, language_weight: float
) -> jax.Array:
    """Binary cross-entropy of the labels of solution steps under the scalar head, in nats.

    A verifier becomes better when it also keeps learning to write correct responses (Cobbe et al.,
    arXiv:2110.14168). So `language_weight` times the sum of -w log p(next token) over the responses
    with a correct answer is added; this term is 0 where there are none.
    """
    hidden, decoder = _hidden(config, params, batch)
    loss = binary_cross_entropy(decoder.values(hidden), batch.labels_BL, batch.weights_BL)
    if not language_weight:
        return loss
    # The last token of a text has no weight, as the token after it belongs to another text.
    next_BL = jnp.roll(batch.tokens_BL, -1, axis=1)
    language_loss: Any = total_cross_entropy(
        config, hidden, decoder.head_weight(), next_BL, batch.language_BL
    )
    return loss + language_weight * language_loss


def _hidden(
    config: ModelConfig, params: dict, batch: Batch | StepBatch
) -> tuple[jax.Array, model.Decoder]:
    return model.forward_hidden(
        config,
        params,
        batch.tokens_BL,
        batch.segments_BL,
        batch.positions_BL,
        packed=batch.positions_BL is not None,
    )
