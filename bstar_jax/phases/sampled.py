"""Sampling that survives interruption: units stored whole, graded, joined at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bstar_jax.phases.run import Run
from bstar_jax.records import Query, Rollouts
from bstar_jax.sampling import Draw, Keys


def sample(
    run: Run,
    params: dict,
    queries: Sequence[Query],
    draws: Sequence[Draw],
    keys: Keys,
    *,
    name: str = "",
    rationalized: bool = False,
    scored: bool = True,
) -> Rollouts:
    """Samples and grades responses; what an earlier process stored is read, not drawn again.

    Each unit is graded while the device samples the next, and stored with its grades under
    `partial/`; the caller removes them once the phase's own file stands.

    Args:
      run: The run.
      params: The parameters, on the sampling map.
      queries: What to answer.
      draws: How each query's responses are drawn.
      keys: Where in the run this is.
      name: What the units' files are called; by default the phase.
      rationalized: Whether the prompts hold the answer as a hint. The rows then carry the
        queries' own prompts: training never sees the hint.
      scored: Whether the process model, where the run has one, scores the solution steps.

    Returns:
      Graded rows sorted by (query, temperature, top_k, sample_index).
    """
    folder = run.path(keys.iteration, "partial")
    units = run.sampler.plan(queries, draws)
    by_id = {query.query_id: query for query in queries}
    # The size stands in the name: on another mesh the work may be cut in another way.
    files = {
        unit.index: folder / f"{name or keys.phase}-{unit.size}-{unit.index:05d}.parquet"
        for unit in units
    }
    missing = [unit for unit in units if not files[unit.index].exists()]
    stored = sum(len(unit.queries) for unit in units if unit not in missing)
    with run.console.progress(
        name or keys.phase, keys.iteration, len(queries), "queries", rate="tokens", completed=stored
    ) as progress:
        for unit, rollouts in run.sampler.run(params, missing, draws, keys):
            started = time.perf_counter()
            if rationalized:
                rollouts = _without_hint(run, rollouts)
            rollouts = rollouts.with_columns(rationalized=[rationalized] * len(rollouts))
            rollouts = run.grader.grade_rollouts(rollouts, by_id)
            if scored and run.process_model:
                rollouts = run.process_model.grade(rollouts)
            rollouts = rollouts.with_seconds(grade=time.perf_counter() - started)
            rollouts.write(files[unit.index])
            progress.advance(
                len(unit.queries),
                responses=len(rollouts),
                tokens=int(rollouts.array("num_tokens").sum()),
            )
            run.stop.check()
    parts = [Rollouts.read(files[unit.index]) for unit in units]
    return Rollouts.concatenate(parts).sorted([query.query_id for query in queries])


def finish(run: Run, iteration: int, name: str, rollouts: Rollouts, *phases: str) -> None:
    """Writes a phase's file, then drops the units that it was made of."""
    rollouts.write(run.path(iteration, name))
    discard_units(run, iteration, *phases)


def discard_units(run: Run, iteration: int, *phases: str) -> None:
    """Drops the units of phases whose file stands; those of other phases stay."""
    folder = run.path(iteration, "partial")
    for phase in phases:
        for file in folder.glob(f"{phase}-*"):
            file.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def _without_hint(run: Run, rollouts: Rollouts) -> Rollouts:
    prompts = [run.task.query_by_id[query_id].prompt for query_id in rollouts.column("query_id")]
    return rollouts.with_columns(prompt=prompts)
