"""Training inside a run: logged, shown, and saved so that an interruption loses little."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from jax.sharding import Mesh

from bstar_jax.config import Config, ModelConfig, Preempted, schedule_steps
from bstar_jax.processes.stopping import STATE_IS_SAVED
from bstar_jax.run.checkpoints import Checkpoints, SavePoint
from bstar_jax.run.workspace import Workspace
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Batch, StepBatch
from bstar_jax.training.fit import Loss, TrainingReport, fit
from bstar_jax.training.optimizer import Schedule, TrainState


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """The optimizer steps of one phase.

    Attributes:
      phase: Name of the phase in metrics.jsonl.
      iteration: The iteration, from 0.
      model: The model to train.
      checkpoints: Stores the training state.
      loss: The function that the steps minimize.
      steps: Number of optimizer steps in the phase.
      schedule: Gives the learning rate for the optimizer's own step count.
      batch_at: Gives the batch of a step. It depends on nothing but the step.
      frozen: Parameters that no step changes.
    """

    phase: str
    iteration: int
    model: ModelConfig
    checkpoints: Checkpoints
    loss: Loss
    steps: int
    schedule: Schedule
    batch_at: Callable[[int], Batch | StepBatch]
    frozen: dict = dataclasses.field(default_factory=dict)


def train(
    config: Config,
    workspace: Workspace,
    mesh: Mesh,
    job: TrainingJob,
    params: dict,
    optimizer_state=None,
) -> TrainState:
    """Takes the optimizer steps of a job, and continues those of an interrupted process.

    Args:
      config: The optimizer, how rows are packed, and how often to log and save.
      workspace: Where metrics and progress are written.
      mesh: The devices.
      job: The steps to take.
      params: The parameters before the first step, sharded as training stores them. Donated: do
        not use them after the call.
      optimizer_state: The optimizer's state before the first step, donated too; None starts with
        a new one.

    Returns:
      The state after the last step.

    Raises:
      Preempted: If a stop was requested; the state is saved.
      UserError: If the loss or the gradient is not finite.
    """
    state, first = _state_to_start_from(config, mesh, job, params, optimizer_state)
    saved = time.monotonic()
    reports = fit(
        job.model,
        config.optimizer,
        job.schedule,
        state,
        job.batch_at,
        loss=job.loss,
        training=config.training,
        frozen=job.frozen,
        mesh=mesh,
        first=first,
        steps=job.steps,
        every=config.log.every,
        urgent=workspace.stop.look,
    )
    with workspace.console.progress(
        job.phase, job.iteration, job.steps, "steps", completed=first
    ) as progress:
        for trained, report in reports:
            state = trained
            _log(config, workspace, job, report)
            progress.advance(report.step - first, tokens=report.tokens, loss=report.loss)
            first = report.step
            is_late = time.monotonic() - saved > 60 * config.checkpoint.minutes
            is_last = report.step == job.steps
            if workspace.team.agree(is_late) or workspace.stop.is_set or is_last:
                job.checkpoints.save_training(SavePoint(job.iteration, report.step), state)
                saved = time.monotonic()
            if workspace.stop.is_set:
                job.checkpoints.wait()
                raise Preempted(STATE_IS_SAVED)
    return state


def schedule_of_phase(config: Config, phase: str) -> Schedule:
    """Returns the learning-rate schedule of phase "sft", "prm" or "improve"."""
    settings = getattr(config, phase)
    return Schedule(
        settings.learning_rate,
        settings.warmup_steps,
        schedule_steps(config, phase),
        settings.final_rate,
        settings.fall,
    )


def _state_to_start_from(
    config: Config, mesh: Mesh, job: TrainingJob, params: dict, optimizer_state
) -> tuple[TrainState, int]:
    """Returns the state that a job continues from, and how many of its steps are done."""
    point = job.checkpoints.save_point()
    if point and point.iteration == job.iteration:
        like = optimizer.shapes(job.model, config.optimizer)
        return job.checkpoints.restore_training(point, like), point.step
    if optimizer_state is not None:
        return TrainState(params, optimizer_state), 0
    return optimizer.init_state(job.model, config.optimizer, mesh, params), 0


def _log(config: Config, workspace: Workspace, job: TrainingJob, report: TrainingReport) -> None:
    row = {
        "iteration": job.iteration,
        "phase": job.phase,
        "wall_seconds": report.seconds,
        "step": report.step,
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "grad_norm": report.grad_norm,
        "tokens_per_second": report.tokens / report.seconds,
    }
    workspace.metrics.append(row, step_offset=max(job.iteration - 1, 0) * config.improve.steps)
