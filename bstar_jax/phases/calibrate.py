"""Phase 1: sample calibration queries over the grid, score every cell, choose one."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np

from bstar_jax import balance
from bstar_jax.balance import Choice, Grid, Surface
from bstar_jax.config import Config
from bstar_jax.phases import arrays
from bstar_jax.phases.groups import by_source, in_row
from bstar_jax.phases.select import selection_figures
from bstar_jax.records import Rollouts
from bstar_jax.records.files import write_json
from bstar_jax.run.collect import Collector, discard_units
from bstar_jax.run.grading_errors import is_broken
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import Draw, Keys
from bstar_jax.tasks import LoadedTask

_BOOTSTRAP = 2**31  # folded into the seed's key, as the numbers of phases are, which are small


def calibrate(
    config: Config, task: LoadedTask, workspace: Workspace, collect: Collector, iteration: int
) -> Choice:
    """Chooses the cell to sample and select with.

    Writes `calibrate.parquet` (with rewards and selection at the chosen cell) and `balance.json`.
    If the grid has one cell, that is the choice: nothing is sampled and no file is written.

    Args:
      config: The grid, the rules of the balance score, and the seed.
      task: The calibration queries.
      workspace: The run directory.
      collect: Samples and grades under the weights before this iteration's training.
      iteration: The iteration, from 1.

    Returns:
      The chosen cell.
    """
    grid = grid_of_config(config)
    if config.calibrate.is_single_cell:
        choice = grid.choice((0, 0, 0, 0))
        _log(workspace, iteration, choice, {}, 0.0)
        return choice
    file = workspace.path(iteration, "balance.json")
    rows = workspace.path(iteration, "calibrate.parquet")
    if not workspace.exists(file):
        has_rows = workspace.exists(rows)
        if has_rows:
            rollouts = Rollouts.read(rows)
        else:
            rollouts = _sample_grid(config, task, collect, iteration)
        surface = score(config, task, iteration, rollouts)
        marked = _mark_selected(config, task, rollouts, surface)
        if not has_rows:
            workspace.once(lambda: marked.write(rows))
        content = surface.to_json() | _score_by_source(config, task, marked, surface.choice)
        workspace.once(lambda: write_json(file, content))
    discard_units(workspace, iteration, "calibrate")
    content = json.loads(file.read_text())
    stored = content["chosen"]
    choice = Choice(
        stored["temperature"], stored["top_k"], stored["threshold"], stored["process_weight"]
    )
    rollouts = Rollouts.read(rows)
    stored["by_source"] = {
        name: {"balance_score": found} for name, found in content.get("by_source", {}).items()
    }
    stored["errors"] = int(is_broken(rollouts).sum())
    _log(workspace, iteration, choice, stored, sum(rollouts.seconds.values()))
    return choice


def grid_of_config(config: Config) -> Grid:
    """Returns the grid of a config."""
    section = config.calibrate
    return Grid(section.temperatures, section.top_ks, section.thresholds, section.process_weights)


def score(config: Config, task: LoadedTask, iteration: int, rollouts: Rollouts) -> Surface:
    """Scores every cell of the grid on graded calibration rows.

    Args:
      config: The grid, the rules of the balance score, and the seed of the bootstrap.
      task: The task of the rows.
      iteration: The iteration, from 1. Each has its own bootstrap draws.
      rollouts: The rows, sorted by (query, temperature, top_k, sample_index).
    """
    section, settings = config.calibrate, config.balance
    shape = arrays.grid_shape(len(section.temperatures), len(section.top_ks), section.responses)
    key = jax.random.fold_in(jax.random.key(config.seed), _BOOTSTRAP)
    return balance.balance_surface(
        grid_of_config(config),
        arrays.graded_responses(task, rollouts, shape, settings),
        jax.random.fold_in(key, iteration),
        target_correct=settings.target_correct,
        cap=settings.cap,
        rules=settings.rules,
        num_resamples=settings.bootstrap,
    )


def _sample_grid(config: Config, task: LoadedTask, collect: Collector, iteration: int) -> Rollouts:
    section = config.calibrate
    draws = [
        Draw(temperature, top_k, section.responses)
        for temperature in section.temperatures
        for top_k in section.top_ks
    ]
    keys = Keys(config.seed, iteration, "calibrate")
    return collect(task.splits["calibration"], draws, keys)


def _mark_selected(
    config: Config, task: LoadedTask, rollouts: Rollouts, surface: Surface
) -> Rollouts:
    """Rewards all rows at the chosen process weight, and selects among rows of the chosen cell."""
    choice, settings = surface.choice, config.balance
    in_cell = _in_cell(rollouts, choice)
    cell = rollouts.filter(in_cell)
    shape = arrays.query_shape(cell)
    selected_QN = balance.select(
        arrays.graded_responses(task, cell, shape, settings),
        threshold=choice.threshold,
        process_weight=choice.process_weight,
        cap=settings.cap,
        rules=settings.rules,
    )
    selected = np.zeros(len(rollouts), bool)
    selected[in_cell] = arrays.to_rows(cell, np.asarray(selected_QN))
    reward = arrays.rewards(rollouts, choice.process_weight)
    return rollouts.with_columns(reward=reward, selected=selected)


def _in_cell(rollouts: Rollouts, choice: Choice) -> np.ndarray:
    return (rollouts.array("temperature") == np.float32(choice.temperature)) & (
        rollouts.array("top_k") == choice.top_k
    )


def _score_by_source(
    config: Config, task: LoadedTask, marked: Rollouts, choice: Choice
) -> dict[str, dict]:
    """Returns the balance score of each source at the chosen cell; {} if there is one source."""
    cell = marked.filter(_in_cell(marked, choice))
    figures = by_source(task, cell, functools.partial(selection_figures, config))
    scores = {name: found["balance_score"] for name, found in figures.items()}
    return {"by_source": scores} if scores else {}


def _log(
    workspace: Workspace, iteration: int, choice: Choice, stored: dict, seconds: float
) -> None:
    workspace.log(
        iteration,
        "calibrate",
        seconds,
        temperature=choice.temperature,
        top_k=choice.top_k,
        threshold=choice.threshold,
        process_weight=choice.process_weight,
        balance_score=stored.get("balance_score"),
        balance_low=stored.get("balance_low"),
        balance_high=stored.get("balance_high"),
        errors=stored.get("errors", 0),
        **in_row(stored.get("by_source", {})),
    )
