"""Phase 6: measure the policy on held-out queries, which it has not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bstar_jax.config import Config
from bstar_jax.phases import arrays
from bstar_jax.phases.groups import by_source, in_row
from bstar_jax.records import Query, Rollouts
from bstar_jax.run.collect import Collector, discard_units, finish
from bstar_jax.run.grading_errors import is_broken
from bstar_jax.run.policy import Policy
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import Draw, Keys
from bstar_jax.tasks import LoadedTask


def monitor(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    policy: Policy,
    collect: Collector,
    iteration: int,
) -> dict[str, Any]:
    """Answers the held-out queries and logs the figures. The iteration is then complete.

    Writes `monitor.parquet`. The metrics row is written when the checkpoint of the iteration is on
    disk, so the row says that everything of the iteration is stored.

    Args:
      config: The settings.
      task: The held-out queries.
      workspace: The run directory.
      policy: Has the checkpoints. The function waits for them and deletes old ones.
      collect: Samples and grades under the weights after this iteration.
      iteration: The iteration; 0 is after warm-up.

    Returns:
      The figures, by their names in metrics.jsonl.
    """
    file = workspace.path(iteration, "monitor.parquet")
    if workspace.exists(file):
        rollouts = Rollouts.read(file)
        discard_units(workspace, iteration, "monitor")
    else:
        keys = Keys(config.seed, iteration, "monitor")
        rollouts = with_rewards(config, collect(task.splits["heldout"], draws(config), keys))
        finish(workspace, iteration, "monitor.parquet", rollouts, "monitor")
    figures = figures_of_rows(config, task, rollouts)
    policy.checkpoints.wait()
    seconds = sum(rollouts.seconds.values())
    workspace.log(iteration, "monitor", seconds, split="heldout", **figures)
    policy.checkpoints.prune()
    return figures


def evaluate(
    config: Config, task: LoadedTask, collect: Collector, iteration: int, queries: Sequence[Query]
) -> dict[str, Any]:
    """Computes the figures of any queries, and stores nothing.

    The draws are those of the run's own monitor phase. The held-out queries of an iteration
    therefore give the figures that the run logged, to the last digit.

    Args:
      config: The settings.
      task: The task of the queries.
      collect: Samples and grades under the weights to evaluate.
      iteration: The iteration whose draws are repeated.
      queries: The queries to answer.

    Returns:
      The figures, by their names in metrics.jsonl.
    """
    keys = Keys(config.seed, iteration, "monitor")
    rollouts = collect(queries, draws(config), keys, name="evaluate", store=False)
    return figures_of_rows(config, task, with_rewards(config, rollouts))


def draws(config: Config) -> list[Draw]:
    """Describes how each query is answered: one greedy response, and the samples."""
    settings = config.monitor
    return [Draw(0.0, 0, 1), Draw(settings.temperature, 0, settings.responses)]


def with_rewards(config: Config, rollouts: Rollouts) -> Rollouts:
    """Returns the rows with their reward at `monitor.process_weight`."""
    reward = arrays.rewards(rollouts, config.monitor.process_weight)
    return rollouts.with_columns(reward=reward)


def figures_of_rows(config: Config, task: LoadedTask, rollouts: Rollouts) -> dict[str, Any]:
    """Computes the figures of rows with rewards, by their names in metrics.jsonl."""
    settings = config.monitor

    def figures(rows: Rollouts) -> dict[str, Any]:
        found = arrays.monitor_figures(task, rows, ks=settings.ks, s=settings.s)
        return {**found, "errors": int(is_broken(rows).sum())}

    return figures(rollouts) | in_row(by_source(task, rollouts, figures))
