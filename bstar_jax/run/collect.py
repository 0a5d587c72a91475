"""Collecting: sampling and grading that survive interruption.

Responses are sampled in units. Each unit is graded while the devices sample the next one, and
stored with its grades. Several processes sample every unit together: each answers its own queries,
grades the answers on its own cores and stores them as its part of the unit. Stored parts are used
whichever process wrote them, so a run may continue within a phase with a different number of
processes and on a different mesh.
"""

from __future__ import annotations

import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bstar_jax.records import Query, Rollouts, as_column
from bstar_jax.run.grading_errors import ErrorLimit, graded_again, is_broken
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import Draw, Keys, Sampler, Unit

Reward = Callable[[Rollouts, Mapping[str, Query]], Rollouts]
"""Fills answer, correct, reason, step_rewards and process_reward of rows; takes queries by id."""


class Collector:
    """Samples and grades responses under one set of weights.

    Example:
        with run.collecting(params) as collect:
            rollouts = collect(queries, [Draw(0.9, 0, 8)], Keys(seed, iteration, "generate"))
    """

    def __init__(
        self,
        workspace: Workspace,
        sampler: Sampler,
        params: dict,
        reward: Reward,
        *,
        most_errors: float = 1.0,
    ):
        """Keeps the weights on the devices until `close`.

        Args:
          workspace: Where units are stored and progress is shown.
          sampler: Draws the responses.
          params: The weights, sharded for sampling.
          reward: Grades the responses and scores their steps.
          most_errors: The share of a phase's responses whose grading may break.
        """
        self._workspace, self._sampler = workspace, sampler
        self._most_errors = most_errors
        self._params: dict | None = params
        self._reward: Reward | None = reward

    def __call__(
        self,
        queries: Sequence[Query],
        draws: Sequence[Draw],
        keys: Keys,
        *,
        name: str = "",
        hint: Callable[[Query], str] | None = None,
        store: bool = True,
    ) -> Rollouts:
        """Samples and grades responses. Stored units are read and not sampled again.

        Units are stored under `partial/`. `finish` deletes them when the phase's own file is
        written.

        Args:
          queries: The queries to answer.
          draws: How the responses to each query are drawn.
          keys: Seed, iteration and phase.
          name: The name of the units' files and of the progress bar; the phase by default.
          hint: Writes a prompt that gives the answer of a query away (rationalization). The rows
            have the queries' own prompts, so training never sees the hint.
          store: False keeps the responses only in memory, and ignores requests to stop.

        Returns:
          Graded rows of all processes, sorted by (query, temperature, top_k, sample_index).

        Raises:
          Preempted: If a stop was requested; all units sampled so far are stored.
          UserError: If grading breaks too often.
          RuntimeError: If the collector was closed.
        """
        if self._params is None or self._reward is None:
            raise RuntimeError("the collector is closed: its weights may have been donated")
        name = name or keys.phase
        unit_store = _StoredUnits if store else _UnitsInMemory
        units = unit_store(self._workspace, keys.iteration, name)
        asked = [each.with_prompt(hint(each)) for each in queries] if hint else queries
        plan = self._sampler.plan(asked, draws)
        missing = [unit for unit in plan if not units.has(unit)]
        done = sum(len(unit.queries) for unit in plan if unit not in missing)
        by_id = {query.query_id: query for query in queries}
        if store and "reward" in self._workspace.given.accepted:
            units.grade_again(self._reward, by_id)
        limit = ErrorLimit(self._most_errors, len(queries) * sum(draw.responses for draw in draws))
        with self._workspace.console.progress(
            name, keys.iteration, len(queries), "queries", rate="tokens", completed=done
        ) as progress:
            for unit, rollouts in self._sampler.run(self._params, missing, draws, keys):
                started = time.perf_counter()
                rollouts = units.without_known(rollouts)
                if hint:
                    own = [by_id[query_id] for query_id in rollouts.column("query_id")]
                    rollouts = rollouts.with_columns(
                        prompt=[query.prompt for query in own],
                        messages=as_column([query.messages for query in own]),
                    )
                rollouts = rollouts.with_columns(rationalized=[bool(hint)] * len(rollouts))
                rollouts = self._reward(rollouts, by_id)
                units.add(unit, rollouts.with_seconds(grade=time.perf_counter() - started))
                limit.add(rollouts)
                responses = len(unit.queries) * sum(draw.responses for draw in draws)
                # A process counts its own tokens and assumes that the others draw as many.
                tokens = rollouts.array("num_tokens").mean() * responses if len(rollouts) else 0
                progress.advance(len(unit.queries), responses=responses, tokens=round(tokens))
                if store:
                    self._workspace.stop.check()
        return units.collected(by_id)

    def close(self) -> None:
        """Frees the weights, and what the reward holds on the devices."""
        self._params = self._reward = None


class _Units(Protocol):
    """The units of a phase that are sampled already."""

    def has(self, unit: Unit) -> bool:
        """Says whether all responses of the unit are known."""
        ...

    def without_known(self, rollouts: Rollouts) -> Rollouts:
        """Returns the rows of queries whose responses are not known yet."""
        ...

    def add(self, unit: Unit, rollouts: Rollouts) -> None:
        """Adds this process's part of a unit."""
        ...

    def grade_again(self, reward: Reward, queries: Mapping[str, Query]) -> None:
        """Grades the rows again whose grading broke."""
        ...

    def collected(self, queries: Mapping[str, Query]) -> Rollouts:
        """Returns the rows of all processes, in the order of the queries."""
        ...


class _UnitsInMemory:
    """Units that are kept only in memory, such as those of an evaluation."""

    def __init__(self, workspace: Workspace, iteration: int, name: str):
        self._team, self._parts = workspace.team, []

    def has(self, unit: Unit) -> bool:
        return False

    def without_known(self, rollouts: Rollouts) -> Rollouts:
        return rollouts

    def add(self, unit: Unit, rollouts: Rollouts) -> None:
        self._parts.append(rollouts)

    def grade_again(self, reward: Reward, queries: Mapping[str, Query]) -> None:
        pass  # nothing is known from before

    def collected(self, queries: Mapping[str, Query]) -> Rollouts:
        parts = self._team.gather(Rollouts.concatenate(self._parts).to_bytes())
        rollouts = Rollouts.concatenate([Rollouts.from_bytes(part) for part in parts])
        return rollouts.sorted(list(queries))


class _StoredUnits:
    """Units on disk: a file for each part of each unit."""

    def __init__(self, workspace: Workspace, iteration: int, name: str):
        self._team, self._name = workspace.team, name
        self._folder = workspace.path(iteration, "partial")
        # The first process lists for all, because on another host a listing may be out of date.
        self._files = self._team.agree(self._listing() if self._team.is_first else None)
        parts = [Rollouts.read(self._folder / file) for file in self._files]
        self._ids = {query_id for part in parts for query_id in part.column("query_id")}

    def has(self, unit: Unit) -> bool:
        return all(query.query_id in self._ids for query in unit.queries)

    def without_known(self, rollouts: Rollouts) -> Rollouts:
        # On a different mesh a unit has different queries, some of which may be stored already.
        return rollouts.filter([each not in self._ids for each in rollouts.column("query_id")])

    def add(self, unit: Unit, rollouts: Rollouts) -> None:
        if len(rollouts) == 0:
            return
        part = self._team.index
        while (file := f"{self._name}-{unit.size}-{unit.index:05d}-{part}.parquet") in self._files:
            part += self._team.count
        rollouts.write(self._folder / file)
        self._files.append(file)

    def grade_again(self, reward: Reward, queries: Mapping[str, Query]) -> None:
        mine = self._files[self._team.index :: self._team.count]
        parts = {file: Rollouts.read(self._folder / file) for file in mine}
        parts = {file: part for file, part in parts.items() if is_broken(part).any()}
        if not any(self._team.gather_json(bool(parts))):
            return
        # Every process calls the reward once, for which it may need the others.
        every = Rollouts.concatenate(list(parts.values()))
        again = graded_again(every, lambda rows: reward(rows, queries))
        start = 0
        for file, part in parts.items():
            rows = again.table.slice(start, len(part))
            Rollouts(rows, part.seconds).write(self._folder / file)
            start += len(part)
        self._team.barrier()

    def collected(self, queries: Mapping[str, Query]) -> Rollouts:
        known = self._team.gather_json(self._files)
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
        pattern = re.compile(rf"{re.escape(self._name)}-\d+-\d+-\d+\.parquet")
        return sorted(file.name for file in self._folder.glob("*") if pattern.fullmatch(file.name))


def _seconds(parts: dict[str, Rollouts]) -> dict[str, float]:
    """Returns the wall time of each phase; of a unit's parts, made at once, the longest counts."""
    units: dict[tuple[str, str], float] = {}
    for file, part in parts.items():
        unit = file.rpartition("-")[0]
        for phase, value in part.seconds.items():
            units[unit, phase] = max(units.get((unit, phase), 0.0), value)
    total: dict[str, float] = {}
    for (_, phase), value in units.items():
        total[phase] = total.get(phase, 0.0) + value
    return total


def finish(workspace: Workspace, iteration: int, name: str, rollouts: Rollouts, *phases: str):
    """Writes the file of a phase, then deletes the units that it was made from.

    Args:
      workspace: The workspace.
      iteration: The iteration.
      name: The name of the file, such as "generate.parquet".
      rollouts: The rows of the file.
      *phases: The names of the units.
    """
    workspace.once(lambda: rollouts.write(workspace.path(iteration, name)))
    discard_units(workspace, iteration, *phases)


def discard_units(workspace: Workspace, iteration: int, *phases: str) -> None:
    """Deletes the units of phases whose file is written. Units of other phases stay."""
    workspace.once(lambda: _discard(workspace.path(iteration, "partial"), phases))


def _discard(folder: pathlib.Path, phases: Sequence[str]) -> None:
    for phase in phases:
        for file in folder.glob(f"{phase}-*"):
            file.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
