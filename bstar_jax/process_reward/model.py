"""Process rewards that are learnt: how good each solution step of a response is.

A model with a scalar head reads prompt and response once. Its value z at the last token of a
step says how likely the steps so far still lead to the reference answer; the step's reward is

    2 sigmoid(z) - 1,   in (-1, 1)

What it learns from are labels without people (Math-Shepherd, arXiv:2312.08935): a step is as
good as the share of continuations from it that reach the reference answer. The last step, which
states the answer, is labelled by that answer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig
from bstar_jax.processes import ALONE, Team
from bstar_jax.records import Rollouts
from bstar_jax.tokenizer import Tokenizer, tokens_at

REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    # Of the probabilities that the rewards stand for, scaled as they are.
    "product": lambda rewards: 2 * float(np.prod([(reward + 1) / 2 for reward in rewards])) - 1,
    "last": lambda rewards: rewards[-1],
}

_SHORTEST = 64


def columns_for(tokens: int) -> int:
    """Columns that responses of so many tokens, prompts included, are scored in.

    They double from 64, as every length is a program of its own. Example: 100 -> 128.
    """
    columns = _SHORTEST
    while columns < tokens:
        columns *= 2
    return columns


def step_ends(text: str, separator: str, marker: str) -> list[int]:
    """Where the solution steps of a response end, in characters.

    Steps are what separators divide, each with its separator; the marker of the answer and what
    follows is the last one. Steps of spaces alone do not count.

    Example: "8 - 3 = 5 . 5 + 4 = 9 . # 9", separator ".", marker "#" -> [11, 23, 27].

    Args:
      text: The response.
      separator: What ends a step, such as a line end.
      marker: The text before the answer; "" where answers are not marked.
    """
    start = text.find(marker) if marker else -1
    reasoning = text if start < 0 else text[:start]
    ends, begin = [], 0
    while begin < len(reasoning):
        found = reasoning.find(separator, begin)
        end = len(reasoning) if found < 0 else found + len(separator)
        if reasoning[begin:end].strip():
            ends.append(end if found >= 0 else len(reasoning.rstrip()))
        begin = end
    if start >= 0:
        ends.append(len(text))
    return ends


class StepText(NamedTuple):
    """A response whose solution steps are to be scored.

    Attributes:
      prompt: The prompt.
      response: The response.
      ends: Where its steps end, in characters, ascending.
    """

    prompt: str
    response: str
    ends: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ProcessRewardModel:
    """Scores the solution steps of responses.

    Attributes:
      config: The model, with a scalar head.
      params: Its parameters, on the storage map.
      tokenizer: Text to tokens.
      step_ends: Where the solution steps of a response end, in characters, given (query_id,
        response).
      reduction: How a response's process reward comes from its steps: a name in `REDUCTIONS`.
      batch: Responses scored at once; a multiple of the shards of the mesh.
      mesh: Where; None is the default device.
      team: The processes that share the mesh, and score together.
    """

    config: ModelConfig
    params: dict
    tokenizer: Tokenizer
    step_ends: Callable[[str, str], list[int]]
    reduction: str
    batch: int
    mesh: Mesh | None = None
    team: Team = ALONE

    def score(self, texts: Sequence[StepText]) -> list[list[float]]:
        """Rewards in (-1, 1) of the solution steps of every response; [] for an empty response.

        Responses of like length are scored in batches of one shape, and all batches are queued
        before the first is read.
        """
        rows = [self._row(text) for text in texts]
        scored = [index for index, (_, places) in enumerate(rows) if places]
        # Neighbours in length share a batch, and the order is a function of the texts alone.
        scored.sort(key=lambda index: (len(rows[index][0]), index))
        queued = list(self._queue([rows[index][0] for index in scored]))
        if self.mesh is not None and self.mesh.is_multi_process:
            queued = multihost_utils.process_allgather(queued, tiled=True)
        queued = [np.asarray(each) for each in queued]
        results: list[list[float]] = [[] for _ in rows]
        for place, index in enumerate(scored):
            values_L = queued[place // self.batch][place % self.batch]
            results[index] = [float(values_L[token]) for token in rows[index][1]]
        return results

    def grade(self, rollouts: Rollouts) -> Rollouts:
        """The rows with `step_rewards` and `process_reward` as this model gives them.

        Equal texts of a query are scored once. A response without any step has neither.
        """
        columns = map(rollouts.column, ("query_id", "prompt", "response"))
        texts = [
            StepText(prompt, response, tuple(self.step_ends(query_id, response)))
            for query_id, prompt, response in zip(*columns, strict=True)
        ]
        every = texts
        if self.team.count > 1:  # a program on all devices takes the same rows everywhere
            gathered = (text for part in self.team.gather_json(texts) for text in part)
            every = [StepText(prompt, response, tuple(ends)) for prompt, response, ends in gathered]
        distinct = list(dict.fromkeys(every))
        scores = dict(zip(distinct, self.score(distinct), strict=True))
        steps = [scores[text] or None for text in texts]
        reduce = REDUCTIONS[self.reduction]
        return rollouts.with_columns(
            step_rewards=steps, process_reward=[each and reduce(each) for each in steps]
        )

    def _row(self, text: StepText) -> tuple[list[int], list[int]]:
        """Tokens of prompt and response, and the columns of its steps' last tokens."""
        given = self.tokenizer.encode_prompt(text.prompt)
        drawn = self.tokenizer.encode(text.response)
        if not drawn:
            return given, []
        last = tokens_at(self.tokenizer, text.response, text.ends)
        return [*given, *drawn], [len(given) + token for token in last]

    def _queue(self, texts: Sequence[Sequence[int]]) -> Iterator[jax.Array]:
        for start in range(0, len(texts), self.batch):
            part = texts[start : start + self.batch]
            length = columns_for(max(map(len, part)))
            tokens_BL = np.full((self.batch, length), self.tokenizer.pad_id, np.int32)
            segments_BL = np.zeros((self.batch, length), np.int32)
            for row, tokens in enumerate(part):
                tokens_BL[row, : len(tokens)], segments_BL[row, : len(tokens)] = tokens, 1
            if self.mesh is None:
                yield step_rewards(self.config, self.params, tokens_BL, segments_BL)
                continue
            with jax.set_mesh(self.mesh):
                rows = sharding.put_rows(self.mesh, (tokens_BL, segments_BL))
                yield step_rewards(self.config, self.params, *rows)


@functools.partial(jax.jit, static_argnames="config")
def step_rewards(
    config: ModelConfig, params: dict, tokens_BL: jax.Array, segments_BL: jax.Array
) -> jax.Array:
    """What the process reward of a step would be that ended at each token, f32 [B, L]."""
    hidden, decoder = model.forward_hidden(config, params, tokens_BL, segments_BL, packed=False)
    return 2 * jax.nn.sigmoid(decoder.values(hidden)) - 1


def with_scalar_head(config: ModelConfig, params: dict, mesh: Mesh) -> tuple[ModelConfig, dict]:
    """The model with a second head of zeros: every step is worth 0 until it has learnt.

    Args:
      config: The model.
      params: Its parameters, on the storage map; shared with the result.
      mesh: Where.
    """
    config = dataclasses.replace(config, scalar_head=True)

    def add(params: dict) -> dict:
        return {**params, "scalar": jnp.zeros(config.width, jnp.float32)}

    shapes = jax.eval_shape(add, params)
    places = sharding.shardings(mesh, shapes, model.logical_axes(config, shapes))
    return config, jax.jit(add, out_shardings=places)(params)
