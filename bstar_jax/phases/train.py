"""Warm-up and phase 5: optimizer steps, saved often enough that little is ever lost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from bstar_jax.checkpoint import Checkpoints, Mark
from bstar_jax.config import ModelConfig, Preempted, UserError, schedule_steps
from bstar_jax.phases.data import human_data, selected_data
from bstar_jax.phases.run import Run
from bstar_jax.processes.stopping import STATE_IS_SAVED
from bstar_jax.records import Rollouts
from bstar_jax.sampling.weights import rollout_params
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Batch, StepBatch, row_order
from bstar_jax.training.fit import Loss, fit
from bstar_jax.training.losses import response_loss
from bstar_jax.training.optimizer import Schedule, TrainState


@dataclasses.dataclass(frozen=True)
class Learner:
    """What a training phase trains.

    Attributes:
      model: The model.
      checkpoints: Where its parameters and training state are kept.
      objective: What is made small.
      steps: Optimizer steps of the phase.
      schedule: The learning rate by the optimizer's own step count.
      frozen: Parameters that it leaves as they are.
    """

    model: ModelConfig
    checkpoints: Checkpoints
    objective: Loss
    steps: int
    schedule: Schedule
    frozen: dict = dataclasses.field(default_factory=dict)


def policy(run: Run, phase: str) -> Learner:
    """The model that answers, in phase "sft" or "improve"."""
    steps, schedule = getattr(run.config, phase).steps, schedule_of(run, phase)
    return Learner(run.model, run.checkpoints, response_loss, steps, schedule, run.frozen)


def warm_up(run: Run) -> dict:
    """Parameters after supervised fine-tuning on human solutions: iteration 0.

    Returns:
      The parameters, on the storage map.
    """
    if 0 in run.checkpoints.iterations():
        return run.checkpoints.restore_params(0)
    params = run.start()
    if run.config.sft.steps:
        data = human_data(run)
        take = lambda step: data.take(  # noqa: E731
            row_order(len(data), run.config.sft.batch, step, (run.config.seed, 0))
        )
        params = train(run, policy(run, "sft"), 0, "sft", params, None, take).params
    run.checkpoints.save_params(0, params)
    return params


def sampling_params(run: Run, params: dict) -> dict:
    """The parameters as sampling wants them: cast, gathered over fsdp, never on the host."""
    weights = run.config.generate.weights
    return rollout_params(run.whole_model, run.whole(params), run.mesh, weights=weights)


def improve(run: Run, iteration: int, last: TrainState, selected: Rollouts) -> TrainState:
    """The state after `improve.steps` steps on what was selected.

    Args:
      run: The run.
      iteration: From 1.
      last: The state that the iteration before ended in; it is given up.
      selected: Selected rows of this iteration.
    """
    settings = run.config.improve
    data = selected_data(run, iteration, selected)
    human_rows = settings.reference_rows
    humans = human_data(run) if human_rows else None

    def batch_at(step: int) -> Batch:
        seeds = (run.config.seed, iteration)
        rows = row_order(len(data), settings.batch - human_rows, step, seeds)
        batch = data.take(rows)
        if not human_rows:
            return batch
        human = humans.take(row_order(len(humans), human_rows, step, (*seeds, 1)))
        return jax.tree.map(lambda *parts: np.concatenate(parts), batch, human)

    params = last.params
    if settings.init_from == "warmup":
        params = run.checkpoints.restore_params(0)
    elif settings.init_from == "base":
        params = run.start()
    moments = last.optimizer if settings.optimizer_from == "last" else None
    learner = policy(run, "improve")
    state = train(run, learner, iteration, "improve", params, moments, batch_at)
    run.checkpoints.save_params(iteration, state.params)
    return state


def state_before(run: Run, iteration: int) -> TrainState:
    """The state that iteration `iteration` starts from, as an interrupted run left it.

    Raises:
      UserError: If the optimizer state that the iteration inherits is gone.
    """
    mark = run.checkpoints.mark()
    inherits = run.config.improve.optimizer_from == "last" and iteration > 1
    if inherits and mark and mark.iteration == iteration - 1:
        return run.checkpoints.restore_training(
            mark, optimizer.shapes(run.model, run.config.optimizer)
        )
    if inherits and (mark is None or mark.iteration != iteration):
        raise UserError(
            f"iteration {iteration} inherits the optimizer state of iteration {iteration - 1}, but "
            f"checkpoints/training holds {mark}; restore that folder, or start a new run"
        )
    return TrainState(run.checkpoints.restore_params(iteration - 1), None)


def train(
    run: Run,
    learner: Learner,
    iteration: int,
    phase: str,
    params: dict,
    moments,
    batch_at: Callable[[int], Batch | StepBatch],
) -> TrainState:
    """Runs a phase's optimizer steps, from where an interrupted run left off.

    Args:
      run: The run.
      learner: What is trained.
      iteration: Of the phase.
      phase: What its rows in metrics.jsonl are called.
      params: Where training starts, on the storage map; given up.
      moments: The optimizer's state there; None for a fresh one.
      batch_at: The batch of a step, a function of the step alone.
    """
    state, first = _start(run, learner, iteration, params, moments)
    steps = learner.steps
    saved = time.monotonic()

    reports = fit(
        learner.model,
        run.config.optimizer,
        learner.schedule,
        state,
        batch_at,
        loss=learner.objective,
        training=run.config.training,
        frozen=learner.frozen,
        mesh=run.mesh,
        first=first,
        steps=steps,
        every=run.config.log.every,
        urgent=run.stop.look,
    )
    with run.console.progress(phase, iteration, steps, "steps", completed=first) as progress:
        for trained, now in reports:
            state = trained
            _log(run, iteration, phase, now)
            progress.advance(now.step - first, tokens=now.tokens, loss=now.loss)
            first = now.step
            is_late = time.monotonic() - saved > 60 * run.config.checkpoint.minutes
            if run.team.agree(is_late) or run.stop.is_set or now.step == steps:
                learner.checkpoints.save_training(Mark(iteration, now.step), state)
                saved = time.monotonic()
            if run.stop.is_set:
                learner.checkpoints.wait()
                raise Preempted(STATE_IS_SAVED)
    return state


def _start(run: Run, learner: Learner, iteration: int, params, moments) -> tuple[TrainState, int]:
    """The state that a phase goes on from, and its steps that are done."""
    mark = learner.checkpoints.mark()
    if mark and mark.iteration == iteration:
        return learner.checkpoints.restore_training(
            mark, optimizer.shapes(learner.model, run.config.optimizer)
        ), mark.step
    if moments is not None:
        return TrainState(params, moments), 0
    return optimizer.init_state(learner.model, run.config.optimizer, run.mesh, params), 0


def schedule_of(run: Run, phase: str) -> Schedule:
    """The learning-rate schedule of phase "sft", "prm" or "improve"."""
    settings = getattr(run.config, phase)
    return Schedule(
        settings.learning_rate,
        settings.warmup_steps,
        schedule_steps(run.config, phase),
        settings.final_rate,
        settings.fall,
    )


def _log(run: Run, iteration: int, phase: str, now) -> None:
    row = {
        "iteration": iteration,
        "phase": phase,
        "wall_seconds": now.seconds,
        "step": now.step,
        "loss": now.loss,
        "learning_rate": now.learning_rate,
        "grad_norm": now.grad_norm,
        "tokens_per_second": now.tokens / now.seconds,
    }
    run.log.append(row, step_offset=max(iteration - 1, 0) * run.config.improve.steps)
