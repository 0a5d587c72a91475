"""The two programs of sampling: prefill each query once, decode its responses together.

U queries stand side by side with R responses each. The keys and values of a prompt are kept
once a query; a response keeps its own only. A decode step reads both parts as one softmax:

    prompt part    [U, P]      shared by the R responses of a query: one product for all
    response part  [U, R, L]   slot i holds the token fed at step i

Step 0 feeds the last prompt token, so every step is the same: feed a token, score the next
one, draw it. Prefill therefore runs over all prompt tokens but the last.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from bstar_jax import kernels, model
from bstar_jax.config import ModelConfig
from bstar_jax.sampling import keys as row_keys


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "prompts_UP",
        "lengths_U",
        "keys_UR2",
        "temperature_UR",
        "top_k_UR",
        "top_p_UR",
        "min_p_UR",
        "active_U",
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Requests:
    """What to sample, on the device.

    Attributes:
      prompts_UP: Prompt tokens, int32, padded on the right.
      lengths_U: Their true lengths, at least 1.
      keys_UR2: Key data of every response, uint32.
      temperature_UR: f32; 0 is greedy.
      top_k_UR: int32; 0 is off.
      top_p_UR: f32, kept probability mass in (0, 1]; None is off for all.
      min_p_UR: f32, least probability relative to the best token; None is off for all.
      active_U: False for queries that only fill the batch.
    """

    prompts_UP: jax.Array
    lengths_U: jax.Array
    keys_UR2: jax.Array
    temperature_UR: jax.Array
    top_k_UR: jax.Array
    top_p_UR: jax.Array | None
    min_p_UR: jax.Array | None
    active_U: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens_URL", "num_tokens_UR", "logprob_UR", "stopped_UR"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Responses:
    """What was sampled, on the device.

    Attributes:
      tokens_URL: Token ids, int32; meaningless from `num_tokens_UR` on.
      num_tokens_UR: Tokens sampled, end-of-text included.
      logprob_UR: Sum of the tokens' log-probabilities, untempered and untruncated, f32.
      stopped_UR: Whether the response ended in end-of-text.
    """

    tokens_URL: jax.Array
    num_tokens_UR: jax.Array
    logprob_UR: jax.Array
    stopped_UR: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "last_UR", "done_UR", "key_cache", "value_cache", "responses"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What a decode step hands to the next.

    Attributes:
      step: Index of the response token to draw next.
      last_UR: Token fed at this step.
      done_UR: Responses that have ended.
      key_cache: Keys of the response part, [Y, U, G, R, E, L]: a product with a query runs
        along L, which lies together.
      value_cache: Its values, [Y, U, G, R, L, E].
      responses: What was sampled so far.
    """

    step: jax.Array
    last_UR: jax.Array
    done_UR: jax.Array
    key_cache: jax.Array
    value_cache: jax.Array
    responses: Responses


@functools.partial(jax.jit, static_argnames=("config", "max_tokens", "end_id", "impl"))
def sample_responses(
    config: ModelConfig,
    params: dict,
    requests: Requests,
    *,
    max_tokens: int,
    end_id: int,
    impl: str = "auto",
) -> Responses:
    """Samples R responses to each of U prompts: one prefill, then one loop over tokens.

    Temperature, top-k, top-p and min-p are data: a sweep over any values runs this one program.

    Args:
      config: The model.
      params: Its parameters.
      requests: The prompts and how each response is drawn.
      max_tokens: L, longest response, end-of-text included.
      end_id: The token that ends a response.
      impl: Sampling kernel, see `kernels.sample`.
    """
    decoder = model.merge(config, params)
    prompt_cache = _prefill(decoder, requests)
    draw = functools.partial(_draw, config, requests, impl)

    def step(state):
        hidden, new_cache = _feed(decoder, requests, prompt_cache, state)
        sampled = draw(decoder.logits(hidden), state.step)
        return _advance(state, new_cache, sampled, end_id)

    def unfinished(state):
        return (state.step < max_tokens) & ~jnp.all(state.done_UR)

    start = _start(config, requests, max_tokens, prompt_cache[0].dtype)
    return jax.lax.while_loop(unfinished, step, start).responses


def _prefill(decoder, requests):
    """Keys and values of every prompt token but the last, each [Y, U, G, P - 1, E]."""
    prompts_UP = requests.prompts_UP[:, :-1]
    columns = jnp.arange(prompts_UP.shape[1])[None]
    real = columns < (requests.lengths_U - 1)[:, None]
    mask = model.causal_mask(real.astype(jnp.int32))
    attend = model.attend_whole(mask, keep_state=True)
    positions = jnp.broadcast_to(columns, prompts_UP.shape)
    _, cache = decoder.hidden(prompts_UP, positions, attend, None)
    return jax.tree.map(lambda part: jnp.swapaxes(part, 2, 3), cache)


def _start(config, requests, max_tokens, dtype) -> DecodeState:
    queries, samples = requests.temperature_UR.shape
    cache_shape = (config.layers, queries, config.kv_heads, samples)
    slot_shape = (max_tokens, config.width_per_head)
    last_U = jnp.take_along_axis(requests.prompts_UP, requests.lengths_U[:, None] - 1, axis=1)
    shape = (queries, samples)
    return DecodeState(
        step=jnp.int32(0),
        last_UR=jnp.broadcast_to(last_U, shape),
        done_UR=jnp.broadcast_to(~requests.active_U[:, None], shape),
        key_cache=jnp.zeros((*cache_shape, *slot_shape[::-1]), dtype),
        value_cache=jnp.zeros((*cache_shape, *slot_shape), dtype),
        responses=Responses(
            tokens_URL=jnp.zeros((*shape, max_tokens), jnp.int32),
            num_tokens_UR=jnp.zeros(shape, jnp.int32),
            logprob_UR=jnp.zeros(shape, jnp.float32),
            stopped_UR=jnp.zeros(shape, bool),
        ),
    )


def _feed(decoder, requests, prompt_cache, state: DecodeState):
    """Runs the model on one token a response: hidden [U, R, D], new keys and values."""
    prompt_slots = jnp.arange(requests.prompts_UP.shape[1] - 1)[None]
    prompt_mask_UP = prompt_slots < (requests.lengths_U - 1)[:, None]
    response_mask_L = jnp.arange(state.key_cache.shape[-1]) < state.step
    positions_UR = jnp.broadcast_to(
        requests.lengths_U[:, None] - 1 + state.step, state.last_UR.shape
    )
    attend = _attend_parts(prompt_mask_UP, response_mask_L)
    caches = (*prompt_cache, state.key_cache, state.value_cache)
    return decoder.hidden(state.last_UR, positions_UR, attend, caches)


def _attend_parts(prompt_mask_UP, response_mask_L) -> model.Attend:
    """Attention of one token a response over its prompt, its earlier tokens and itself."""

    def attend(query, key, value, caches):
        prompt_key, prompt_value, response_key, response_value = caches
        u, r, heads, e = query.shape
        g = key.shape[2]
        h = heads // g
        p, end = prompt_key.shape[-2], prompt_key.shape[-2] + response_key.shape[-1]
        query = query.reshape(u, r, g, h, e).transpose(0, 2, 1, 3, 4)
        key, value = (part.transpose(0, 2, 1, 3) for part in (key, value))
        dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        # The responses of a query meet its prompt in one product.
        prompt = dot(query.reshape(u, g, r * h, e), prompt_key.swapaxes(-1, -2))
        prompt = jnp.where(prompt_mask_UP[:, None, None], prompt, -jnp.inf)
        response = jnp.where(
            response_mask_L[None, None, None, None], dot(query, response_key), -jnp.inf
        )
        itself = dot(query, key[..., None])
        scores = [prompt.reshape(u, g, r, h, p), response, itself]
        weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) * e**-0.5, axis=-1)
        weights = weights.astype(value.dtype)
        mixed = jnp.matmul(weights[..., :p].reshape(u, g, r * h, p), prompt_value)
        mixed = mixed.reshape(u, g, r, h, e)
        mixed += jnp.matmul(weights[..., p:end], response_value)
        mixed += weights[..., end:] * value[..., None, :]
        return mixed.transpose(0, 2, 1, 3, 4).reshape(u, r, heads, e), (key, value)

    return attend


def _draw(config, requests, impl, logits_URV, index):
    """Draws response token `index` of every row: (token, log-probability), each [U, R]."""
    u, r, padded = logits_URV.shape
    rows = u * r
    flat = lambda array: None if array is None else array.reshape(rows)  # noqa: E731
    sampled = kernels.sample(
        logits_URV.reshape(rows, padded),
        row_keys.at_token(requests.keys_UR2.reshape(rows, 2), index),
        flat(requests.temperature_UR),
        flat(requests.top_k_UR),
        flat(requests.top_p_UR),
        flat(requests.min_p_UR),
        valid_vocab=config.vocab_size,
        impl=impl,
    )
    return sampled.token_B.reshape(u, r), sampled.logprob_B.reshape(u, r)


def _advance(state: DecodeState, new_cache, sampled, end_id: int) -> DecodeState:
    """Writes what the step made; rows that are done keep what they have."""
    new_key, new_value = new_cache
    token_UR, logprob_UR = sampled
    live_UR = ~state.done_UR
    old = state.responses
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=state.step)
    ended_UR = live_UR & (token_UR == end_id)
    responses = Responses(
        tokens_URL=jax.lax.dynamic_update_slice_in_dim(
            old.tokens_URL, token_UR[..., None], state.step, axis=2
        ),
        num_tokens_UR=old.num_tokens_UR + live_UR,
        logprob_UR=old.logprob_UR + jnp.where(live_UR, logprob_UR, 0.0),
        stopped_UR=old.stopped_UR | ended_UR,
    )
    return DecodeState(
        step=state.step + 1,
        last_UR=token_UR,
        done_UR=state.done_UR | ended_UR,
        key_cache=write(state.key_cache, new_key[..., None], axis=5),
        value_cache=write(state.value_cache, new_value[..., None, :], axis=4),
        responses=responses,
    )
