"""Learning of the process reward, once, after warm-up.

labels        solution steps are labelled by continuing them (labels.py)
training      a copy of the completer with a scalar head learns the labels
evaluation    calibration queries evaluate it: iterations/0000/prm.json and prm.svg
"""

from __future__ import annotations

import contextlib
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax.config import Config, UserError
from bstar_jax.console import Console
from bstar_jax.grading import Grader
from bstar_jax.process_reward.evaluation import evaluate_model, write_evaluation
from bstar_jax.process_reward.labels import Collecting, labelled_responses, labelling_queries
from bstar_jax.process_reward.model import with_scalar_head
from bstar_jax.process_reward.store import ProcessRewardStore
from bstar_jax.records import Rollouts
from bstar_jax.run.data import length_limits
from bstar_jax.run.train import TrainingJob, schedule_of_phase, train
from bstar_jax.run.workspace import Workspace
from bstar_jax.tasks import LoadedTask
from bstar_jax.training.batches import (
    Encoded,
    StepBatch,
    StepExample,
    encode_steps,
    row_order,
    too_long_message,
)
from bstar_jax.training.losses import step_loss
from bstar_jax.training.optimizer import TrainState

_ORDER = 2  # seeds row order with (seed, iteration); the completer uses another number (labels.py)


def learn_process_reward(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    store: ProcessRewardStore,
    grader: Grader,
    collecting: Collecting,
    state: TrainState,
) -> None:
    """Labels solution steps, trains the process reward model on them, and evaluates it.

    Writes `prm.parquet` (the labelled responses), `prm.json`, `prm.svg` and the checkpoint. Files
    that exist already are read instead.

    Args:
      config: The settings.
      task: The queries.
      workspace: The run directory.
      store: Stores the process reward model.
      grader: Checks steps exactly, for the evaluation.
      collecting: Opens a collector.
      state: The state after warm-up; not changed.
    """
    file = workspace.path(0, "prm.json")
    evaluation_seconds = None
    if not workspace.exists(file):
        params, rows = labelled_responses(config, task, workspace, store, collecting, state.params)
        train_rows, heldout_rows = split_labelled(config, task, rows)
        _train(config, workspace, store, params, train_rows)
        started = time.perf_counter()
        figures = evaluate_model(store.load(), grader, task, heldout_rows)
        workspace.once(lambda: write_evaluation(workspace, figures))
        evaluation_seconds = time.perf_counter() - started
    # Training has logged rows of this phase; only its last row has the figures of the evaluation.
    if "step_auc" not in (workspace.metrics.last(0, "prm") or {}):
        figures = json.loads(file.read_text())
        workspace.metrics.append(_last_row(workspace, figures, evaluation_seconds))


def split_labelled(
    config: Config, task: LoadedTask, labelled: Rollouts
) -> tuple[Rollouts, Rollouts]:
    """Divides the labelled responses into those for training and those for evaluation.

    Raises:
      UserError: If one part is empty.
    """
    heldout = {query.query_id for query in labelling_queries(config, task)[1]}
    is_heldout = [query_id in heldout for query_id in labelled.column("query_id")]
    parts = labelled.filter([not each for each in is_heldout]), labelled.filter(is_heldout)
    if not all(map(len, parts)):
        raise UserError(
            f"{len(labelled)} responses have labelled steps: {len(parts[0])} for training and "
            f"{len(parts[1])} for evaluation; both need at least 1: raise prm.queries or "
            "prm.heldout"
        )
    return parts


def encoded(
    config: Config, console: Console, store: ProcessRewardStore, labelled: Rollouts
) -> Encoded[StepBatch]:
    """Encodes labelled responses as training rows. Equal responses to a query become one row.

    Args:
      config: The settings.
      console: Shows a warning that gives the number of responses that are too long.
      store: Finds the ends of steps, and has the tokenizer.
      labelled: The labelled responses.

    Raises:
      UserError: If no response is left to learn from.
    """
    examples = {}
    columns = map(labelled.column, ("response", "query_id", "step_rewards"))
    for prompt, response, query_id, rewards in zip(labelled.prompts(), *columns, strict=True):
        ends = store.step_ends(query_id, response)
        labels = _targets(config, rewards)
        example = StepExample(prompt, response, tuple(ends), tuple(labels), query_id)
        examples.setdefault((query_id, response), example)
    rows, limits = list(examples.values()), length_limits(config)
    ends_only = config.prm.label_tokens == "end"
    data, too_long = encode_steps(store.policy.tokenizer, rows, **limits, ends_only=ends_only)
    if too_long:
        console.warn(
            f"{len(too_long)} of {len(examples)} labelled responses are longer than the limits "
            "when they are encoded again; the process reward model does not learn from them"
        )
    if len(data) == 0:
        if too_long:
            raise UserError(too_long_message(too_long, len(examples), **limits))
        raise UserError("no response has a labelled step to learn from; warm up longer (sft.steps)")
    return data


def _train(
    config: Config, workspace: Workspace, store: ProcessRewardStore, params: dict, rows: Rollouts
) -> None:
    settings, policy = config.prm, store.policy
    with contextlib.closing(store.checkpoints(read_only=False)) as checkpoints:
        if checkpoints.iterations():
            return
        data = encoded(config, workspace.console, store, rows)
        # A copy: training donates its parameters, which without a completer are the policy's.
        copy = functools.partial(jnp.array, dtype=jnp.float32, copy=True)
        merged = jax.tree.map(copy, policy.merged(params))
        model, merged = with_scalar_head(policy.merged_model, merged, policy.mesh)

        def batch_at(step: int) -> StepBatch:
            return data.take(row_order(len(data), settings.batch, step, (config.seed, 0, _ORDER)))

        loss = functools.partial(step_loss, language_weight=settings.language_weight)
        schedule = schedule_of_phase(config, "prm")
        job = TrainingJob("prm", 0, model, checkpoints, loss, settings.steps, schedule, batch_at)
        trained = train(config, workspace, policy.mesh, job, merged)
        checkpoints.save_params(0, trained.params)


def _targets(config: Config, rewards: list[float]) -> np.ndarray:
    """Turns stored step rewards back into labels in [0, 1]."""
    soft = (np.asarray(rewards, np.float32) + 1) / 2
    return soft if config.prm.labels == "soft" else (soft > 0).astype(np.float32)


def _last_row(workspace: Workspace, figures: dict, evaluation_seconds: float | None) -> dict:
    """Makes the last metrics row of the phase: the figures, and the seconds of each part.

    The seconds of the evaluation are None if the run was killed between it and this row.
    """
    del figures["calibration"]
    labelling = Rollouts.read(workspace.path(0, "prm.parquet")).seconds
    seconds: dict[str, float | None] = {
        f"{part}_seconds": labelling[part] for part in ("sample", "grade")
    }
    for part, phase in (("completer", "completer"), ("train", "prm")):
        rows = (row for row in workspace.metrics.rows() if row["phase"] == phase)
        seconds[f"{part}_seconds"] = sum(row["wall_seconds"] for row in rows)
    total = sum(filter(None, seconds.values())) + (evaluation_seconds or 0.0)
    seconds["judge_seconds"] = evaluation_seconds
    return {"iteration": 0, "phase": "prm", "wall_seconds": total, **figures, **seconds}
