"""Sampling that survives interruption: units stored whole, graded, joined at the end.

Several processes sample every unit together, each its own queries, grades these on its own cores
and stores them as its part of the unit. What is stored counts whoever stored it: a run may go on
with other processes, and on another mesh, in the middle of a phase.
"""

from __future__ import annotations

import pathlib
import re
import time
from collections.abc import Sequence

from bstar_jax.phases.run import Run
from bstar_jax.records import Query, Rollouts
from bstar_jax.sampling import Draw, Keys, Unit


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
      Graded rows of all processes, sorted by (query, temperature, top_k, sample_index).
    """
    stored = _Stored(run, keys.iteration, name or keys.phase)
    units = run.sampler.plan(queries, draws)
    missing = [unit for unit in units if not stored.has(unit)]
    done = sum(len(unit.queries) for unit in units if unit not in missing)
    by_id = {query.query_id: query for query in queries}
    with run.console.progress(
        stored.name, keys.iteration, len(queries), "queries", rate="tokens", completed=done
    ) as progress:
        for unit, rollouts in run.sampler.run(params, missing, draws, keys):
            started = time.perf_counter()
            rollouts = stored.new_of(rollouts)
            if rationalized:
                rollouts = _without_hint(run, rollouts)
            rollouts = rollouts.with_columns(rationalized=[rationalized] * len(rollouts))
            rollouts = run.grader.grade_rollouts(rollouts, by_id)
            if scored and run.process_model:
                rollouts = run.process_model.grade(rollouts)
            stored.add(unit, rollouts.with_seconds(grade=time.perf_counter() - started))
            responses = len(unit.queries) * sum(draw.responses for draw in draws)
            # Of several processes each counts its own, and takes the others to be alike.
            tokens = rollouts.array("num_tokens").mean() * responses if len(rollouts) else 0
            progress.advance(len(unit.queries), responses=responses, tokens=round(tokens))
            run.stop.check()
    return stored.rows(by_id)


class _Stored:
    """The parts of a phase's units on disk.

    Attributes:
      name: What their files are called.
    """

    def __init__(self, run: Run, iteration: int, name: str):
        self.name, self._run = name, run
        self._folder = run.path(iteration, "partial")
        # The first process looks for all: a listing may be older on another host.
        self._files = run.team.agree(self._listing() if run.team.is_first else None)
        parts = [Rollouts.read(self._folder / file) for file in self._files]
        self._ids = {query_id for part in parts for query_id in part.column("query_id")}

    def has(self, unit: Unit) -> bool:
        """Whether nothing of the unit is missing."""
        return all(query.query_id in self._ids for query in unit.queries)

    def new_of(self, rollouts: Rollouts) -> Rollouts:
        """The rows of queries that are not stored yet; on another mesh units are cut otherwise."""
        return rollouts.filter([each not in self._ids for each in rollouts.column("query_id")])

    def add(self, unit: Unit, rollouts: Rollouts) -> None:
        """Stores this process's part of a unit."""
        if len(rollouts) == 0:
            return
        part = self._run.team.index
        while (file := f"{self.name}-{unit.size}-{unit.index:05d}-{part}.parquet") in self._files:
            part += self._run.team.count
        rollouts.write(self._folder / file)
        self._files.append(file)

    def rows(self, queries: dict[str, Query]) -> Rollouts:
        """All rows, once every process has stored its own.

        Args:
          queries: By id, in the order of the rows.

        Raises:
          RuntimeError: If some are missing.
        """
        known = self._run.team.gather_json(self._files)
        files = sorted({file for files in known for file in files})
        parts = [Rollouts.read(self._folder / file) for file in files]
        rollouts = Rollouts.concatenate(parts)
        rollouts = rollouts.filter([each in queries for each in rollouts.column("query_id")])
        missing = queries.keys() - set(rollouts.column("query_id"))
        if missing:
            raise RuntimeError(f"{self._folder} lacks the responses to {sorted(missing)[:3]} ...")
        seconds = _seconds(dict(zip(files, parts, strict=True)))
        return Rollouts(rollouts.sorted(list(queries)).table, seconds)

    def _listing(self) -> list[str]:
        pattern = re.compile(rf"{re.escape(self.name)}-\d+-\d+-\d+\.parquet")
        return sorted(file.name for file in self._folder.glob("*") if pattern.fullmatch(file.name))


def _seconds(parts: dict[str, Rollouts]) -> dict[str, float]:
    """Wall time by phase: of the parts of a unit, which are made at once, the longest counts."""
    units: dict[tuple[str, str], float] = {}
    for file, part in parts.items():
        unit = file.rpartition("-")[0]
        for phase, value in part.seconds.items():
            units[unit, phase] = max(units.get((unit, phase), 0.0), value)
    total: dict[str, float] = {}
    for (_, phase), value in units.items():
        total[phase] = total.get(phase, 0.0) + value
    return total


def finish(run: Run, iteration: int, name: str, rollouts: Rollouts, *phases: str) -> None:
    """Writes a phase's file, then drops the units that it was made of."""
    run.once(lambda: rollouts.write(run.path(iteration, name)))
    discard_units(run, iteration, *phases)


def discard_units(run: Run, iteration: int, *phases: str) -> None:
    """Drops the units of phases whose file stands; those of other phases stay."""
    run.once(lambda: _discard(run.path(iteration, "partial"), phases))


def _discard(folder: pathlib.Path, phases: Sequence[str]) -> None:
    for phase in phases:
        for file in folder.glob(f"{phase}-*"):
            file.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def _without_hint(run: Run, rollouts: Rollouts) -> Rollouts:
    prompts = [run.task.query_by_id[query_id].prompt for query_id in rollouts.column("query_id")]
    return rollouts.with_columns(prompt=prompts)
