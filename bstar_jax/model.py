"""One decoder for every family: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Layers are stacked along a leading axis and scanned, so a deep model compiles like a shallow
one. Layers name logical axes only; `sharding` says where they lie. Parameters cross function
borders as the nested dict of `nnx.split`; `forward` and the sampling room merge them inside.

    tokens_BL -> embedding -> [norm, attention, +, norm, feed-forward, +] x Y -> norm -> head

How a layer attends is a function passed in (`Attend`): over the whole sequence in training
and prefill, over stored keys and values in decoding. Everything else is written once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from beartype import beartype
from flax import nnx
from jaxtyping import Array, Float, Int, jaxtyped

from bstar_jax import sharding
from bstar_jax.config import ModelConfig
from bstar_jax.kernels import attention

# (query_BLAE, key_BLGE, value_BLGE, layer_Y_state) -> (mixed_BLAE, layer_Y_state)
Attend = Callable[[jax.Array, jax.Array, jax.Array, object], tuple[jax.Array, object]]


def _normal(shape: tuple[int, ...], axes: tuple[str, ...], scale: float) -> nnx.Param:
    """A parameter that starts as normal noise, cut at two deviations, times `scale`."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, noise=scale, start=0.0)


def _constant(shape: tuple[int, ...], axes: tuple[str, ...], start: float) -> nnx.Param:
    """A parameter that starts as `start` everywhere."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, noise=0.0, start=start)


class Norm(nnx.Module):
    """Divides by the root mean square, in f32, and scales each channel."""

    def __init__(self, config: ModelConfig):
        self.scale = _constant((config.width,), ("width",), 1.0)
        self.epsilon = config.norm_epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        scale = jnp.expand_dims(self.scale[...], range(normed.ndim - 1))
        return (normed * scale).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; `attend` mixes the values."""

    def __init__(self, config: ModelConfig):
        d, a, g, e = config.width, config.heads, config.kv_heads, config.width_per_head
        self.query = _normal((d, a, e), ("width", "heads", "head_width"), d**-0.5)
        self.key = _normal((d, g, e), ("width", "kv_heads", "head_width"), d**-0.5)
        self.value = _normal((d, g, e), ("width", "kv_heads", "head_width"), d**-0.5)
        scale = (a * e * 2 * config.layers) ** -0.5
        self.output = _normal((a, e, d), ("heads", "head_width", "width"), scale)
        self.rope_theta = config.rope_theta

    def __call__(self, x, positions_BL, attend: Attend, state):
        cast = lambda weight: weight[...].astype(x.dtype)  # noqa: E731
        query = jnp.einsum("bld,dae->blae", x, cast(self.query))
        key = jnp.einsum("bld,dge->blge", x, cast(self.key))
        value = jnp.einsum("bld,dge->blge", x, cast(self.value))
        query = sharding.constrain(query, "batch", "length", "heads", "head_width")
        query = rotate(query, positions_BL, self.rope_theta)
        key = rotate(key, positions_BL, self.rope_theta)
        mixed, state = attend(query, key, value, state)
        return jnp.einsum("blae,aed->bld", mixed, cast(self.output)), state


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig):
        d, f = config.width, config.feed_forward
        self.gate = _normal((d, f), ("width", "feed_forward"), d**-0.5)
        self.up = _normal((d, f), ("width", "feed_forward"), d**-0.5)
        scale = (f * 2 * config.layers) ** -0.5
        self.down = _normal((f, d), ("feed_forward", "width"), scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = x @ self.gate[...].astype(x.dtype)
        up = x @ self.up[...].astype(x.dtype)
        hidden = sharding.constrain(jax.nn.silu(gate) * up, "batch", "length", "feed_forward")
        return hidden @ self.down[...].astype(x.dtype)


class Block(nnx.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: ModelConfig):
        self.attention_norm = Norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = FeedForward(config)

    def __call__(self, x, positions_BL, attend: Attend, state):
        mixed, state = self.attention(self.attention_norm(x), positions_BL, attend, state)
        x = sharding.constrain(x + mixed, "batch", "length", None)
        x = x + self.feed_forward(self.feed_forward_norm(x))
        return sharding.constrain(x, "batch", "length", None), state


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm, vocabulary head, optionally a scalar head."""

    def __init__(self, config: ModelConfig):
        v, d = config.vocab_size, config.width
        self.embedding = _normal((v, d), ("vocab", "width"), d**-0.5)

        stacked = nnx.vmap(lambda: Block(config), axis_size=config.layers, out_axes=0)
        self.blocks = stacked()
        self.final_norm = Norm(config)
        if not config.tied:
            self.head = _normal((d, v), ("width", "vocab"), d**-0.5)
        if config.scalar_head:
            self.scalar = _constant((d,), ("width",), 0.0)
        self.config = config

    def hidden(self, tokens_BL, positions_BL, attend: Attend, states):
        """Final hidden states [B, L, D] and the attention states of all layers.

        Args:
          tokens_BL: Token ids.
          positions_BL: Position of each token in its own text, from 0.
          attend: How a layer mixes values.
          states: A pytree with a leading Y axis, one slice a layer; what `attend` returns
            for each layer comes back stacked the same way.
        """
        x = self.embedding[...][tokens_BL].astype(self.config.dtype)
        x = sharding.constrain(x, "batch", "length", None)
        graphdef, blocks_Y = nnx.split(self.blocks)

        def layer(x, block_and_state):
            block, state = block_and_state
            return nnx.merge(graphdef, block)(x, positions_BL, attend, state)

        x, states = jax.lax.scan(_remat(layer, self.config.remat), x, (blocks_Y, states))
        return self.final_norm(x), states

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, f32 [..., V]."""
        if self.config.tied:
            weight_DV = self.embedding[...].astype(hidden.dtype).T
        else:
            weight_DV = self.head[...].astype(hidden.dtype)
        product = jnp.matmul(hidden, weight_DV, preferred_element_type=jnp.float32)
        return product.astype(jnp.float32)

    def values(self, hidden: jax.Array) -> jax.Array:
        """The scalar head, f32 [...]: one value a token, without a unit."""
        return hidden.astype(jnp.float32) @ self.scalar[...]


def _remat(layer, policy: str):
    if policy == "none":
        return layer
    if policy == "full":
        return jax.checkpoint(layer, prevent_cse=False)
    saved = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(layer, policy=saved, prevent_cse=False)


def rotate(x_BLAE: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
    """Turns channel pairs (i, i + E/2) by position * theta^(-2i/E), in f32.

    Source: rotary position embedding, arXiv:2104.09864, in the split-half layout of Llama.
    """
    half = x_BLAE.shape[-1] // 2
    rates = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions_BL[..., None, None].astype(jnp.float32) * rates[None, None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x_BLAE.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return turned.astype(x_BLAE.dtype)


def attend_whole(
    segments_BL: jax.Array, *, keep_state: bool = False, packed: bool = True
) -> Attend:
    """Attention over the tokens at hand: each reads its own text, up to itself.

    Args:
      segments_BL: Which text a token belongs to, from 1; 0 is padding, which reads itself alone.
      keep_state: Whether each layer hands back its (keys, values), as prefill wants them.
      packed: Whether rows may hold several texts; see `attention.attend_segments`.
    """

    def attend(query, key, value, state):
        mixed = attention.attend_segments(query, key, value, segments_BL, packed=packed)
        return mixed, ((key, value) if keep_state else state)

    return attend


@functools.lru_cache(maxsize=32)
def _abstract(config: ModelConfig):
    return nnx.split(nnx.eval_shape(lambda: Decoder(config)))


def merge(config: ModelConfig, params: dict) -> Decoder:
    """The module with these parameters, for use inside a jitted function."""
    return nnx.merge(_abstract(config)[0], params)


def init(config: ModelConfig, key: jax.Array) -> dict:
    """Random f32 parameters, the nested dict of `nnx.split`; a function of config and key.

    All noise is drawn at once: one generator compiles in a tenth of the time of one for each
    parameter.
    """
    leaves, structure = jax.tree.flatten(_abstract(config)[1], is_leaf=_is_variable)
    total = sum(leaf.size for leaf in leaves if leaf.noise)
    noise = jax.random.truncated_normal(key, -2.0, 2.0, (total,), jnp.float32)
    used, values = 0, []
    for leaf in leaves:
        value = jnp.full(leaf.shape, leaf.start, jnp.float32)
        if leaf.noise:
            value += leaf.noise * noise[used : used + leaf.size].reshape(leaf.shape)
            used += leaf.size
        values.append(leaf.replace(value))
    return nnx.to_pure_dict(jax.tree.unflatten(structure, values))


def _is_variable(leaf) -> bool:
    return isinstance(leaf, nnx.Variable)


def axes_of(config: ModelConfig, tree) -> list[tuple[str, ...]]:
    """Logical axes of every array of a tree, in the order of its leaves.

    An array stands for the parameter whose keys its own path ends in, so that parameters,
    Adam's moments and whole training states are all served; anything else, such as a step
    count, has no axes: ().
    """
    table = _axes_by_path(config)

    def trailing_keys(path):
        keys = []
        for entry in reversed(path):
            if not isinstance(entry, jax.tree_util.DictKey):
                break
            keys.insert(0, entry.key)
        return tuple(keys)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [table.get(trailing_keys(path), ()) for path, _ in leaves]


@functools.lru_cache(maxsize=32)
def _axes_by_path(config: ModelConfig) -> dict[tuple, tuple]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(_abstract(config)[1], is_leaf=_is_variable)
    table = {}
    for path, variable in leaves:
        keys = tuple(entry.key for entry in path)
        table[keys] = (("layers",) if keys[0] == "blocks" else ()) + variable.axes
    return table


@jaxtyped(typechecker=beartype)
def forward(
    config: ModelConfig,
    params: dict,
    tokens_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"] | None = None,
    positions_BL: Int[Array, "B L"] | None = None,
) -> Float[Array, "B L V"]:
    """Logits of the next token after every token, by a plain causal pass.

    Args:
      config: The model; `config.vocab_size` is the true V, whatever padding `params` carries.
      params: As `init` makes them.
      tokens_BL: Token ids in [0, V).
      segments_BL: Which text a token belongs to, from 1; 0 is padding. Tokens read their own
        text only. By default each row is one text.
      positions_BL: Position in its text, from 0. By default the column.

    Returns:
      f32 logits, no unit; entry [b, l] scores token l + 1.
    """
    hidden, decoder = forward_hidden(config, params, tokens_BL, segments_BL, positions_BL)
    return decoder.logits(hidden)[..., : config.vocab_size]


def forward_hidden(
    config, params, tokens_BL, segments_BL=None, positions_BL=None, *, packed: bool = True
):
    """Final hidden states [B, L, D] of a plain causal pass, and the module that made them.

    Args: as of `forward`, and
      packed: Whether rows may hold several texts; see `attention.attend_segments`.
    """
    if segments_BL is None:
        segments_BL, packed = jnp.ones_like(tokens_BL), False
    if positions_BL is None:
        positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1])[None], tokens_BL.shape)
    decoder = merge(config, params)
    attend = attend_whole(segments_BL, packed=packed)
    hidden, _ = decoder.hidden(tokens_BL, positions_BL, attend, None)
    return hidden, decoder


def mask_padding(logits: jax.Array, vocab_size: int) -> jax.Array:
    """Logits with the columns beyond the true vocabulary at -inf."""
    padding = jnp.arange(logits.shape[-1]) >= vocab_size
    if logits.shape[-1] == vocab_size:
        return logits
    return jnp.where(jnp.expand_dims(padding, range(logits.ndim - 1)), -jnp.inf, logits)


def pad_vocab(config: ModelConfig, tree, size: int):
    """Parameters, or a state of them, with zeros up to a vocabulary of `size`."""

    def grow(axes, value):
        if "vocab" not in axes:
            return value
        missing = size - config.vocab_size
        return jnp.pad(value, [(0, missing if axis == "vocab" else 0) for axis in axes])

    return _map_with_axes(config, tree, grow)


def cut_vocab(config: ModelConfig, tree):
    """Parameters, or a state of them, without vocabulary padding, as they go to disk."""

    def shrink(axes, value):
        if "vocab" not in axes:
            return value
        return jax.lax.slice_in_dim(value, 0, config.vocab_size, axis=axes.index("vocab"))

    return _map_with_axes(config, tree, shrink)


def _map_with_axes(config, tree, change):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, list(map(change, axes_of(config, tree), leaves)))


def count_parameters(params: dict) -> int:
    """Number of scalars in the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
