"""Sampling: many responses to many queries, from the weights that train, on their mesh.

The work is cut into units of equal shape, fixed by the list of queries alone, so that a unit
sampled again after an interruption has the same bytes. The next unit is handed to the device
before the host turns the previous one into text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bstar_jax import sharding
from bstar_jax.balance import Choice
from bstar_jax.config import GenerateConfig, ModelConfig, UserError
from bstar_jax.records import Query, Rollouts
from bstar_jax.sampling.decode import Requests, Responses, sample_responses
from bstar_jax.sampling.keys import PHASES, Keys
from bstar_jax.tokenizer import Tokenizer, encode_prompt

__all__ = ["PHASES", "Draw", "Keys", "Sampler", "Unit", "generate", "sample_responses"]


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
    """

    config: ModelConfig
    tokenizer: Tokenizer
    settings: GenerateConfig
    mesh: Mesh | None = None

    def plan(self, queries: Sequence[Query], draws: Sequence[Draw]) -> list[Unit]:
        """Cuts the queries into units of about `settings.batch` rows, as equal as can be."""
        shards = sharding.row_shards(self.mesh) if self.mesh else 1
        rows = sum(draw.responses for draw in draws)
        units = max(math.ceil(len(queries) * rows / self.settings.batch), 1)
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

        Args:
          params: The parameters, on the sampling map.
          units: Some or all units of a plan.
          draws: How each query's responses are drawn.
          keys: Where in the run this is.
        """
        started = time.perf_counter()
        waiting = None
        for unit in units:
            launched = (unit, self._launch(params, unit, draws, keys))
            if waiting:
                rollouts = self._collect(*waiting, draws, keys)
                now = time.perf_counter()
                yield waiting[0], rollouts.with_seconds(sample=now - started)
                started = now
            waiting = launched
        if waiting:
            rollouts = self._collect(*waiting, draws, keys)
            yield waiting[0], rollouts.with_seconds(sample=time.perf_counter() - started)

    def _launch(self, params, unit: Unit, draws, keys: Keys) -> Responses:
        queries = [*unit.queries, *[unit.queries[-1]] * (unit.size - len(unit.queries))]
        prompts_UP, lengths_U = self._prompts(queries)
        temperature_R, top_k_R, index_R = _rows(draws)
        shape = (unit.size, len(index_R))
        index_UR = np.broadcast_to(index_R, shape)
        requests = Requests(
            prompts_UP=prompts_UP,
            lengths_U=lengths_U,
            keys_UR2=np.asarray(keys.rows([query.query_id for query in queries], index_UR)),
            temperature_UR=np.broadcast_to(temperature_R, shape),
            top_k_UR=np.broadcast_to(top_k_R, shape),
            top_p_UR=_everywhere(self.settings.top_p, 1.0, shape),
            min_p_UR=_everywhere(self.settings.min_p, 0.0, shape),
            active_U=np.arange(unit.size) < len(unit.queries),
        )
        with jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext():
            if self.mesh:
                requests = sharding.put_rows(self.mesh, requests)
            return sample_responses(
                self.config,
                params,
                jax.tree.map(jnp.asarray, requests),
                max_tokens=self.settings.max_tokens,
                end_id=self.tokenizer.end_id,
            )

    def _prompts(self, queries) -> tuple[np.ndarray, np.ndarray]:
        limit = self.settings.max_prompt_tokens
        prompts_UP = np.full((len(queries), limit), self.tokenizer.pad_id, np.int32)
        lengths_U = np.zeros(len(queries), np.int32)
        for row, query in enumerate(queries):
            tokens = encode_prompt(self.tokenizer, query.prompt)
            check_prompt(query.query_id, tokens, limit)
            prompts_UP[row, : len(tokens)] = tokens
            lengths_U[row] = len(tokens)
        return prompts_UP, lengths_U

    def _collect(self, unit: Unit, responses: Responses, draws, keys: Keys) -> Rollouts:
        responses = jax.device_get(responses)
        real = len(unit.queries)
        temperature_R, top_k_R, index_R = _rows(draws)
        num_tokens = responses.num_tokens_UR[:real].reshape(-1)
        tokens = responses.tokens_URL[:real].reshape(len(num_tokens), -1)
        stopped = responses.stopped_UR[:real].reshape(-1)
        # The token that ends a response is not text.
        lengths = num_tokens - stopped
        each = [query for query in unit.queries for _ in index_R]
        return Rollouts.from_columns(
            {
                "iteration": np.full(len(each), keys.iteration, np.int32),
                "split": [query.split for query in each],
                "query_id": [query.query_id for query in each],
                "sample_index": np.tile(index_R, real),
                "temperature": np.tile(temperature_R, real),
                "top_k": np.tile(top_k_R, real),
                "prompt": [query.prompt for query in each],
                "response": [
                    self.tokenizer.decode(row[:length].tolist())
                    for row, length in zip(tokens, lengths, strict=True)
                ],
                "num_tokens": num_tokens,
                "finish_reason": np.where(stopped, "stop", "length").tolist(),
                "logprob": responses.logprob_UR[:real].reshape(-1),
            }
        )


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


def _everywhere(value: float, off: float, shape: tuple[int, int]) -> np.ndarray | None:
    """The value in every row, or None where it is off: the kernel then has no such step."""
    return None if value == off else np.full(shape, value, np.float32)


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
        longest = max((len(encode_prompt(tokenizer, query.prompt)) for query in queries), default=1)
        settings = GenerateConfig(max_prompt_tokens=max(longest, 1))
    settings = dataclasses.replace(settings, max_tokens=max_tokens)
    sampler = Sampler(config, tokenizer, settings, mesh)
    choices = [choice] if isinstance(choice, Choice) else choice
    draws = [Draw(cell.temperature, cell.top_k, responses) for cell in choices]
    units = sampler.plan(queries, draws)
    parts = [rollouts for _, rollouts in sampler.run(params, units, draws, keys)]
    return Rollouts.concatenate(parts).sorted([query.query_id for query in queries])
