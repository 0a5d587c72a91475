"""Cross-entropy of targets under the vocabulary head, without the logits of a whole batch.

    loss = sum_m w_m (logsumexp_v z_mv - z_m,target),        z = cap(h W)
    dz_mv = w_m (softmax_v z_mv - [v = target]) cap'(z_mv),  dh = dz W^T,  dW = h^T dz

Plain differentiation keeps z [B, L, V] from the forward pass to the backward pass. Here the
forward pass computes the gradients too, one chunk of tokens after another, so that only one chunk
of z exists at a time and no product is computed twice. The backward pass scales the gradients.
Source: Liger kernels, arXiv:2410.10989; cut cross-entropy, arXiv:2411.09009.

On a mesh every device has its own rows and its own part of the vocabulary. Over `tensor` devices
exchange three numbers a token and the sum of dh, over the other axes only dW, once.

Axes besides the legend's: M tokens of a chunk.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bstar_jax import sharding
from bstar_jax.config import ModelConfig

CHUNK_BYTES = 2**28
"""Most bytes of f32 scores that a chunk takes on a device."""


class Gradients(NamedTuple):
    """The loss of every token, and the gradients of their weighted sum.

    Attributes:
      cross_entropy_BL: -log p(target) of every token, f32.
      hidden_BLD: Gradient with respect to the hidden states, in their dtype.
      weight_DV: Gradient with respect to the head, f32.
    """

    cross_entropy_BL: jax.Array
    hidden_BLD: Any
    weight_DV: Any


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def total_cross_entropy(
    config: ModelConfig,
    hidden_BLD: jax.Array,
    weight_DV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
) -> jax.Array:
    """Sum of w_bl (logsumexp_v z_blv - z_bl,target) over all tokens, in nats; f32.

    Products are computed in the dtype of the hidden states and summed in f32.

    Example: a vocabulary of 2, hidden state [0.], targets [1], weights [0.5] -> 0.5 log 2.

    Args:
      config: The model; used are its true vocabulary, beyond which the padding has no probability,
        and the cap of its scores.
      hidden_BLD: Final hidden states.
      weight_DV: The head, or the transposed embedding; f32.
      targets_BL: Target tokens, in [0, config.vocab_size).
      weights_BL: Weight of each token, f32.
    """
    cross_entropy_BL = _on_mesh(config, hidden_BLD, weight_DV, targets_BL, weights_BL, False)
    return jnp.sum(cross_entropy_BL * weights_BL)


def _forward(
    config: ModelConfig,
    hidden_BLD: jax.Array,
    weight_DV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
) -> tuple[jax.Array, Gradients]:
    made = _on_mesh(config, hidden_BLD, weight_DV, targets_BL, weights_BL, True)
    return jnp.sum(made.cross_entropy_BL * weights_BL), made


def _backward(
    config: ModelConfig, made: Gradients, change: jax.Array
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
    hidden_BLD = (change * made.hidden_BLD).astype(made.hidden_BLD.dtype)
    return hidden_BLD, change * made.weight_DV, None, change * made.cross_entropy_BL


total_cross_entropy.defvjp(_forward, _backward)


def _on_mesh(
    config: ModelConfig,
    hidden_BLD: jax.Array,
    weight_DV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    differentiate: bool,
) -> Any:
    """`Gradients`, or only the cross-entropy, split over the devices of the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    is_spread = not (mesh.empty or mesh.manual_axes or mesh.size == 1)
    run = functools.partial(_by_device, _Settings(config, differentiate, is_spread))
    if is_spread:
        spec = functools.partial(sharding.spec, table=sharding.SAMPLING)
        rows, hidden = spec(("batch", "length")), spec(("batch", "length", None))
        head = spec(("width", "vocab"))
        out = Gradients._make((rows, hidden, head)) if differentiate else rows
        in_specs = hidden, head, rows, rows
        run = jax.shard_map(run, in_specs=in_specs, out_specs=out, check_vma=False)
    return run(hidden_BLD, weight_DV, targets_BL, weights_BL)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Of which model, whether with gradients, and whether on several devices."""

    config: ModelConfig
    differentiate: bool
    is_spread: bool

    def across(self, reduce: Callable, x: Any, axes: str | tuple[str, ...]) -> jax.Array:
        """A reduction over devices; `x` itself where there is only one."""
        return reduce(x, axes) if self.is_spread else x


def _by_device(
    settings: _Settings,
    hidden_BLD: jax.Array,
    weight_DV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
) -> Any:
    """`_on_mesh` for the rows and the part of the vocabulary of one device."""
    weight_DV = weight_DV.astype(hidden_BLD.dtype)
    tokens = targets_BL.size
    chunks, size = chunking(tokens, weight_DV.shape[1])

    def split(array: jax.Array) -> jax.Array:
        array = array.reshape(tokens, *array.shape[2:])
        padding = [(0, chunks * size - tokens)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(chunks, size, *array.shape[1:])

    def join(array: jax.Array) -> jax.Array:
        return array.reshape(chunks * size, *array.shape[2:])[:tokens].reshape(
            *targets_BL.shape, *array.shape[2:]
        )

    def add(total_DV: jax.Array | None, rows: Any) -> tuple[jax.Array | None, Any]:
        made = _chunk(settings, weight_DV, *rows)
        if not settings.differentiate:
            return None, made
        if total_DV is not None:
            made = made._replace(weight_DV=total_DV + made.weight_DV)
        return made.weight_DV, made._replace(weight_DV=None)

    rows = jax.tree.map(split, (hidden_BLD, targets_BL, weights_BL))
    if chunks == 1:
        total_DV, made = add(None, jax.tree.map(lambda array: array[0], rows))
        made = jax.tree.map(lambda array: array[None], made)
    else:
        start = jnp.zeros(weight_DV.shape, jnp.float32) if settings.differentiate else None
        total_DV, made = jax.lax.scan(add, start, rows)
    made = jax.tree.map(join, made)
    if not settings.differentiate:
        return made
    by_hidden_BLD = settings.across(jax.lax.psum, made.hidden_BLD, "tensor")
    total_DV = settings.across(jax.lax.psum, total_DV, ("data", "fsdp"))
    return Gradients(made.cross_entropy_BL, by_hidden_BLD.astype(hidden_BLD.dtype), total_DV)


def chunking(tokens: int, vocab: int) -> tuple[int, int]:
    """Number of chunks and tokens in each, such that no chunk exceeds CHUNK_BYTES of scores.

    Example: 4,096 tokens, vocabulary 151,936: 2.3 GiB of scores -> 10 chunks of 410 tokens.
    """
    chunks = min(-(-4 * tokens * vocab // CHUNK_BYTES), tokens)
    return chunks, -(-tokens // chunks)


def _chunk(
    settings: _Settings,
    weight_DV: jax.Array,
    hidden_MD: jax.Array,
    targets_M: jax.Array,
    weights_M: jax.Array,
) -> Any:
    """`Gradients` of a chunk of tokens, or only the cross-entropy.

    dh is the sum over this device's part of the vocabulary alone.
    """
    cap = settings.config.logit_cap
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    scores_MV = product(hidden_MD, weight_DV)
    tanh_MV = jnp.tanh(scores_MV / cap) if cap else None
    if tanh_MV is not None:
        scores_MV = cap * tanh_MV
    token_1V = jnp.arange(scores_MV.shape[1])[None]
    if settings.is_spread:
        token_1V += scores_MV.shape[1] * jax.lax.axis_index("tensor")
    if settings.is_spread or scores_MV.shape[1] > settings.config.vocab_size:
        scores_MV = jnp.where(token_1V < settings.config.vocab_size, scores_MV, -jnp.inf)
    largest_M = settings.across(jax.lax.pmax, jnp.max(scores_MV, axis=1), "tensor")
    mass_MV = jnp.exp(scores_MV - largest_M[:, None])
    mass_M = settings.across(jax.lax.psum, jnp.sum(mass_MV, axis=1), "tensor")
    index_M1 = (targets_M - token_1V[0, 0])[:, None]
    is_here_M1 = (index_M1 >= 0) & (index_M1 < scores_MV.shape[1])
    target_M1 = jnp.take_along_axis(scores_MV, jnp.where(is_here_M1, index_M1, 0), axis=1)
    target_M = jnp.where(is_here_M1, target_M1, 0.0)[:, 0]
    target_M = settings.across(jax.lax.psum, target_M, "tensor")
    cross_entropy_M = jnp.log(mass_M) + largest_M - target_M
    if not settings.differentiate:
        return cross_entropy_M
    change_MV = mass_MV * (weights_M / mass_M)[:, None]
    change_MV -= jnp.where(token_1V == targets_M[:, None], weights_M[:, None], 0.0)
    if tanh_MV is not None:
        change_MV *= 1.0 - tanh_MV**2
    change_MV = change_MV.astype(hidden_MD.dtype)
    # On CPUs the product is faster when its operand is transposed beforehand.
    hidden_DM = jax.lax.optimization_barrier(hidden_MD.T)
    return Gradients(
        cross_entropy_M, product(change_MV, weight_DV.T), product(hidden_DM, change_MV)
    )
