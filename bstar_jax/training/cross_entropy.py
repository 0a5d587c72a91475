"""Surprise of targets under the vocabulary head, without the logits of a whole batch.

    loss = sum_t w_t (logsumexp_v z_tv - z_t,target),        z = cap(h W)
    dz_tv = w_t (softmax_v z_tv - [v = target]) cap'(z_tv),  dh = dz W^T,  dW = h^T dz

Plain differentiation keeps z [B, L, V] from the forward pass to the backward pass. Here the
forward pass makes the gradients at once, a chunk of tokens after another, so that one chunk of z
is all there ever is and no product is done twice; the backward pass multiplies them with a
number. Source: Liger kernels, arXiv:2410.10989; cut cross-entropy, arXiv:2411.09009.

On a mesh every device has its own rows and its own part of the vocabulary. Over `tensor` devices
exchange three numbers a token and the sum of dh, over the others dW alone, once.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bstar_jax import sharding
from bstar_jax.config import ModelConfig

CHUNK_BYTES = 2**28
"""Largest f32 scores of a chunk on a device."""


class Gradients(NamedTuple):
    """What the loss and its backward pass are made of.

    Attributes:
      surprise_BL: -log p(target) of every token, f32.
      hidden_BLD: Gradient of the loss by the hidden states, in their type.
      weight_DV: Gradient of the loss by the head, f32.
    """

    surprise_BL: jax.Array
    hidden_BLD: jax.Array
    weight_DV: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def total_surprise(
    config: ModelConfig,
    hidden_BLD: jax.Array,
    weight_DV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
) -> jax.Array:
    """Sum of w_bl (logsumexp_v z_blv - z_bl,target) over all tokens, in nats; f32.

    Products are done in the type of the hidden states and summed in f32.

    Example: two words, hidden state [0.], targets [1], weights [0.5] -> 0.5 log 2.

    Args:
      config: The model: the true vocabulary, whose padding has no probability, and the cap of the
        scores.
      hidden_BLD: What the head reads.
      weight_DV: The head, or the transposed embedding; f32.
      targets_BL: The words wanted, in [0, config.vocab_size).
      weights_BL: What each counts, f32.
    """
    surprise_BL = _on_mesh(config, hidden_BLD, weight_DV, targets_BL, weights_BL, False)
    return jnp.sum(surprise_BL * weights_BL)


def _forward(config, hidden_BLD, weight_DV, targets_BL, weights_BL):
    made = _on_mesh(config, hidden_BLD, weight_DV, targets_BL, weights_BL, True)
    return jnp.sum(made.surprise_BL * weights_BL), made


def _backward(config, made: Gradients, change):
    hidden_BLD = (change * made.hidden_BLD).astype(made.hidden_BLD.dtype)
    return hidden_BLD, change * made.weight_DV, None, change * made.surprise_BL


total_surprise.defvjp(_forward, _backward)


def _on_mesh(config, hidden_BLD, weight_DV, targets_BL, weights_BL, differentiate: bool):
    """`Gradients`, or only their surprise: every device of the mesh in force has its part."""
    mesh = jax.sharding.get_abstract_mesh()
    is_spread = not (mesh.empty or mesh.manual_axes or mesh.size == 1)
    run = functools.partial(_by_device, _Work(config, differentiate, is_spread))
    if is_spread:
        place = functools.partial(sharding.spec, table=sharding.SAMPLING)
        rows, hidden = place(("batch", "length")), place(("batch", "length", None))
        head = place(("width", "vocab"))
        out = Gradients(rows, hidden, head) if differentiate else rows
        places = hidden, head, rows, rows
        run = jax.shard_map(run, in_specs=places, out_specs=out, check_vma=False)
    return run(hidden_BLD, weight_DV, targets_BL, weights_BL)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is computed: of which model, with gradients or without, and whether on a mesh."""

    config: ModelConfig
    differentiate: bool
    is_spread: bool

    def across(self, reduce, x, axes):
        """A reduction over devices, where there are several."""
        return reduce(x, axes) if self.is_spread else x


def _by_device(work: _Work, hidden_BLD, weight_DV, targets_BL, weights_BL):
    """`_on_mesh` of one device's rows and words."""
    weight_DV = weight_DV.astype(hidden_BLD.dtype)
    tokens = targets_BL.size
    chunks, size = cut(tokens, weight_DV.shape[1])

    def apart(array):
        array = array.reshape(tokens, *array.shape[2:])
        room = [(0, chunks * size - tokens)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, room).reshape(chunks, size, *array.shape[1:])

    def whole(array):
        return array.reshape(chunks * size, *array.shape[2:])[:tokens].reshape(
            *targets_BL.shape, *array.shape[2:]
        )

    def add(total_DV, rows):
        made = _chunk(work, weight_DV, *rows)
        if not work.differentiate:
            return None, made
        if total_DV is not None:
            made = made._replace(weight_DV=total_DV + made.weight_DV)
        return made.weight_DV, made._replace(weight_DV=None)

    rows = jax.tree.map(apart, (hidden_BLD, targets_BL, weights_BL))
    if chunks == 1:
        total_DV, made = add(None, jax.tree.map(lambda array: array[0], rows))
        made = jax.tree.map(lambda array: array[None], made)
    else:
        start = jnp.zeros(weight_DV.shape, jnp.float32) if work.differentiate else None
        total_DV, made = jax.lax.scan(add, start, rows)
    made = jax.tree.map(whole, made)
    if not work.differentiate:
        return made
    by_hidden_BLD = work.across(jax.lax.psum, made.hidden_BLD, "tensor")
    total_DV = work.across(jax.lax.psum, total_DV, ("data", "fsdp"))
    return Gradients(made.surprise_BL, by_hidden_BLD.astype(hidden_BLD.dtype), total_DV)


def cut(tokens: int, words: int) -> tuple[int, int]:
    """Chunks, and tokens in each, so that none has more than CHUNK_BYTES of scores.

    Example: 4,096 tokens of 151,936 words are 2.3 GiB of scores -> 10 chunks of 410 tokens.
    """
    chunks = min(-(-4 * tokens * words // CHUNK_BYTES), tokens)
    return chunks, -(-tokens // chunks)


def _chunk(work: _Work, weight_DV, hidden_TD, targets_T, weights_T):
    """`Gradients` of a chunk of tokens, dh of this device's words alone; or only the surprise."""
    cap = work.config.logit_cap
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    scores_TV = product(hidden_TD, weight_DV)
    if cap:
        turned_TV = jnp.tanh(scores_TV / cap)
        scores_TV = cap * turned_TV
    words_1V = jnp.arange(scores_TV.shape[1])[None]
    if work.is_spread:
        words_1V += scores_TV.shape[1] * jax.lax.axis_index("tensor")
    if work.is_spread or scores_TV.shape[1] > work.config.vocab_size:
        scores_TV = jnp.where(words_1V < work.config.vocab_size, scores_TV, -jnp.inf)
    largest_T = work.across(jax.lax.pmax, jnp.max(scores_TV, axis=1), "tensor")
    mass_TV = jnp.exp(scores_TV - largest_T[:, None])
    mass_T = work.across(jax.lax.psum, jnp.sum(mass_TV, axis=1), "tensor")
    place_T1 = (targets_T - words_1V[0, 0])[:, None]
    is_here_T1 = (place_T1 >= 0) & (place_T1 < scores_TV.shape[1])
    target_T1 = jnp.take_along_axis(scores_TV, jnp.where(is_here_T1, place_T1, 0), axis=1)
    target_T = jnp.where(is_here_T1, target_T1, 0.0)[:, 0]
    target_T = work.across(jax.lax.psum, target_T, "tensor")
    surprise_T = jnp.log(mass_T) + largest_T - target_T
    if not work.differentiate:
        return surprise_T
    change_TV = mass_TV * (weights_T / mass_T)[:, None]
    change_TV -= jnp.where(words_1V == targets_T[:, None], weights_T[:, None], 0.0)
    if cap:
        change_TV *= 1.0 - turned_TV**2
    change_TV = change_TV.astype(hidden_TD.dtype)
    # On CPUs the product of what is transposed first is faster than that of what is not.
    turned_DT = jax.lax.optimization_barrier(hidden_TD.T)
    return Gradients(surprise_T, product(change_TV, weight_DV.T), product(turned_DT, change_TV))
