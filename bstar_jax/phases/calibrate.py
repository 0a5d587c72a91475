"""Phase 1: sample the grid on calibration queries, score every cell, choose."""

from __future__ import annotations

import json

import jax
import numpy as np

from bstar_jax import balance
from bstar_jax.balance import Choice, Grid, Surface
from bstar_jax.phases import pools
from bstar_jax.phases.run import Run
from bstar_jax.phases.sampled import discard_units, sample
from bstar_jax.records import Rollouts
from bstar_jax.records.files import write_json
from bstar_jax.sampling import Draw, Keys

_BOOTSTRAP = 2**31  # folded into the seed's key beside the phases, which are small


def calibrate(run: Run, iteration: int, params: dict) -> Choice:
    """The cell to sample and select with.

    Leaves `calibrate.parquet` (rewards and selection at the chosen cell) and `balance.json`.
    A grid of one cell is its own choice, and nothing is sampled.

    Args:
      run: The run.
      iteration: From 1.
      params: The parameters that will sample, on the sampling map.
    """
    grid = grid_of(run)
    if run.config.calibrate.is_single_cell:
        choice = grid.choice((0, 0, 0, 0))
        _log(run, iteration, choice, {}, 0.0)
        return choice
    file = run.path(iteration, "balance.json")
    rows = run.path(iteration, "calibrate.parquet")
    if not run.exists(file):
        has_rows = run.exists(rows)
        rollouts = Rollouts.read(rows) if has_rows else _sample_grid(run, iteration, params)
        surface = score(run, iteration, rollouts)
        if not has_rows:
            run.once(lambda: _at_choice(run, rollouts, surface).write(rows))
        run.once(lambda: write_json(file, surface.to_json()))
    discard_units(run, iteration, "calibrate")
    stored = json.loads(file.read_text())["chosen"]
    choice = Choice(
        stored["temperature"], stored["top_k"], stored["threshold"], stored["process_weight"]
    )
    seconds = Rollouts.read(rows).seconds
    _log(run, iteration, choice, stored, sum(seconds.values()))
    return choice


def grid_of(run: Run) -> Grid:
    """The cells of the run's config."""
    section = run.config.calibrate
    return Grid(section.temperatures, section.top_ks, section.thresholds, section.process_weights)


def score(run: Run, iteration: int, rollouts: Rollouts) -> Surface:
    """The balance score of every cell, from graded calibration rows."""
    section, rules = run.config.calibrate, run.config.balance
    shape = pools.grid_shape(len(section.temperatures), len(section.top_ks), section.responses)
    key = jax.random.fold_in(jax.random.key(run.config.seed), _BOOTSTRAP)
    return balance.balance_surface(
        grid_of(run),
        pools.pool(run.task, rollouts, shape, distinct=rules.distinct),
        jax.random.fold_in(key, iteration),
        target_correct=rules.target_correct,
        cap=rules.cap,
        rules=rules.rules,
        num_resamples=rules.bootstrap,
    )


def _sample_grid(run: Run, iteration: int, params: dict) -> Rollouts:
    section = run.config.calibrate
    draws = [
        Draw(temperature, top_k, section.responses)
        for temperature in section.temperatures
        for top_k in section.top_ks
    ]
    queries = run.task.splits["calibration"]
    return sample(run, params, queries, draws, Keys(run.config.seed, iteration, "calibrate"))


def _at_choice(run: Run, rollouts: Rollouts, surface: Surface) -> Rollouts:
    """Rewards of all rows at the chosen weight; selected are rows of the chosen cell alone."""
    choice, rules = surface.choice, run.config.balance
    in_cell = (rollouts.array("temperature") == np.float32(choice.temperature)) & (
        rollouts.array("top_k") == choice.top_k
    )
    cell = rollouts.filter(in_cell)
    selected_QN = balance.select(
        pools.pool(run.task, cell, pools.query_shape(cell), distinct=rules.distinct),
        threshold=choice.threshold,
        process_weight=choice.process_weight,
        cap=rules.cap,
        rules=rules.rules,
    )
    selected = np.zeros(len(rollouts), bool)
    selected[in_cell] = pools.flatten(cell, selected_QN)
    reward = pools.rewards(rollouts, choice.process_weight)
    return rollouts.with_columns(reward=reward, selected=selected)


def _log(run, iteration, choice: Choice, stored: dict, seconds) -> None:
    run.log_once(
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
    )
