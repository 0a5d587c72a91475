"""AdamW, its schedule, and the state that a training phase hands on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, OptimizerConfig


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "optimizer"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an optimizer step reads and replaces.

    Attributes:
      params: The parameters, f32, as `model.init` makes them.
      optimizer: Adam's moments and its step count.
    """

    params: dict
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear growth to a peak, then a linear fall.

        rate
        peak        /\\_
                   /    \\_
        peak * final      \\_
                  0  warmup  steps

    Attributes:
      peak: Largest learning rate.
      warmup: Steps of growth from 0.
      steps: Steps in all.
      final: Share of the peak at the last step; 1 is constant after warm-up.
    """

    peak: float
    warmup: int
    steps: int
    final: float

    def __call__(self, step: jax.Array) -> jax.Array:
        """The learning rate of optimizer step `step`, from 0."""
        grown = (step + 1) / max(self.warmup, 1)
        fallen = (step - self.warmup) / max(self.steps - self.warmup - 1, 1)
        fall = 1.0 - (1.0 - self.final) * jnp.clip(fallen, 0.0, 1.0)
        return self.peak * jnp.where(step < self.warmup, grown, fall)


def make(config: OptimizerConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Clip by the global norm, Adam, decoupled decay, learning rate by the schedule."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        ),
    )


def start(config: ModelConfig, mesh: Mesh, transform, params: dict) -> TrainState:
    """A state before the first step; the moments lie where their parameters lie."""
    shapes = jax.eval_shape(transform.init, params)
    places = sharding.shardings(mesh, shapes, model.axes_of(config, shapes))
    return TrainState(params, jax.jit(transform.init, out_shardings=places)(params))


def steps_done(state: TrainState) -> int:
    """Optimizer steps that the state has seen, by Adam's own count."""
    counts = optax.tree.get_all_with_path(state.optimizer, "count")
    return int(counts[0][1])
