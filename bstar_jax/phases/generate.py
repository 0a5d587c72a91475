"""Phase 2: answer the training queries. Each response is graded while others are sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bstar_jax.balance import Choice
from bstar_jax.config import Config
from bstar_jax.phases.groups import by_source, in_row
from bstar_jax.records import Query, Rollouts
from bstar_jax.run.collect import Collector
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import Draw, Keys
from bstar_jax.tasks import LoadedTask
from bstar_jax.tasks.mixture import divide


def iteration_queries(config: Config, task: LoadedTask, iteration: int) -> list[Query]:
    """Returns the train queries of an iteration.

    They are all train queries, or, with `generate.queries`, the next block of a seeded permutation.
    A new permutation is drawn when the previous one is used up. Several sources give blocks by
    their shares, each from a permutation of its own.
    """
    train, count = task.splits["train"], config.generate.queries
    if count == 0:
        return list(train)
    if not task.shares:
        return _block(train, count, iteration, [config.seed])
    chosen = []
    for place, (name, part) in enumerate(divide(count, task.shares).items()):
        mine = [query for query in train if query.source == name]
        if part:
            chosen += _block(mine, part, iteration, [config.seed, place])
    return chosen


def _block(train: Sequence[Query], count: int, iteration: int, seed: list[int]) -> list[Query]:
    turn, block = divmod(iteration - 1, len(train) // count)
    order = np.random.default_rng([*seed, turn]).permutation(len(train))
    return [train[index] for index in order[block * count : (block + 1) * count]]


def generate(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    collect: Collector,
    iteration: int,
    choice: Choice,
) -> Rollouts:
    """Answers the train queries of an iteration at the temperature and top-k of the chosen cell.

    With `generate.rationalize`, queries without a correct response get one more response, to a
    prompt that gives the answer away (STaR, arXiv:2203.14465).

    Args:
      config: The settings.
      task: The train queries.
      workspace: The run directory.
      collect: Samples and grades under the weights before this iteration's training.
      iteration: The iteration, from 1.
      choice: The chosen cell.

    Returns:
      Graded rows, sorted by (query, sample_index). `select` writes them to disk.
    """
    file = workspace.path(iteration, "generate.parquet")
    if workspace.exists(file):
        rollouts = Rollouts.read(file)
    else:
        queries = iteration_queries(config, task, iteration)
        rollouts = _answer(config, task, collect, iteration, choice, queries)
    tokens = int(rollouts.array("num_tokens").sum())
    seconds = rollouts.seconds["sample"]
    workspace.log(
        iteration,
        "generate",
        seconds,
        responses=len(rollouts),
        tokens=tokens,
        tokens_per_second=tokens / seconds,
        **in_row(by_source(task, rollouts, _amounts)),
    )
    return rollouts


def _amounts(rollouts: Rollouts) -> dict[str, int]:
    return {"responses": len(rollouts), "tokens": int(rollouts.array("num_tokens").sum())}


def _answer(
    config: Config,
    task: LoadedTask,
    collect: Collector,
    iteration: int,
    choice: Choice,
    queries: list[Query],
) -> Rollouts:
    count = config.generate.responses
    draw = Draw(choice.temperature, choice.top_k, count)
    keys = Keys(config.seed, iteration, "generate")
    rollouts = collect(queries, [draw], keys)
    if not config.generate.rationalize:
        return rollouts
    ids, correct = rollouts.column("query_id"), rollouts.column("correct")
    solved = {query_id for query_id, is_correct in zip(ids, correct, strict=True) if is_correct}
    failed = [query for query in queries if query.query_id not in solved]
    if not failed:
        return rollouts
    keys = dataclasses.replace(keys, phase="rationalize")
    draw = dataclasses.replace(draw, responses=1, first=count)
    retries = collect(failed, [draw], keys, hint=task.hint)
    return Rollouts.concatenate([rollouts, retries]).sorted([query.query_id for query in queries])
