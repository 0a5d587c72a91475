"""Reads a run directory for scripts and notebooks. It needs neither JAX nor the task's data."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from bstar_jax.config import Config, UserError
from bstar_jax.config.stored import read_config
from bstar_jax.run.journal import read_rows

_CELL = ("temperature", "top_k", "threshold", "process_weight")


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """What a run has written so far; each file is read when it is asked for.

    Tables are Arrow's: `.to_pylist()`, or `.to_pandas()` where pandas is installed.

    Attributes:
      directory: The run directory.
      config: The settings of the run.
    """

    directory: pathlib.Path
    config: Config

    @functools.cached_property
    def metrics(self) -> pa.Table:
        """The rows of metrics.jsonl that count, the last of each (iteration, phase, step).

        Figures that a phase has not are null.
        """
        last = {
            (row["iteration"], row["phase"], row.get("step")): row
            for row in read_rows(self.directory / "metrics.jsonl")
        }
        return _table(list(last.values()))

    @functools.cached_property
    def balance(self) -> pa.Table:
        """The balance surfaces: a row for each cell of each iteration that chose among cells.

        Columns: `iteration`, the cell (`temperature`, `top_k`, `threshold`, `process_weight`), its
        `score`, the 95 % interval [`low`, `high`], and whether it was `chosen`.
        """
        files = sorted(self.directory.glob("iterations/*/balance.json"))
        return _table([row for file in files for row in _cells(file)])

    def iterations(self, phase: str) -> list[int]:
        """Lists the iterations whose rollouts of a phase are complete.

        Args:
          phase: "calibrate", "generate", "monitor" or "prm".
        """
        files = self.directory.glob(f"iterations/*/{phase}.parquet")
        return sorted(int(file.parent.name) for file in files)

    def rollouts(self, phase: str, iteration: int = -1) -> pa.Table:
        """Reads the responses of a phase, a row for each; docs/run_directory.md has the columns.

        Example: `read_run("runs/first").rollouts("generate")` are those of the last iteration.

        Args:
          phase: "calibrate", "generate", "monitor" or "prm".
          iteration: The iteration; -1 is the last whose rollouts are complete, -2 that before it.

        Raises:
          UserError: If the run has no such rollouts, with those that it has.
        """
        found = self.iterations(phase)
        if not found:
            raise UserError(f"{self.directory} has no rollouts of {phase!r}; {self._phases()}")
        is_there = iteration in found or -len(found) <= iteration < 0
        if not is_there:
            listed = ", ".join(map(str, found))
            raise UserError(
                f"{self.directory} has no rollouts of {phase!r} of iteration {iteration}; it has "
                f"those of {listed}, and -1 is the last"
            )
        number = found[iteration] if iteration < 0 else iteration
        file = self.directory / "iterations" / f"{number:04d}" / f"{phase}.parquet"
        # Without None, names of folders become columns.
        table = pq.read_table(file, partitioning=None)  # pyright: ignore[reportArgumentType]  # the stub lacks None
        return table.replace_schema_metadata(None)

    def _phases(self) -> str:
        names = {file.stem for file in self.directory.glob("iterations/*/*.parquet")}
        return f"it has those of {', '.join(sorted(names))}" if names else "it has none yet"


def read_run(directory: str | os.PathLike) -> StoredRun:
    """Reads a run directory, also of a run that goes on.

    Example:
        done = read_run("runs/first")
        done.config.loop.iterations
        done.metrics.select(["iteration", "phase", "pass@1"])
        done.rollouts("monitor", iteration=-1).to_pandas()

    Args:
      directory: The run directory.

    Raises:
      UserError: If it holds no run, or its config cannot be read.
    """
    return StoredRun(pathlib.Path(directory), read_config(directory))


def _table(rows: Sequence[dict]) -> pa.Table:
    """Makes a table that has a column for each key of any row, in the order of their first use."""
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _cells(file: pathlib.Path) -> list[dict]:
    """Reads the cells of a balance.json, whose figures are nested lists, an axis in an axis."""
    content = json.loads(file.read_text())
    axes, chosen = list(content["axes"].values()), content["chosen"]
    rows = []
    for places in itertools.product(*(range(len(values)) for values in axes)):
        values = [axis[place] for axis, place in zip(axes, places, strict=True)]
        cell = dict(zip(_CELL, values, strict=True))
        figures = {
            name: functools.reduce(lambda nested, place: nested[place], places, content[name])
            for name in ("score", "low", "high")
        }
        is_chosen = all(chosen[name] == value for name, value in cell.items())
        iteration = int(file.parent.name)
        rows.append({"iteration": iteration, **cell, **figures, "chosen": is_chosen})
    return rows
