"""Phase 6: how good is it now, on queries that nothing was learnt from."""

from __future__ import annotations

from collections.abc import Sequence

from bstar_jax.phases import pools
from bstar_jax.phases.run import Run
from bstar_jax.phases.sampled import discard_units, finish, sample
from bstar_jax.records import Query, Rollouts
from bstar_jax.sampling import Draw, Keys


def monitor(run: Run, iteration: int, params: dict) -> dict:
    """Samples the held-out queries and logs the figures; the iteration is then over.

    Leaves `monitor.parquet`. The metrics row is written once the checkpoint of the iteration
    is on disk, so that the row stands for all of it.

    Args:
      run: The run.
      iteration: 0 is after warm-up.
      params: The parameters, on the sampling map.

    Returns:
      The figures by name.
    """
    file = run.path(iteration, "monitor.parquet")
    if run.exists(file):
        rollouts = Rollouts.read(file)
        discard_units(run, iteration, "monitor")
    else:
        queries = run.task.splits["heldout"]
        rollouts = sample(
            run,
            params,
            queries,
            draws_of(run),
            Keys(run.config.seed, iteration, "monitor"),
        )
        rollouts = rewarded(run, rollouts)
        finish(run, iteration, "monitor.parquet", rollouts, "monitor")
    figures = figures_of(run, rollouts)
    run.checkpoints.wait()
    run.log_once(iteration, "monitor", sum(rollouts.seconds.values()), split="heldout", **figures)
    run.checkpoints.prune()
    return figures


def draws_of(run: Run) -> list[Draw]:
    """The greedy response and the samples of each query."""
    settings = run.config.monitor
    return [Draw(0.0, 0, 1), Draw(settings.temperature, 0, settings.responses)]


def rewarded(run: Run, rollouts: Rollouts) -> Rollouts:
    """The rows with their reward at the monitor's own process weight."""
    reward = pools.rewards(rollouts, run.config.monitor.process_weight)
    return rollouts.with_columns(reward=reward)


def figures_of(run: Run, rollouts: Rollouts) -> dict:
    """The figures of rewarded rows, by the names of metrics.jsonl."""
    settings = run.config.monitor
    return pools.monitor_figures(run.task, rollouts, ks=settings.ks, s=settings.s)


def evaluate(run: Run, iteration: int, params: dict, queries: Sequence[Query]) -> dict:
    """The figures of any queries under any parameters; nothing is stored.

    The draws are those of the run's own monitor phase, so the held-out split of an iteration
    gives the figures that the run wrote, to the last digit.
    """
    draws = draws_of(run)
    units = run.sampler.plan(queries, draws)
    keys = Keys(run.config.seed, iteration, "monitor")
    own = []
    with run.console.progress("evaluate", iteration, len(queries), "queries", rate="tokens") as bar:
        for unit, rollouts in run.sampler.run(params, units, draws, keys):
            rollouts = run.grader.grade_rollouts(rollouts, run.task.query_by_id)
            own.append(run.process_model.grade(rollouts) if run.process_model else rollouts)
            bar.advance(len(unit.queries), tokens=int(rollouts.array("num_tokens").sum()))
    parts = run.team.gather(Rollouts.concatenate(own).to_bytes())
    rollouts = Rollouts.concatenate([Rollouts.from_bytes(part) for part in parts])
    rollouts = rollouts.sorted([query.query_id for query in queries])
    return figures_of(run, rewarded(run, rollouts))
