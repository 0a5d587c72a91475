"""The process reward model: it says how good each solution step of a response is.

A model with a scalar head reads prompt and response once. Its value z at the last token of a step
says how likely the steps up to there lead to the reference answer. The reward of the step is

    2 sigmoid(z) - 1,   in (-1, 1)

It learns from labels that need no human annotators (Math-Shepherd, arXiv:2312.08935): the label of
a step is the share of continuations after it that reach the reference answer. The last step states
the answer, and its label is whether that answer is correct.
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
from bstar_jax.tokenizer import Prompt, Tokenizer, as_prompt, tokens_at

REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    # The product of the probabilities, scaled to a reward as they are.
    "product": lambda rewards: 2 * float(np.prod([(reward + 1) / 2 for reward in rewards])) - 1,
    "last": lambda rewards: rewards[-1],
}

_SHORTEST = 64


def columns_for(tokens: int) -> int:
    """Returns the columns of a batch whose longest row has so many tokens, prompt included.

    They double from 64, because every number of columns compiles a program. Example: 100 -> 128.
    """
    columns = _SHORTEST
    while columns < tokens:
        columns *= 2
    return columns


class StepText(NamedTuple):
    """A response whose solution steps are to be scored.

    Attributes:
      prompt: The prompt, or the chat.
      response: The response.
      ends: The ends of its steps, in characters, ascending.
    """

    prompt: Prompt
    response: str
    ends: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ProcessRewardModel:
    """Scores the solution steps of responses.

    Attributes:
      config: The model, with a scalar head.
      params: The parameters of the model, sharded as training stores them.
      tokenizer: Encodes prompts and responses.
      step_ends: Finds the ends of the solution steps of a response, in characters, given
        (query_id, response).
      reduction: How the rewards of its steps give the process reward of a response: a name in
        `REDUCTIONS`.
      batch: Responses that are scored at once; a multiple of the row shards of the mesh.
      mesh: The devices; None is the default device.
      team: The processes that share the mesh and score together.
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
        """Scores the solution steps of every response.

        Responses of similar length are scored together, and all batches are queued before the
        results of the first are read.

        Args:
          texts: The responses.

        Returns:
          For every response the rewards of its steps, in (-1, 1); [] for an empty response.
        """
        rows = [self._row(text) for text in texts]
        scored = [index for index, (_, places) in enumerate(rows) if places]
        # Responses of similar length share a batch. The order depends only on the texts.
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
        """Fills `step_rewards` and `process_reward` of rows with the scores of this model.

        Equal responses to a prompt are scored once. Both are null for a response without steps.

        Args:
          rollouts: The rows.

        Returns:
          The rows with these two columns replaced.
        """
        columns = map(rollouts.column, ("query_id", "response"))
        texts = [
            StepText(prompt, response, tuple(self.step_ends(query_id, response)))
            for prompt, query_id, response in zip(rollouts.prompts(), *columns, strict=True)
        ]
        every = texts
        if self.team.count > 1:  # processes that share a program pass it the same rows
            gathered = (text for part in self.team.gather_json(texts) for text in part)
            every = [
                StepText(as_prompt(prompt), response, tuple(ends))
                for prompt, response, ends in gathered
            ]
        distinct = list(dict.fromkeys(every))
        scores = dict(zip(distinct, self.score(distinct), strict=True))
        steps = [scores[text] or None for text in texts]
        reduce = REDUCTIONS[self.reduction]
        return rollouts.with_columns(
            step_rewards=steps, process_reward=[each and reduce(each) for each in steps]
        )

    def _row(self, text: StepText) -> tuple[list[int], list[int]]:
        """Returns the tokens of prompt and response, and the columns of its steps' last tokens."""
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
    """Returns the reward that a step ending at each token would have, f32 [B, L].

    Args:
      config: The model, with a scalar head.
      params: The parameters.
      tokens_BL: Prompts and responses; padding follows them.
      segments_BL: 1 at tokens, 0 at padding.
    """
    hidden, decoder = model.forward_hidden(config, params, tokens_BL, segments_BL, packed=False)
    return 2 * jax.nn.sigmoid(decoder.values(hidden)) - 1


def with_scalar_head(config: ModelConfig, params: dict, mesh: Mesh) -> tuple[ModelConfig, dict]:
    """Adds a scalar head of zeros to a model. Until it is trained every step has reward 0.

    Args:
      config: The model.
      params: The parameters, sharded as training stores them. The result shares their buffers.
      mesh: The devices.

    Returns:
      The model with the head, and its parameters.
    """
    config = dataclasses.replace(config, scalar_head=True)

    def add(params: dict) -> dict:
        return {**params, "scalar": jnp.zeros(config.width, jnp.float32)}

    shapes = jax.eval_shape(add, params)
    places = sharding.shardings(mesh, shapes, model.logical_axes(config, shapes))
    return config, jax.jit(add, out_shardings=places)(params)
