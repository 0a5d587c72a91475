"""Sampling: many responses to many queries, from the weights that train, on their mesh.

The work is cut into units of equal shape, fixed by the list of queries alone, so that a unit
sampled again after an interruption has the same bytes. The next unit is handed to the device
before the host turns the previous one into text.

Axes of this room, instead of the project's: D shards of the rows, U lanes of a shard (in `keys`
queries), R slots of a lane (in `keys` responses), K prompts of a lane, Q queries of a shard,
N responses a query, W rows of a shard (a row is a response of the unit), B lanes or prompts of all
shards, P prompt tokens, L tokens of a response, V vocabulary, A states of the stop automaton,
C values of a byte, Y layers, G key-value heads, H attention heads of a key-value head, E head
width, X stored tokens or head width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bstar_jax import sharding
from bstar_jax.balance import Choice
from bstar_jax.config import GenerateConfig, ModelConfig, UserError
from bstar_jax.records import Query, Rollouts, as_column
from bstar_jax.sampling.decode import Responses, Work
from bstar_jax.sampling.engine import Flight, Order, Prepared, deal
from bstar_jax.sampling.keys import PHASES, Keys
from bstar_jax.sampling.prefill import bucket
from bstar_jax.sampling.stops import after, automaton, cut
from bstar_jax.tokenizer import Tokenizer

__all__ = ["PHASES", "Draw", "Keys", "Sampler", "Unit", "generate"]


@dataclasses.dataclass(frozen=True)
class Draw:
    """How some of a query's responses are drawn.

    Attributes:
      temperature: Divides the logits; 0 is greedy.
      top_k: Tokens kept; 0 is off.
      responses: n.
      first: Sample index of the first; the others follow.
    """

    temperature: float
    top_k: int
    responses: int
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Unit:
    """Queries that are sampled together.

    Attributes:
      index: Position in the work list, from 0.
      queries: The queries, in order.
      size: U, the queries that the program takes; what is missing is filled.
    """

    index: int
    queries: tuple[Query, ...]
    size: int


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws responses with one model on one mesh.

    Attributes:
      config: The model.
      tokenizer: Text to tokens and back.
      settings: Lengths, rows a batch, top-p and min-p.
      mesh: Where; None is the default device.
      site: On which part of the mesh this process samples; by default its own, where it can.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    settings: GenerateConfig
    mesh: Mesh | None = None
    site: sharding.SamplingMesh | None = None

    @functools.cached_property
    def _site(self) -> sharding.SamplingMesh | None:
        return self.site or (sharding.sampling_mesh(self.mesh) if self.mesh else None)

    @property
    def _shards(self) -> int:
        """Shards of all processes."""
        return self._site.total if self._site else 1

    @functools.cached_property
    def _stops(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        """The stop strings, and what ends a response beside end-of-text, None for nothing."""
        stops = tuple(stop for stop in self.settings.stop if stop)
        _, *more_ends = self.tokenizer.end_ids
        if not stops and not more_ends:
            return stops, None
        pieces = self.tokenizer.pieces() if stops else []
        # The model may have columns that are no token.
        silent = [b""] * (self.config.vocab_size - len(pieces))
        stop_AV = automaton([*pieces, *silent], stops)
        stop_AV[:, more_ends] = len(stop_AV) - 1
        return stops, stop_AV

    def plan(self, queries: Sequence[Query], draws: Sequence[Draw]) -> list[Unit]:
        """Cuts the queries into units of at most `settings.batch` rows, as equal as can be.

        A unit has a query a shard at least, however many rows that is.
        """
        shards = self._shards
        rows = sum(draw.responses for draw in draws)
        most = max(self.settings.batch // (rows * shards), 1) * shards
        units = max(math.ceil(len(queries) / most), 1)
        size = math.ceil(len(queries) / units / shards) * shards
        starts = range(0, len(queries), max(size, 1))
        return [
            Unit(index, tuple(queries[start : start + size]), size)
            for index, start in enumerate(starts)
        ]

    def run(
        self, params: dict, units: Sequence[Unit], draws: Sequence[Draw], keys: Keys
    ) -> Iterator[tuple[Unit, Rollouts]]:
        """Yields each unit with its rollouts, in order.

        Where several processes share the mesh, each yields the rollouts of its own queries, maybe
        none of them, of every unit; all must run the same units.

        Args:
          params: The parameters, on the sampling map of the whole mesh.
          units: Some or all units of a plan.
          draws: How each query's responses are drawn.
          keys: Where in the run this is.
        """
        if self._site and self._site.mesh != self.mesh:
            params = sharding.on_sampling_mesh(self._site, params)
        started = time.perf_counter()
        prepared: Any = self._prepare(units[0], draws, keys) if units else None
        done = None
        for place, unit in enumerate(units):
            flight = self._launch(params, prepared)
            # The device is busy: time for the unit before, and for the one after.
            if done:
                yield done[0], self._collect(*done, draws, keys)
            if place + 1 < len(units):
                prepared = self._prepare(units[place + 1], draws, keys)
            responses = flight.land()
            now = time.perf_counter()
            done = (unit, flight.order, responses, now - started)
            started = now
            del flight  # and its cache, before there is another
        if done:
            yield done[0], self._collect(*done, draws, keys)

    def _prepare(self, unit: Unit, draws, keys: Keys) -> Prepared:
        prefixes = self._prefixes(unit.queries)
        prompts = [
            [*prompt, *prefix]
            for prompt, prefix in zip(self._prompts(unit.queries), prefixes, strict=True)
        ]
        lengths_Q = np.array([len(prompt) for prompt in prompts], np.int32)
        whole = deal(lengths_Q.tolist(), unit.size, self._shards)
        longest_Q = whole.gather(lengths_Q).max(axis=0)
        order = whole.of(self._site.shards) if self._site else whole
        # The same room whatever prefixes a unit has: every buffer is a program of its own.
        room = self.settings.max_prompt_tokens
        room += self.settings.max_tokens - 1 if any(prefixes) else 0
        length = bucket(int(longest_Q.max()), room)
        tokens_QP = np.full((len(prompts), length), self.tokenizer.pad_id, np.int32)
        for row, prompt in enumerate(prompts):
            tokens_QP[row, : len(prompt)] = prompt
        temperature_N, top_k_N, index_N = _rows(draws)
        ids = [query.query_id for query in unit.queries]
        index_QN = np.broadcast_to(index_N, (len(ids), len(index_N)))
        settings = self.settings
        limit_Q = settings.max_tokens - np.array([len(prefix) for prefix in prefixes], np.int32)
        limit_QN = np.broadcast_to(limit_Q[:, None], index_QN.shape)
        _, stop_AV = self._stops
        stop_Q = np.array([0 if stop_AV is None else after(stop_AV, part) for part in prefixes])
        work = Work(
            real_D=(order.index_DQ >= 0).sum(axis=1).astype(np.int32),
            lengths_DQ=order.gather(lengths_Q),
            last_DQ=order.gather(np.array([prompt[-1] for prompt in prompts], np.int32)),
            keys_DQN2=order.gather(np.asarray(keys.rows(ids, index_QN))),
            limit_DQN=order.gather(limit_QN),
            temperature_N=temperature_N,
            top_k_N=top_k_N,
            top_p=None if settings.top_p == 1 else np.float32(settings.top_p),
            min_p=None if settings.min_p == 0 else np.float32(settings.min_p),
            stop_AV=stop_AV,
            prompts=None,  # pyright: ignore[reportArgumentType]  # the flight computes them
            stop_DQ=order.gather(stop_Q.astype(np.int32)) if stop_Q.any() else None,
        )
        return Prepared(order, order.gather(tokens_QP), longest_Q, self._shards, work)

    def _launch(self, params, prepared: Prepared) -> Flight:
        return Flight(
            self.config,
            params,
            prepared,
            slots=self.settings.slots,
            max_tokens=self.settings.max_tokens,
            end_id=self.tokenizer.end_id,
            num_tokens=self.tokenizer.vocab_size,
            mesh=self._site and self._site.mesh,
        )

    def _prompts(self, queries: Sequence[Query]) -> list[list[int]]:
        limit = self.settings.max_prompt_tokens
        prompts = [self.tokenizer.encode_prompt(query.asked) for query in queries]
        for query, tokens in zip(queries, prompts, strict=True):
            check_prompt(query.query_id, tokens, limit)
        return prompts

    def _prefixes(self, queries: Sequence[Query]) -> list[list[int]]:
        limit = self.settings.max_tokens
        prefixes = [self.tokenizer.encode(query.prefix) for query in queries]
        for query, tokens in zip(queries, prefixes, strict=True):
            if len(tokens) >= limit:
                raise UserError(
                    f"the prefix of query {query.query_id!r} has {len(tokens)} tokens, but a "
                    f"response has generate.max_tokens={limit} at most and one of them is drawn; "
                    "raise it, or continue an earlier step"
                )
        return prefixes

    def _collect(
        self, unit: Unit, order: Order, responses: Responses, seconds: float, draws, keys: Keys
    ) -> Rollouts:
        temperature_N, top_k_N, index_N = _rows(draws)
        shards, _ = sharding.own_rows(responses.num_tokens_DW)
        order = order.of(shards)
        queries = [unit.queries[place] for place in order.queries]

        def by_query(table_DW):
            _, table_DW = sharding.own_rows(table_DW)
            table_DQN = table_DW.reshape(*order.index_DQ.shape, len(index_N), *table_DW.shape[2:])
            return order.scatter(table_DQN).reshape(-1, *table_DW.shape[2:])

        tokens, num_tokens, logprob, stopped = (
            by_query(getattr(responses, name))
            for name in ("tokens_DWL", "num_tokens_DW", "logprob_DW", "stopped_DW")
        )
        # A token that ends a response is not text; a stop string is, and is cut off.
        last = tokens[np.arange(len(tokens)), num_tokens - 1]
        lengths = num_tokens - np.isin(last, self.tokenizer.end_ids)
        stops, _ = self._stops
        each = [query for query in queries for _ in index_N]
        begun = [prefix for prefix in self._prefixes(queries) for _ in index_N]
        return Rollouts.from_columns(
            {
                "iteration": np.full(len(each), keys.iteration, np.int32),
                "split": [query.split for query in each],
                "query_id": [query.query_id for query in each],
                "sample_index": np.tile(index_N, len(queries)),
                "temperature": np.tile(temperature_N, len(queries)),
                "top_k": np.tile(top_k_N, len(queries)),
                "prompt": [query.prompt for query in each],
                "response": [
                    cut(self.tokenizer.decode([*prefix, *row[:length].tolist()]), stops)
                    for prefix, row, length in zip(begun, tokens, lengths, strict=True)
                ],
                "num_tokens": num_tokens,
                "finish_reason": np.where(stopped, "stop", "length").tolist(),
                "logprob": logprob,
                "source": [query.source for query in each],
                "messages": as_column([query.messages for query in each]),
            }
        ).with_seconds(sample=seconds)


def check_prompt(query_id: str, tokens: Sequence[int], limit: int) -> None:
    """Refuses a prompt that is empty or longer than the limit.

    Raises:
      UserError: Naming the query, its length and the setting.
    """
    if not tokens:
        raise UserError(f"query {query_id!r} has an empty prompt; a prompt has a token")
    if len(tokens) > limit:
        raise UserError(
            f"the prompt of query {query_id!r} has {len(tokens)} tokens, more than "
            f"generate.max_prompt_tokens={limit}; raise it, or leave the query out"
        )


def _rows(draws: Sequence[Draw]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Temperature, top-k and sample index of each response of a query, each [R]."""
    counts = [draw.responses for draw in draws]
    temperature_R = np.repeat(np.array([draw.temperature for draw in draws], np.float32), counts)
    top_k_R = np.repeat(np.array([draw.top_k for draw in draws], np.int32), counts)
    spans = [np.arange(draw.first, draw.first + draw.responses) for draw in draws]
    index_R = np.concatenate(spans).astype(np.int32)
    return temperature_R, top_k_R, index_R


def generate(
    config: ModelConfig,
    params: dict,
    queries: Sequence[Query],
    *,
    choice: Choice | Sequence[Choice],
    keys: Keys,
    max_tokens: int,
    tokenizer: Tokenizer,
    responses: int = 1,
    settings: GenerateConfig | None = None,
    mesh: Mesh | None = None,
) -> Rollouts:
    """Samples responses to queries; the door of this room for scripts and notebooks.

    Args:
      config: The model.
      params: Its parameters.
      queries: What to answer.
      choice: How to sample: one cell, or several that are sampled in one batch.
      keys: Seed, iteration and phase; with the query's id they fix every draw.
      max_tokens: Longest response in tokens, end-of-text included.
      tokenizer: Text to tokens and back.
      responses: n, a query and choice.
      settings: Prompt limit, rows a batch, top-p, min-p; by default as long as the prompts.
      mesh: Devices; None is the default device.

    Returns:
      Rollouts sorted by (query, temperature, top_k, sample_index), not graded.

    Raises:
      UserError: If a prompt is empty or too long.
    """
    if settings is None:
        longest = max((len(tokenizer.encode_prompt(query.asked)) for query in queries), default=1)
        settings = GenerateConfig(max_prompt_tokens=max(longest, 1))
    settings = dataclasses.replace(settings, max_tokens=max_tokens)
    sampler = Sampler(config, tokenizer, settings, mesh)
    choices = [choice] if isinstance(choice, Choice) else choice
    draws = [Draw(cell.temperature, cell.top_k, responses) for cell in choices]
    units = sampler.plan(queries, draws)
    parts = [rollouts for _, rollouts in sampler.run(params, units, draws, keys)]
    return Rollouts.concatenate(parts).sorted([query.query_id for query in queries])
