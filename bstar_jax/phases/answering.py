"""Answers prompts with a run's model or a published one: for scripts and notebooks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import pyarrow as pa
from jax.sharding import Mesh

from bstar_jax import hub, sampling
from bstar_jax import tokenizer as tokenizers
from bstar_jax.balance import Choice
from bstar_jax.config import GenerateConfig, ModelConfig
from bstar_jax.phases.run import Run
from bstar_jax.records import Query
from bstar_jax.sampling.weights import rollout_config
from bstar_jax.tokenizer import Tokenizer

_COLUMNS = (
    "query_id", "sample_index", "temperature", "top_k", "prompt", "response", "num_tokens",
    "finish_reason", "logprob",
)  # fmt: skip


def generate(
    model: Run | str | os.PathLike,
    prompts: Sequence[str | Query],
    *,
    responses: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 0,
    iteration: int | None = None,
    seed: int = 0,
) -> pa.Table:
    """Samples responses to prompts.

    Example:
        with open_run("runs/first", config) as run:
            rows = generate(run, ["Eve has 8 . finds 4 . How many now?"], responses=4)
        rows["response"].to_pylist()

    Args:
      model: An open run, or a published checkpoint: its directory or hub name.
      prompts: Texts that the model continues, or queries of a task.
      responses: Responses to each prompt.
      temperature: Divides the logits; 0 is greedy.
      top_k: How many of the likeliest tokens may be drawn; 0 is all.
      max_tokens: Longest response, end-of-text included; 0 is the run's generate.max_tokens, and
        256 for a checkpoint.
      iteration: The iteration of the run whose parameters answer; None is the newest.
      seed: Seed of every draw. The same call draws the same responses.

    Returns:
      A row for each response, prompts in their order, with `prompt`, `response`, `num_tokens`,
      `finish_reason`, `logprob` and more: those of the columns of a run's rollouts that sampling
      knows.

    Raises:
      UserError: If a prompt is empty, or there is no such checkpoint.
    """
    asked = [
        prompt
        if isinstance(prompt, Query) and prompt.query_id
        else dataclasses.replace(_query(prompt), query_id=str(place))
        for place, prompt in enumerate(prompts)
    ]
    opened = _of_run(model, iteration) if isinstance(model, Run) else _of_checkpoint(model)
    config, params, tokenizer, settings, mesh = opened
    longest = max((len(tokenizer.encode_prompt(query.prompt)) for query in asked), default=1)
    rollouts = sampling.generate(
        config,
        params,
        asked,
        choice=Choice(temperature, top_k, 0.0, 0.0),
        keys=sampling.Keys(seed, 0, "generate"),
        max_tokens=max_tokens or settings.max_tokens,
        tokenizer=tokenizer,
        responses=responses,
        settings=dataclasses.replace(settings, max_prompt_tokens=max(longest, 1)),
        mesh=mesh,
    )
    return rollouts.table.select(_COLUMNS)


def _query(prompt: str | Query) -> Query:
    return prompt if isinstance(prompt, Query) else Query(prompt=prompt)


def _of_run(
    run: Run, iteration: int | None
) -> tuple[ModelConfig, dict, Tokenizer, GenerateConfig, Mesh | None]:
    policy, settings = run.policy, run.config.generate
    checkpoints = policy.checkpoints
    number = checkpoints.latest() if iteration is None else iteration
    weights = policy.rollout_weights(checkpoints.restore_params(number))
    config = rollout_config(policy.merged_model, settings.weights)
    return config, weights, policy.tokenizer, settings, policy.mesh


def _of_checkpoint(
    path: str | os.PathLike,
) -> tuple[ModelConfig, dict, Tokenizer, GenerateConfig, Mesh | None]:
    folder = hub.locate(path)
    config, params = hub.import_checkpoint(folder)
    return config, params, tokenizers.load(folder), GenerateConfig(max_tokens=256), None
