"""AdamW, its schedule, and the state that a training phase hands on."""

from __future__ import annotations

import dataclasses
import math

import jax
import optax
from jax.sharding import Mesh

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, OptimizerConfig
from bstar_jax.model import adapters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an optimizer step reads and replaces.

    Attributes:
      params: The parameters that are trained, f32, as `model.init` makes them.
      optimizer: Adam's moments and its step count; None where training starts afresh.
    """

    params: dict
    optimizer: optax.OptState | None


@dataclasses.dataclass(frozen=True)
class Schedule:
    r"""The learning rate: linear growth to a peak, then a linear or cosine decay.

        rate
        peak        /\_
                   /    \_
        peak * final      \_
                  0  warmup  steps

    Attributes:
      peak: Largest learning rate.
      warmup: Steps over which the rate grows from 0.
      steps: Steps in all.
      final: Fraction of the peak at the last step; 1 keeps the rate constant after the growth.
      fall: Shape of the decay: "linear" or "cosine".
    """

    peak: float
    warmup: int
    steps: int
    final: float
    fall: str = "linear"

    def __call__(self, step: int) -> float:
        """The learning rate of optimizer step `step`, from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        fallen = min((step - self.warmup) / max(self.steps - self.warmup - 1, 1), 1.0)
        if self.fall == "cosine":
            fallen = (1.0 - math.cos(math.pi * fallen)) / 2.0
        return self.peak * (1.0 - (1.0 - self.final) * fallen)


def make(config: OptimizerConfig, learning_rate: float | jax.Array) -> optax.GradientTransformation:
    """Clipping by the global norm, then Adam with decoupled weight decay.

    Args:
      config: Settings of the optimizer.
      learning_rate: Rate of this step. It may be traced, so one program serves a whole schedule.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate,
            b1=config.b1,
            b2=config.b2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        ),
    )


def init_state(config: ModelConfig, adam: OptimizerConfig, mesh: Mesh, params: dict) -> TrainState:
    """The state before the first step. Moments are sharded like their parameters."""
    init = make(adam, 0.0).init
    shapes = jax.eval_shape(init, params)
    targets = sharding.shardings(mesh, shapes, model.logical_axes(config, shapes))
    return TrainState(params, jax.jit(init, out_shardings=targets)(params))


def shapes(config: ModelConfig, adam: OptimizerConfig) -> TrainState:
    """Shapes of a state as it is stored, without vocabulary padding."""
    params = adapters.trained_shapes(config)
    return TrainState(params, jax.eval_shape(make(adam, 0.0).init, params))


def steps_done(state: TrainState) -> int:
    """Number of optimizer steps that led to the state, by Adam's own count."""
    counts = optax.tree.get_all_with_path(state.optimizer, "count")
    return int(counts[0][1])
