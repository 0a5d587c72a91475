"""The one training loop: for SFT, improve, process rewards, and all else that learns."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, OptimizerConfig, TrainingConfig, UserError
from bstar_jax.model import adapters
from bstar_jax.training import losses, optimizer
from bstar_jax.training.batches import Batch, StepBatch
from bstar_jax.training.optimizer import Schedule, TrainState
from bstar_jax.training.packing import arrange

Loss = Callable[[ModelConfig, dict, Any], jax.Array]
"""(config, params, batch) -> a scalar to minimize, a sum over the tokens of the batch."""

PLAIN = TrainingConfig()
"""One text a row, all rows at once."""


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """The state of training after some steps.

    Attributes:
      step: Steps of this phase that are done.
      loss: Loss of the last step, nats a token.
      learning_rate: Learning rate of the last step.
      grad_norm: Global gradient norm of the last step, before clipping.
      tokens: Tokens with weight that were trained on since the last report.
      seconds: Wall time since the last report.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float


@functools.partial(
    jax.jit,
    static_argnames=("config", "adam", "loss", "micro_rows"),
    donate_argnames=("state",),
)
def train_step(
    config: ModelConfig,
    adam: OptimizerConfig,
    state: TrainState,
    batch: Batch | StepBatch,
    learning_rate: float | jax.Array,
    loss: Loss = losses.response_loss,
    micro_rows: int = 0,
    frozen: dict | None = None,
) -> tuple[TrainState, dict]:
    """Takes one optimizer step.

    Args:
      config: The model.
      adam: Settings of the optimizer.
      state: Parameters and optimizer state. Donated: do not use it after the call.
      batch: All rows of the step.
      learning_rate: Rate of this step.
      loss: The function to minimize.
      micro_rows: Rows of one forward and backward pass; must divide those of the batch. 0 takes
        all rows at once.
      frozen: Parameters that no step changes, where the state does not hold all of them.

    Returns:
      The new state, and "loss" and "grad_norm" of this step.
    """

    def loss_of_trained(config: ModelConfig, trained: dict, batch: Any) -> jax.Array:
        return loss(config, adapters.combine(frozen or {}, trained), batch)

    value, gradient = _value_and_gradient(
        config, loss_of_trained, state.params, batch.normalized(), micro_rows
    )
    transform = optimizer.make(adam, learning_rate)
    before: Any = state.optimizer  # None only where no step is taken
    updates, moments = transform.update(gradient, before, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(params, moments), {"loss": value, "grad_norm": optax.tree.norm(gradient)}


def _value_and_gradient(
    config: ModelConfig, loss: Loss, params: dict, batch: Batch | StepBatch, micro_rows: int
) -> tuple[jax.Array, dict]:
    """Loss and gradient of a batch, computed a few rows at a time and summed in f32."""
    value_and_grad = functools.partial(jax.value_and_grad(loss, argnums=1), config, params)
    if micro_rows in (0, len(batch.tokens_BL)):
        return value_and_grad(batch)

    def split(column: jax.Array) -> jax.Array:
        # Every device keeps its rows: each part has some rows of every device.
        return column.reshape(micro_rows, -1, *column.shape[1:]).swapaxes(0, 1)

    def add(total, part):
        return jax.tree.map(jnp.add, total, value_and_grad(part)), None

    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        targets = sharding.shardings(mesh, params, model.logical_axes(config, params))
        zero = zero[0], jax.lax.with_sharding_constraint(zero[1], targets)
    return jax.lax.scan(add, zero, jax.tree.map(split, batch))[0]


def fit(
    config: ModelConfig,
    adam: OptimizerConfig,
    schedule: Schedule,
    state: TrainState,
    batch_at: Callable[[int], Batch | StepBatch],
    *,
    loss: Loss = losses.response_loss,
    mesh: Mesh,
    training: TrainingConfig = PLAIN,
    frozen: dict | None = None,
    first: int,
    steps: int,
    every: int,
    urgent: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[TrainState, TrainingReport]]:
    """Trains from step `first` to `steps`, and reports every few steps and at the end.

    A state that was yielded may be saved until the next report is asked for, which donates it.

    Args:
      config: The model.
      adam: Settings of the optimizer.
      schedule: Learning rate as a function of the optimizer's own step count.
      state: Parameters and optimizer state, on the storage map. Donated: do not use it after the
        call.
      batch_at: Returns the batch of a step, one text a row; a function of the step alone.
      loss: The function to minimize; it takes the batches of `batch_at`.
      mesh: The devices.
      training: How rows are packed, and how many are computed at once.
      frozen: Parameters that no step changes, on the storage map. Not donated.
      first: Steps of this phase done before.
      steps: Steps of this phase in all.
      every: Steps between reports.
      urgent: Asked after every step whether to report at once, to save and stop.

    Raises:
      UserError: If the loss or the gradient is not finite, with the step; or if the mesh cannot
        share the rows of a pass evenly.
    """
    shards, micro_rows = sharding.row_shards(mesh), training.micro_rows
    sharding.check_rows(mesh, "training.micro_rows", micro_rows)
    tokens, since = 0, time.perf_counter()
    before = optimizer.steps_done(state) - first
    for step in range(first, steps):
        batch = arrange(batch_at(step), training, shards)
        tokens += int(np.sum(batch.weights_BL))
        with jax.set_mesh(mesh):
            rows = sharding.put_rows(mesh, batch)
            learning_rate = schedule(before + step)
            state, measured = train_step(
                config, adam, state, rows, learning_rate, loss, micro_rows, frozen
            )
        if (step + 1) % every == 0 or step + 1 == steps or urgent():
            measured = {name: float(value) for name, value in measured.items()}
            _check_finite(measured, step + 1)
            now = time.perf_counter()
            yield (
                state,
                TrainingReport(
                    step=step + 1,
                    learning_rate=learning_rate,
                    tokens=tokens,
                    seconds=now - since,
                    **measured,
                ),
            )
            tokens, since = 0, time.perf_counter()


def _check_finite(measured: dict[str, float], step: int) -> None:
    for name in ("loss", "grad_norm"):
        if not np.isfinite(measured[name]):
            raise UserError(
                f"{name} is {measured[name]} at optimizer step {step}; nothing since the last "
                "checkpoint was saved: lower the learning rate, or optimizer.clip_norm"
            )
