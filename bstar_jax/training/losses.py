"""What training makes small.

An objective is a sum over tokens, each times its weight. Training gives it weights that add up to
1 over a step (`Batch.shares`), which makes it their mean, and lets a step be computed in parts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from bstar_jax import model
from bstar_jax.config import ModelConfig
from bstar_jax.training.cross_entropy import total_surprise


def response_loss(config: ModelConfig, params: dict, batch) -> jax.Array:
    """Cross-entropy of the responses of a `batches.Batch` under the model, in nats.

    loss = sum_bl w_bl -log p(target_bl)
    """
    hidden, decoder = _hidden(config, params, batch)
    return total_surprise(config, hidden, decoder.head_weight(), batch.targets_BL, batch.weights_BL)


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
    surprise = jax.nn.softplus(values_BL) - labels_BL * values_BL
    return jnp.sum(surprise * weights_BL)


def step_loss(config: ModelConfig, params: dict, batch, *, language_weight: float) -> jax.Array:
    """Binary cross-entropy of the labels of a `batches.StepBatch` under the scalar head.

    A model that goes on learning to write right responses judges better what others wrote (Cobbe
    et al., arXiv:2110.14168), so to this is added `language_weight` times the sum of
    -w log p(next token) over the responses with the right answer; nothing where there are none.
    """
    hidden, decoder = _hidden(config, params, batch)
    loss = binary_cross_entropy(decoder.values(hidden), batch.labels_BL, batch.weights_BL)
    if not language_weight:
        return loss
    # The last token of a text has no weight: what comes after it is another's.
    next_BL = jnp.roll(batch.tokens_BL, -1, axis=1)
    surprise = total_surprise(config, hidden, decoder.head_weight(), next_BL, batch.language_BL)
    return loss + language_weight * surprise


def _hidden(config, params, batch):
    return model.forward_hidden(
        config,
        params,
        batch.tokens_BL,
        batch.segments_BL,
        batch.positions_BL,
        packed=batch.positions_BL is not None,
    )
