"""Phases 3 and 4: summarize the grades, and select the responses that training uses."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import numpy as np

from bstar_jax import balance
from bstar_jax.balance import Choice
from bstar_jax.config import Config, UserError
from bstar_jax.phases import arrays
from bstar_jax.phases.groups import by_source, in_row
from bstar_jax.records import Rollouts
from bstar_jax.run.collect import discard_units, finish
from bstar_jax.run.grading_errors import is_broken
from bstar_jax.run.workspace import Workspace
from bstar_jax.tasks import LoadedTask


def grade(task: LoadedTask, workspace: Workspace, iteration: int, rollouts: Rollouts) -> Rollouts:
    """Phase 3: logs a summary of the grades. `generate` graded and stored the responses.

    Args:
      task: The task of the rows.
      workspace: The run directory.
      iteration: The iteration, from 1.
      rollouts: Graded rows.

    Returns:
      The same rows.
    """
    figures = _grade_figures(rollouts) | in_row(by_source(task, rollouts, _grade_figures))
    workspace.log(iteration, "grade", rollouts.seconds["grade"], **figures)
    return rollouts


def _grade_figures(rollouts: Rollouts) -> dict[str, Any]:
    process = [value for value in rollouts.column("process_reward") if value is not None]
    return {
        "answer_accuracy": float(np.mean(rollouts.column("correct"))),
        "process_reward_mean": float(np.mean(process)) if process else None,
        "errors": int(is_broken(rollouts).sum()),
    }


class Selection(NamedTuple):
    """The selected responses, and the filter that selected them.

    Attributes:
      rollouts: All rows, with `reward` and `selected`.
      threshold: Responses with a reward above it may be selected.
      cap: The most responses selected for a query; 0 is no limit.
      figures: The figures of the phase in metrics.jsonl.
    """

    rollouts: Rollouts
    threshold: float
    cap: int
    figures: dict[str, Any]


def select(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    iteration: int,
    rollouts: Rollouts,
    choice: Choice,
) -> Rollouts:
    """Phase 4: rewards every response and selects those that training uses.

    Writes `generate.parquet`.

    Args:
      config: The rules of the balance score.
      task: The task of the rows.
      workspace: The run directory.
      iteration: The iteration, from 1.
      rollouts: Graded rows of the train queries.
      choice: The chosen cell; its threshold and process weight are used.

    Returns:
      The selected rows.

    Raises:
      UserError: If nothing is selected.
    """
    started = time.perf_counter()
    selection = choose_rows(config, task, rollouts, choice)
    if workspace.exists(workspace.path(iteration, "generate.parquet")):
        discard_units(workspace, iteration, "generate", "rationalize")
    else:
        name, marked = "generate.parquet", selection.rollouts
        finish(workspace, iteration, name, marked, "generate", "rationalize")
    workspace.log(
        iteration,
        "select",
        time.perf_counter() - started,
        threshold=selection.threshold,
        cap=selection.cap,
        **selection.figures,
    )
    if not selection.figures["selected"]:
        raise UserError(
            f"iteration {iteration} selected none of {len(rollouts)} responses: no finished, "
            f"readable one has a reward above the threshold {selection.threshold}; lower "
            "calibrate.thresholds, or warm up longer (sft.steps)"
        )
    return selection.rollouts.filter(selection.rollouts.column("selected"))


def choose_rows(config: Config, task: LoadedTask, rollouts: Rollouts, choice: Choice) -> Selection:
    """Selects responses with the function that scored the grid. It reads and writes no file.

    Some rules (see `balance.RULES`) choose the threshold and the cap again on these rows.

    Args:
      config: The rules of the balance score.
      task: The task of the rows.
      rollouts: Graded rows.
      choice: The chosen cell; its threshold and process weight are used.
    """
    settings = config.balance
    graded = arrays.graded_responses(task, rollouts, arrays.query_shape(rollouts), settings)
    threshold, cap = choice.threshold, settings.cap
    if balance.RULES[settings.rules].chooses_filter_again:
        threshold, cap = balance.choose_filter(
            graded,
            config.calibrate.thresholds,
            process_weight=choice.process_weight,
            target_correct=settings.target_correct,
            target_total=settings.target_total,
            rules=settings.rules,
        )
    selected_QN = np.asarray(
        balance.select(
            graded,
            threshold=threshold,
            process_weight=choice.process_weight,
            cap=cap,
            rules=settings.rules,
        )
    )
    rollouts = rollouts.with_columns(
        reward=arrays.rewards(rollouts, choice.process_weight),
        selected=arrays.to_rows(rollouts, selected_QN),
    )
    figures = functools.partial(selection_figures, config)
    figures = figures(rollouts) | in_row(by_source(task, rollouts, figures))
    return Selection(rollouts, threshold, cap, figures)


def selection_figures(config: Config, rows: Rollouts) -> dict[str, Any]:
    """Computes the figures of rows with `selected`.

    Args:
      config: The rules of the balance score.
      rows: Graded rows of one cell.
    """
    shape = arrays.query_shape(rows)
    is_correct_QN = shape(np.array(rows.column("correct"), bool), False)
    selected_QN = shape(np.array(rows.column("selected"), bool), False)
    total = int(selected_QN.sum())
    distinct = len(set(zip(*map(rows.column, ("query_id", "response")), strict=True)))
    return {
        "selected": total,
        "queries_covered": int(selected_QN.any(axis=1).sum()),
        "correct_fraction": float((selected_QN & is_correct_QN).sum() / total) if total else None,
        "unique_per_query": distinct / len(selected_QN),
        "balance_score": balance.objective(
            is_correct_QN,
            selected_QN,
            target_correct=config.balance.target_correct,
            rules=config.balance.rules,
        ),
    }
