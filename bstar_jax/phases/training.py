"""Warm-up and phase 5: the data that the policy is trained on, and the state it starts from."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from bstar_jax.config import Config, UserError
from bstar_jax.records import Rollouts
from bstar_jax.run.data import human_data, selected_data
from bstar_jax.run.policy import Policy
from bstar_jax.run.train import TrainingJob, schedule_of_phase, train
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import check_prompt
from bstar_jax.tasks import LoadedTask
from bstar_jax.tokenizer import Tokenizer
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Batch, Encoded, row_order
from bstar_jax.training.losses import response_loss
from bstar_jax.training.optimizer import TrainState


def check_inputs(config: Config, task: LoadedTask, tokenizer: Tokenizer) -> None:
    """Refuses, before the run starts, input that would stop it an hour later.

    Raises:
      UserError: If a prompt is empty or too long, a human solution is missing or too long, or a
        split has fewer queries than an iteration or the process reward model needs.
    """
    splits = task.splits
    if config.loop.iterations and config.generate.queries > len(splits["train"]):
        raise UserError(
            f"generate.queries is {config.generate.queries}, but the train split has "
            f"{len(splits['train'])}; lower it, or 0 takes all"
        )
    for name, split in (("queries", "train"), ("heldout", "calibration")):
        wanted, there = getattr(config.prm, name), len(splits[split])
        if config.prm.enabled and wanted > there:
            raise UserError(f"prm.{name} is {wanted}, but the {split} split has {there}; lower it")
    limit = config.generate.max_prompt_tokens
    for query in (*splits["train"], *splits["calibration"], *splits["heldout"]):
        check_prompt(query.query_id, tokenizer.encode_prompt(query.asked), limit)
        if config.generate.rationalize and query.split == "train":
            hint = tokenizer.encode_prompt(query.with_prompt(task.hint(query)).asked)
            check_prompt(f"{query.query_id} with its hint", hint, limit)
    teaches = config.prm.completer_steps and config.prm.completer_data != "own"
    if config.sft.steps or config.improve.reference_share or teaches:
        human_data(config, task, tokenizer)


def warm_up(config: Config, task: LoadedTask, workspace: Workspace, policy: Policy) -> TrainState:
    """Fine-tunes the policy on human solutions. This is iteration 0.

    Returns:
      The parameters, sharded as training stores them, and no optimizer state: iteration 1 starts
      with a new one.
    """
    if 0 in policy.checkpoints.iterations():
        return TrainState(policy.checkpoints.restore_params(0), None)
    params = policy.initial_params()
    if config.sft.steps:
        data = human_data(config, task, policy.tokenizer)
        seeds = (config.seed, 0)
        batch_at = functools.partial(_batch_of_one_kind, data, config.sft.batch, seeds)
        params = _train(config, workspace, policy, "sft", 0, batch_at, params).params
    policy.checkpoints.save_params(0, params)
    return TrainState(params, None)


def improve(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    policy: Policy,
    iteration: int,
    last: TrainState,
    selected: Rollouts,
) -> TrainState:
    """Phase 5: takes `improve.steps` optimizer steps on the selected responses.

    Args:
      config: The settings.
      task: The human solutions, which make up `improve.reference_share` of each batch.
      workspace: The run directory.
      policy: The policy.
      iteration: The iteration, from 1.
      last: The state after the previous iteration. Donated: do not use it after the call.
      selected: The selected rows of this iteration.

    Returns:
      The state after the last step.
    """
    settings = config.improve
    data = selected_data(config, workspace, policy.tokenizer, iteration, selected)
    human_rows = settings.reference_rows
    humans = human_data(config, task, policy.tokenizer) if human_rows else None
    seeds = (config.seed, iteration)

    def batch_at(step: int) -> Batch:
        batch = _batch_of_one_kind(data, settings.batch - human_rows, seeds, step)
        if humans is None:
            return batch
        human = _batch_of_one_kind(humans, human_rows, (*seeds, 1), step)
        return jax.tree.map(lambda *parts: np.concatenate(parts), batch, human)

    params = last.params
    if settings.init_from == "warmup":
        params = policy.checkpoints.restore_params(0)
    elif settings.init_from == "base":
        params = policy.initial_params()
    inherited = last.optimizer if settings.optimizer_from == "last" else None
    state = _train(config, workspace, policy, "improve", iteration, batch_at, params, inherited)
    policy.checkpoints.save_params(iteration, state.params)
    return state


def state_before(config: Config, policy: Policy, iteration: int) -> TrainState:
    """Restores the state that an iteration starts from, to continue an interrupted run.

    Raises:
      UserError: If the iteration inherits an optimizer state that is not on disk any more.
    """
    checkpoints = policy.checkpoints
    point = checkpoints.save_point()
    inherits = config.improve.optimizer_from == "last" and iteration > 1
    if inherits and point and point.iteration == iteration - 1:
        return checkpoints.restore_training(point, optimizer.shapes(policy.model, config.optimizer))
    if inherits and (point is None or point.iteration != iteration):
        raise UserError(
            f"iteration {iteration} inherits the optimizer state of iteration {iteration - 1}, but "
            f"checkpoints/training holds {point}; restore that folder, or start a new run"
        )
    return TrainState(checkpoints.restore_params(iteration - 1), None)


def _train(
    config: Config,
    workspace: Workspace,
    policy: Policy,
    phase: str,
    iteration: int,
    batch_at: Callable[[int], Batch],
    params: dict,
    optimizer_state=None,
) -> TrainState:
    """Trains the policy in phase "sft" or "improve". The state that it starts from is donated."""
    job = TrainingJob(
        phase,
        iteration,
        policy.model,
        policy.checkpoints,
        response_loss,
        getattr(config, phase).steps,
        schedule_of_phase(config, phase),
        batch_at,
        policy.frozen,
    )
    return train(config, workspace, policy.mesh, job, params, optimizer_state)


def _batch_of_one_kind(data: Encoded[Batch], rows: int, seeds: tuple[int, ...], step: int) -> Batch:
    return data.take(row_order(len(data), rows, step, seeds))
