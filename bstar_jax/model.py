"""One decoder for every family: RMSNorm, rotary positions, grouped-query attention, gated units.

Layers are stacked along a leading axis and scanned, so a deep model compiles like a shallow
one. Layers name logical axes only; `sharding` says where they lie. Parameters cross function
borders as the nested dict of `nnx.split`; `forward` and the sampling room merge them inside.

    tokens_BL -> embedding -> [norm, attention, +, norm, feed-forward, +] x Y -> norm -> head

Families differ by fields of the config: biases, norms of queries and keys, norms after a part,
capped scores, windows. Whether a layer is windowed is data of the scan, so that layers of both
kinds share one program.

How a layer attends is a function passed in (`Attend`): over the whole sequence in training
and prefill, over stored keys and values in decoding. Everything else is written once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from beartype import beartype
from flax import nnx
from jaxtyping import Array, Float, Int, jaxtyped

from bstar_jax import sharding
from bstar_jax.config import ModelConfig
from bstar_jax.kernels import attention

# Whether a layer is windowed: known while tracing where all are alike.
IsWindowed = bool | jax.Array

# (query_BLAE, key_BLGE, value_BLGE, layer_Y_state, is_windowed) -> (mixed_BLAE, layer_Y_state)
Attend = Callable[[jax.Array, jax.Array, jax.Array, object, IsWindowed], tuple[jax.Array, object]]


def _normal(shape: tuple[int, ...], axes: tuple[str, ...], scale: float) -> nnx.Param:
    """A parameter that starts as normal noise, cut at two deviations, times `scale`."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, noise=scale, start=0.0)


def _constant(shape: tuple[int, ...], axes: tuple[str, ...], start: float) -> nnx.Param:
    """A parameter that starts as `start` everywhere."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes, noise=0.0, start=start)


class Norm(nnx.Module):
    """Divides by the root mean square, in f32, and scales each channel."""

    def __init__(self, config: ModelConfig, size: int, axis: str):
        self.scale = _constant((size,), (axis,), 0.0 if config.norm_offset else 1.0)
        self.epsilon, self.offset = config.norm_epsilon, config.norm_offset

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
        scale = self.scale[...] + 1.0 if self.offset else self.scale[...]
        scale = jnp.expand_dims(scale, range(normed.ndim - 1))
        return (normed * scale).astype(x.dtype)


class Projections(nnx.Module):
    """Products of the last dimensions of activations with weights, each with what belongs to it.

    A weight `name` may have a bias `name_bias`, and an adapter (LoRA, arXiv:2106.09685):
    `name_lora_in` and `name_lora_out`, whose product, times alpha / rank, is added to the weight
    without ever being formed.
    """

    def __init__(self, config: ModelConfig):
        self.config = config

    def add(self, name: str, summed: dict, kept: dict, scale: float, bias: bool = False) -> None:
        """Makes a weight.

        Args:
          name: What it is called.
          summed: Sizes of what its product sums over, by logical axis.
          kept: Sizes of what its product gives, by logical axis.
          scale: Deviation at the start.
          bias: Whether there is one.
        """
        both = {**summed, **kept}
        setattr(self, name, _normal(tuple(both.values()), tuple(both), scale))
        if bias:
            setattr(self, f"{name}_bias", _constant(tuple(kept.values()), tuple(kept), 0.0))
        rank = self.config.lora_rank
        if rank and name in self.config.lora_targets:
            enter, leave = {**summed, "rank": rank}, {"rank": rank, **kept}
            fan_in = math.prod(summed.values())
            start = _normal(tuple(enter.values()), tuple(enter), fan_in**-0.5)
            setattr(self, f"{name}_lora_in", start)
            setattr(self, f"{name}_lora_out", _constant(tuple(leave.values()), tuple(leave), 0.0))

    def apply(self, name: str, x: jax.Array, summed: int = 1) -> jax.Array:
        """The product with a weight; `summed` is the number of dimensions that it sums over."""
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
    def _product(x, weight, summed: int):
        """The last `summed` dimensions of x with the first of the weight."""
        weight = weight[...].astype(x.dtype)
        rows, inner = x.shape[: x.ndim - summed], math.prod(x.shape[x.ndim - summed :])
        kept = weight.shape[summed:]
        product = x.reshape(-1, inner) @ weight.reshape(inner, -1)
        return product.reshape(*rows, *kept)


class Attention(Projections):
    """Grouped-query attention with rotary positions; `attend` mixes the values."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        width, each = {"width": config.width}, {"head_width": config.width_per_head}
        heads, groups = {"heads": config.heads, **each}, {"kv_heads": config.kv_heads, **each}
        narrow = config.width**-0.5
        self.add("query", width, heads, narrow, config.qkv_bias)
        self.add("key", width, groups, narrow, config.qkv_bias)
        self.add("value", width, groups, narrow, config.qkv_bias)
        scale = (math.prod(heads.values()) * 2 * config.layers) ** -0.5
        self.add("output", heads, width, scale, config.output_bias)
        if config.qk_norm:
            self.query_norm = Norm(config, config.width_per_head, "head_width")
            self.key_norm = Norm(config, config.width_per_head, "head_width")

    def __call__(self, x, positions_BL, attend: Attend, state, is_windowed: IsWindowed):
        query, key, value = (self.apply(name, x) for name in ("query", "key", "value"))
        query = sharding.constrain(query, "batch", "length", "heads", "head_width")
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        rates = rotary_rates(self.config, is_windowed)
        query, key = (rotate(part, positions_BL, rates) for part in (query, key))
        if self.config.query_divisor:
            query = query * (self.config.width_per_head / self.config.query_divisor) ** 0.5
        mixed, state = attend(query, key, value, state, is_windowed)
        return self.apply("output", mixed, summed=2), state


class FeedForward(Projections):
    """The gated unit: down(activation(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        width, inner = {"width": config.width}, {"feed_forward": config.feed_forward}
        bias = config.feed_forward_bias
        self.add("gate", width, inner, config.width**-0.5, bias)
        self.add("up", width, inner, config.width**-0.5, bias)
        scale = (config.feed_forward * 2 * config.layers) ** -0.5
        self.add("down", inner, width, scale, bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = ACTIVATIONS[self.config.activation](self.apply("gate", x))
        hidden = sharding.constrain(gate * self.apply("up", x), "batch", "length", "feed_forward")
        return self.apply("down", hidden)


ACTIVATIONS = {"silu": jax.nn.silu, "gelu": functools.partial(jax.nn.gelu, approximate=True)}


class Block(nnx.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: ModelConfig):
        norm = functools.partial(Norm, config, config.width, "width")
        self.attention_norm = norm()
        self.attention = Attention(config)
        self.feed_forward_norm = norm()
        self.feed_forward = FeedForward(config)
        self.has_post_norms = config.post_norms
        if config.post_norms:
            self.attention_post_norm, self.feed_forward_post_norm = norm(), norm()

    def __call__(self, x, positions_BL, attend: Attend, state, is_windowed: IsWindowed):
        mixed, state = self.attention(
            self.attention_norm(x), positions_BL, attend, state, is_windowed
        )
        if self.has_post_norms:
            mixed = self.attention_post_norm(mixed)
        x = sharding.constrain(x + mixed, "batch", "length", None)
        hidden = self.feed_forward(self.feed_forward_norm(x))
        if self.has_post_norms:
            hidden = self.feed_forward_post_norm(hidden)
        return sharding.constrain(x + hidden, "batch", "length", None), state


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm, vocabulary head, optionally a scalar head."""

    def __init__(self, config: ModelConfig):
        v, d = config.vocab_size, config.width
        self.embedding = _normal((v, d), ("vocab", "width"), d**-0.5)

        stacked = nnx.vmap(lambda: Block(config), axis_size=config.layers, out_axes=0)
        self.blocks = stacked()
        self.final_norm = Norm(config, d, "width")
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
        if self.config.embedding_scale:
            x = x * jnp.asarray(self.config.width**0.5, x.dtype)
        x = sharding.constrain(x, "batch", "length", None)
        graphdef, blocks_Y = nnx.split(self.blocks)
        windowed = self.config.windowed
        alike = len(set(windowed)) == 1

        def layer(x, scanned):
            block, state, is_windowed = scanned
            is_windowed = windowed[0] if alike else is_windowed
            return nnx.merge(graphdef, block)(x, positions_BL, attend, state, is_windowed)

        scanned = blocks_Y, states, None if alike else jnp.array(windowed)
        x, states = jax.lax.scan(_remat(layer, self.config.remat), x, scanned)
        return self.final_norm(x), states

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, f32 [..., V]."""
        weight_DV = self.head_weight().astype(hidden.dtype)
        product = jnp.matmul(hidden, weight_DV, preferred_element_type=jnp.float32)
        return attention.capped(product.astype(jnp.float32), self.config.logit_cap)

    def head_weight(self) -> jax.Array:
        """What hidden states are multiplied with, [D, V]."""
        return self.embedding[...].T if self.config.tied else self.head[...]

    def values(self, hidden: jax.Array) -> jax.Array:
        """The scalar head, f32 [...]: one value a token, without a unit."""
        return hidden.astype(jnp.float32) @ self.scalar[...]


def _remat(layer, policy: str):
    if policy == "none":
        return layer
    if policy == "full":
        return jax.checkpoint(layer, prevent_cse=False)
    policies = jax.checkpoint_policies
    saved = policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names("attention")
    )
    return jax.checkpoint(layer, policy=saved, prevent_cse=False)


def rotary_rates(config: ModelConfig, is_windowed: IsWindowed) -> jax.Array:
    """Radians a position by which each channel pair turns, f32 [E / 2].

    Pair i turns by theta^(-2i/E). Stretched texts turn slower: by `rope_factor` all pairs, or
    ("llama3") those that turn fewer than `rope_low_frequency` times within `rope_length` tokens;
    between that and `rope_high_frequency` turns the two rates are mixed in proportion.

    Source: arXiv:2104.09864; section 3.2 of arXiv:2306.15595; the released code of Llama 3.1.
    """
    half = config.width_per_head // 2
    places = jnp.arange(half, dtype=jnp.float32) / half
    rates = config.rope_theta**-places
    slow = rates / config.rope_factor
    if config.rope_scaling == "linear":
        rates = slow
    elif config.rope_scaling == "llama3":
        low, high = config.rope_low_frequency, config.rope_high_frequency
        turns = config.rope_length * rates / (2 * jnp.pi)
        share = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        rates = (1.0 - share) * slow + share * rates
    if config.rope_local_theta:
        rates = jnp.where(is_windowed, config.rope_local_theta**-places, rates)
    return rates


def rotate(x_BLAE: jax.Array, positions_BL: jax.Array, rates: jax.Array) -> jax.Array:
    """Turns channel pairs (i, i + E/2) by position * rates[i], in f32.

    Source: rotary position embedding, arXiv:2104.09864, in the split-half layout of Llama.
    """
    angles = positions_BL[..., None, None].astype(jnp.float32) * rates[None, None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    left, right = jnp.split(x_BLAE.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return turned.astype(x_BLAE.dtype)


def attend_whole(
    config: ModelConfig,
    segments_BL: jax.Array,
    *,
    keep_state: bool = False,
    packed: bool = True,
) -> Attend:
    """Attention over the tokens at hand: each reads its own text, up to itself.

    Args:
      config: The model.
      segments_BL: Which text a token belongs to, from 1; 0 is padding, which reads itself alone.
      keep_state: Whether each layer hands back its (keys, values), as prefill wants them.
      packed: Whether rows may hold several texts; see `attention.attend_segments`.
    """
    # A window that reaches over the whole row leaves nothing out.
    window = config.window if config.window < segments_BL.shape[1] else 0

    def attend(query, key, value, state, is_windowed):
        def mix(window):
            return attention.attend_segments(
                query, key, value, segments_BL,
                packed=packed, window=window, cap=config.attention_cap,
            )  # fmt: skip

        if not window or isinstance(is_windowed, bool):
            mixed = mix(window if is_windowed is not False else 0)
        else:
            mixed = jax.lax.cond(is_windowed, lambda: mix(window), lambda: mix(0))
        return mixed, ((key, value) if keep_state else state)

    return attend


@functools.lru_cache(maxsize=32)
def _abstract(config: ModelConfig):
    return nnx.split(nnx.eval_shape(lambda: Decoder(config)))


def merge(config: ModelConfig, params: dict) -> Decoder:
    """The module with these parameters, for use inside a jitted function."""
    return nnx.merge(_abstract(config)[0], params)


def init(
    config: ModelConfig, key: jax.Array, wanted: Callable[[str], bool] = lambda name: True
) -> dict:
    """Random f32 parameters, the nested dict of `nnx.split`; a function of config and key.

    All noise is drawn at once: one generator compiles in a tenth of the time of one for each
    parameter.

    Args:
      config: The model.
      key: Of the noise.
      wanted: By its name, whether a parameter is made; the others are left out.
    """
    leaves = jax.tree_util.tree_leaves_with_path(_abstract(config)[1], is_leaf=_is_variable)
    leaves = [(path, leaf) for path, leaf in leaves if wanted(path[-1].key)]
    total = sum(leaf.size for _, leaf in leaves if leaf.noise)
    noise = jax.random.truncated_normal(key, -2.0, 2.0, (total,), jnp.float32)
    used, params = 0, {}
    for path, leaf in leaves:
        value = jnp.full(leaf.shape, leaf.start, jnp.float32)
        if leaf.noise:
            value += leaf.noise * noise[used : used + leaf.size].reshape(leaf.shape)
            used += leaf.size
        place = params
        for entry in path[:-1]:
            place = place.setdefault(entry.key, {})
        place[path[-1].key] = value
    return params


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
    attend = attend_whole(config, segments_BL, packed=packed)
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
