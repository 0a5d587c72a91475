"""The decode program: slots draw token after token until the unit is done, on the device alone.

Each turn of its one loop feeds a token to every slot, scores the next and draws it:

    refill    free slots begin the next response of their lane (slots.py)
    feed      the model on one token a slot, over prompt part, own tokens, and the token itself
    draw      kernels.sample, every slot with its own key, temperature and truncation
    advance   tokens go to their row; a slot whose response ended is free

The host only starts the loop again, after some steps, or when the cache must grow (cache.py), or
when so few slots are left in use that a quarter of them will do.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from bstar_jax import kernels, model, sharding
from bstar_jax.config import ModelConfig
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling import keys as row_keys
from bstar_jax.sampling import slots as refill
from bstar_jax.sampling.attention import attend_parts
from bstar_jax.sampling.cache import Cache, Prompts
from bstar_jax.sampling.slots import Lanes, Slots

Column = jax.Array | np.ndarray  # NumPy on the host, JAX on devices and while tracing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Work:
    """What to sample: Q queries a shard, N responses each.

    Attributes:
      real_D: Queries of each shard that do not only fill it; they come first.
      lengths_DQ: Prompt tokens, at least 1.
      last_DQ: The last prompt token.
      keys_DQN2: Key data of every response, uint32.
      limit_DQN: Most tokens of every response, end-of-text included, int32.
      temperature_N: f32; 0 is greedy.
      top_k_N: int32; 0 is off.
      top_p: f32 scalar, kept probability mass in (0, 1]; None is off.
      min_p: f32 scalar, least probability relative to the best token; None is off.
      stop_AV: The automaton of stop strings, see `stops`; None is none.
      prompts: Their keys and values.
      stop_DQ: State of the automaton before the first token, int32; None is 0, no text before it.
    """

    real_D: Column
    lengths_DQ: Column
    last_DQ: Column
    keys_DQN2: Column
    limit_DQN: Column
    temperature_N: Column
    top_k_N: Column
    top_p: ArrayLike | None
    min_p: ArrayLike | None
    stop_AV: Column | None
    prompts: Prompts
    stop_DQ: Column | None = None

    @property
    def num_samples(self) -> int:
        """N."""
        return self.keys_DQN2.shape[2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Responses:
    """What was sampled; W = Q * N rows a shard, row q * N + n.

    Attributes:
      tokens_DWL: Token ids, int32; meaningless from `num_tokens_DW` on.
      num_tokens_DW: Tokens sampled, end-of-text included.
      logprob_DW: Sum of the tokens' log-probabilities, untempered and untruncated, f32.
      stopped_DW: Whether the response ended in end-of-text or a stop string.
    """

    tokens_DWL: jax.Array
    num_tokens_DW: jax.Array
    logprob_DW: jax.Array
    stopped_DW: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What a step hands to the next.

    Attributes:
      step: Steps done.
      slots: [D, U, R].
      lanes: [D, U, ...].
      cache: Keys and values.
      responses: What was sampled so far.
    """

    step: jax.Array
    slots: Slots
    lanes: Lanes
    cache: Cache
    responses: Responses


# A program is compiled for every number of slots: they fall in few steps, and only where the
# responses under way may still go on for a while.
_SHRINK_BY = 4
_SHRINK_FOR = 64


class Status:
    """Places in the int32 array that a call of `decode` returns."""

    ALIVE, MUST_GROW, CAN_SHRINK, STEPS = range(4)


@functools.partial(jax.jit, static_argnames=("config", "shape", "columns", "max_tokens"))
def start(
    config: ModelConfig,
    work: Work,
    *,
    shape: tuple[int, int, int],
    columns: int,
    max_tokens: int,
) -> DecodeState:
    """The state before the first step.

    Args:
      config: The model.
      work: What to sample.
      shape: (U lanes a shard, R slots a lane, K prompts a lane).
      columns: L, tokens of a response that the cache has room for.
      max_tokens: Longest response, end-of-text included.
    """
    shards, queries, samples = work.keys_DQN2.shape[:3]
    first = jax.vmap(lambda real: refill.start(*shape, real, (queries, samples)))
    slots, lanes = first(work.real_D)
    rows = (shards, queries * samples)
    return _in_place(
        DecodeState(
            step=jnp.int32(0),
            slots=slots,
            lanes=lanes,
            cache=caches.start(config, work.prompts, shape, columns),
            responses=Responses(
                tokens_DWL=jnp.zeros((*rows, max_tokens), jnp.int32),
                num_tokens_DW=jnp.zeros(rows, jnp.int32),
                logprob_DW=jnp.zeros(rows, jnp.float32),
                stopped_DW=jnp.zeros(rows, bool),
            ),
        )
    )


def _in_place(state: DecodeState) -> DecodeState:
    """The state where every program leaves it: elsewhere the next would be compiled once more."""

    def by_shard(part):
        return sharding.constrain(part, "batch", *[None] * (part.ndim - 1))

    return DecodeState(
        step=sharding.constrain(state.step),
        slots=jax.tree.map(by_shard, state.slots),
        lanes=jax.tree.map(by_shard, state.lanes),
        cache=caches.in_place(state.cache),
        responses=jax.tree.map(by_shard, state.responses),
    )


@functools.partial(
    jax.jit, static_argnames=("config", "end_id", "num_tokens", "impl"), donate_argnames=("state",)
)
def decode(
    config: ModelConfig,
    params: dict,
    work: Work,
    state: DecodeState,
    steps: jax.Array,
    *,
    end_id: int,
    num_tokens: int = 0,
    impl: str = "auto",
) -> tuple[DecodeState, jax.Array]:
    """Up to `steps` more steps; fewer where the unit is done, or the state must change its shape.

    Temperature, top-k, top-p and min-p are data: a sweep over any values runs this one program.

    Args:
      config: The model.
      params: Its parameters.
      work: What to sample.
      state: Where it stands; given up.
      steps: At most so many.
      end_id: The token that ends a response.
      num_tokens: Columns of the vocabulary from this one on are no token and never drawn; 0 is none
        of them. Log-probabilities are those of the whole vocabulary all the same.
      impl: Sampling kernel, see `kernels.sample`.

    Returns:
      The state, and its `Status`.
    """
    decoder = model.merge(config, params)
    until = state.step + steps

    def step(state):
        state = _refill(work, state)
        rows = _rows(work, state.slots)
        hidden, new = _feed(decoder, work.prompts, rows, state)
        logits = decoder.logits(hidden)
        sampled = _draw(config, work, rows, state.slots.age_UR, num_tokens, impl, logits)
        return _advance(work, state, rows, new, sampled, end_id)

    def goes_on(state):
        status = _status(work, state)
        stays = status[Status.MUST_GROW] + status[Status.CAN_SHRINK] == 0
        return (status[Status.ALIVE] > 0) & stays & (state.step < until)

    state = _in_place(jax.lax.while_loop(goes_on, step, state))
    return state, _status(work, state)


@functools.partial(jax.jit, static_argnames=("columns",))
def grow(state: DecodeState, columns: int) -> DecodeState:
    """The same state with more columns for responses."""
    return _in_place(dataclasses.replace(state, cache=caches.grow(state.cache, columns)))


@jax.jit
def shrink(state: DecodeState) -> DecodeState:
    """The same state with a quarter of the slots a lane: those in use, which must fit."""
    is_free_DUR = state.slots.row_UR < 0
    slot_DUR = jnp.argsort(is_free_DUR, axis=2, stable=True)[
        ..., : is_free_DUR.shape[2] // _SHRINK_BY
    ]

    def keep(part):
        return jnp.take_along_axis(part, slot_DUR, axis=2)

    return _in_place(
        dataclasses.replace(
            state,
            slots=jax.tree.map(keep, state.slots),
            cache=caches.keep_slots(state.cache, slot_DUR),
        )
    )


def _status(work: Work, state: DecodeState) -> jax.Array:
    live_DUR = state.slots.row_UR >= 0
    slots, columns = live_DUR.shape[2], state.cache.key.shape[-2]
    has_more = (state.lanes.begun_Q < work.num_samples).any()
    # A response's last token is not stored, as nothing follows it.
    limit = state.responses.tokens_DWL.shape[2]
    is_full = columns < limit - 1
    must_grow = is_full & (live_DUR & (state.slots.age_UR >= columns)).any()
    fits = live_DUR.sum(axis=2).max() <= slots // _SHRINK_BY
    youngest = jnp.where(live_DUR, state.slots.age_UR, limit).min()
    can_shrink = fits & ~has_more & (limit - youngest >= _SHRINK_FOR)
    flags = [live_DUR.any() | has_more, must_grow, can_shrink, state.step]
    return jnp.stack([jnp.asarray(flag, jnp.int32) for flag in flags])


def _refill(work: Work, state: DecodeState) -> DecodeState:
    slots, lanes, cache = state.slots, state.lanes, state.cache
    samples = work.num_samples
    if lanes.query_UK.shape[-1] == 2:
        fetch = jax.vmap(functools.partial(refill.fetch, num_samples=samples))
        lanes, place = sharding.by_shard(fetch)(slots, lanes, work.real_D)
        cache = caches.load(cache, work.prompts, *place)
    begin = jax.vmap(functools.partial(refill.begin, num_samples=samples))
    slots, lanes = sharding.by_shard(begin)(slots, lanes)
    return dataclasses.replace(state, slots=slots, lanes=lanes, cache=cache)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What the slots draw, looked up in the work list; each [D, U, R]."""

    live: jax.Array
    query: jax.Array
    length: jax.Array
    token: jax.Array
    key_2: jax.Array
    limit: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    stop: jax.Array


def _rows(work: Work, slots: Slots) -> _Rows:
    live = slots.row_UR >= 0
    row = jnp.maximum(slots.row_UR, 0)
    query, sample = row // work.num_samples, row % work.num_samples
    shards = jnp.arange(len(row))[:, None, None]

    def look(table):
        return table[shards, query]

    def settle(table, free):
        return jnp.where(live, table[sample], free)

    is_first = slots.age_UR == 0
    stop = slots.stop_UR
    if work.stop_DQ is not None:
        stop = jnp.where(is_first, look(work.stop_DQ), stop)
    return _Rows(
        live=live,
        query=query,
        length=look(work.lengths_DQ),
        token=jnp.where(is_first, look(work.last_DQ), slots.token_UR),
        key_2=work.keys_DQN2[shards, query, sample],
        limit=work.limit_DQN[shards, query, sample],
        # A free slot draws to nowhere, as costs least: at temperature 1 without top-k.
        temperature=settle(work.temperature_N, 1.0),
        top_k=settle(work.top_k_N, 0),
        stop=stop,
    )


def _feed(decoder, prompts: Prompts, rows: _Rows, state: DecodeState):
    """Runs the model on one token a slot: hidden [D*U, R, D], new keys and values."""
    cache, slots = state.cache, state.slots
    lanes = rows.token.shape[0] * rows.token.shape[1]

    def merge(part):
        return part.reshape(lanes, *part.shape[2:])

    counts = merge(slots.side_UR), merge(rows.length - 1), merge(slots.age_UR)
    attend = attend_parts(decoder.config, *counts)
    shared: tuple[Any, Any] = (cache.prompt_key, cache.prompt_value)
    if cache.prompt_key is None:
        shared = (prompts.key[:, :, :, None], prompts.value[:, :, :, None])
    parts = (*shared, cache.key, cache.value)
    parts = tuple(part.reshape(part.shape[0], lanes, *part.shape[3:]) for part in parts)
    positions = rows.length - 1 + slots.age_UR
    return decoder.hidden(merge(rows.token), merge(positions), attend, parts)


def _draw(config, work: Work, rows: _Rows, age, num_tokens, impl, logits_BRV):
    """Draws the next token of every slot: (token, log-probability), each [D, U, R]."""
    shape = rows.token.shape
    count = rows.token.size
    logits_BV = logits_BRV.reshape(count, -1)

    def flat(part):
        return part.reshape(-1, *part.shape[3:])

    def everywhere(value):
        return None if value is None else jnp.full(count, value)

    sampled = kernels.sample(
        logits_BV,
        row_keys.at_token(flat(rows.key_2), flat(age)),
        flat(rows.temperature),
        flat(rows.top_k),
        everywhere(work.top_p),
        everywhere(work.min_p),
        valid_vocab=num_tokens or config.vocab_size,
        impl=impl,
    )
    logprob_B = sampled.logprob_B
    if 0 < num_tokens < config.vocab_size:
        logprob_B = _of_whole_vocabulary(config, logits_BV, sampled, num_tokens)
    return sampled.token_B.reshape(shape), logprob_B.reshape(shape)


def _of_whole_vocabulary(config, logits_BV, sampled: kernels.Sample, num_tokens) -> jax.Array:
    """The log-probability of each token among all columns, from that among the tokens alone.

    With the log-sum-exp Z of the tokens and R of the other columns: log p - log(1 + exp(R - Z)).
    Only sums over columns are taken, so logits that devices share stay where they are.
    """
    column = jnp.arange(logits_BV.shape[1])[None]
    is_other = (column >= num_tokens) & (column < config.vocab_size)
    drawn_B = jnp.sum(jnp.where(column == sampled.token_B[:, None], logits_BV, 0.0), axis=1)
    other_B = jax.nn.logsumexp(jnp.where(is_other, logits_BV, -jnp.inf), axis=1)
    return sampled.logprob_B - jax.nn.softplus(other_B - (drawn_B - sampled.logprob_B))


def _advance(work: Work, state: DecodeState, rows: _Rows, new, sampled, end_id: int) -> DecodeState:
    """Writes what the step made, each row's to its place."""
    slots = state.slots
    token, logprob = sampled
    live, stop = rows.live, rows.stop
    stopped = token == end_id
    if work.stop_AV is not None:
        stop = work.stop_AV[stop, token]
        stopped |= stop == len(work.stop_AV) - 1
    age = slots.age_UR + live
    ended = stopped | (age >= rows.limit)
    record = sharding.by_shard(_record)

    def split(part):
        return part.reshape(len(part), *live.shape[:2], *part.shape[2:])

    return DecodeState(
        step=state.step + 1,
        slots=Slots(
            row_UR=jnp.where(ended, -1, slots.row_UR),
            side_UR=slots.side_UR,
            age_UR=age,
            token_UR=token,
            stop_UR=stop,
        ),
        lanes=state.lanes,
        cache=caches.write(state.cache, slots.age_UR, *map(split, new)),
        responses=record(state.responses, slots, token, logprob, stopped),
    )


def _record(responses: Responses, slots: Slots, token, logprob, stopped) -> Responses:
    """The responses with one token more in every row that a slot draws."""
    shards, rows = responses.num_tokens_DW.shape

    def flat(part):
        return part.reshape(shards, -1)

    # Rows beyond the last are dropped: free slots write nothing.
    row = flat(jnp.where(slots.row_UR >= 0, slots.row_UR, rows))
    shard = jnp.arange(shards)[:, None]
    place = responses.tokens_DWL.at[shard, row, flat(slots.age_UR)]

    def put(table, part):
        return table.at[shard, row].set(flat(part), mode="drop")

    return Responses(
        tokens_DWL=place.set(flat(token), mode="drop"),
        num_tokens_DW=put(responses.num_tokens_DW, slots.age_UR + 1),
        logprob_DW=responses.logprob_DW.at[shard, row].add(flat(logprob), mode="drop"),
        stopped_DW=put(responses.stopped_DW, stopped),
    )
