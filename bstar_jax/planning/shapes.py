"""Arrays by their shapes alone: how large they are, and where they lie."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, OptimizerConfig
from bstar_jax.sampling.weights import rollout_params
from bstar_jax.training import optimizer
from bstar_jax.training.optimizer import TrainState


def bytes_on_device(tree) -> int:
    """Bytes of arrays that one device of their mesh holds."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


@functools.lru_cache(maxsize=64)
def parameters(shape: ModelConfig, words: int) -> dict:
    """Shapes of all parameters, the vocabulary padded."""
    params = jax.eval_shape(functools.partial(model.init, shape), jax.random.key(0))
    return jax.eval_shape(functools.partial(model.pad_vocab, shape, size=words), params)


@functools.lru_cache(maxsize=64)
def state(shape: ModelConfig, adam: OptimizerConfig, words: int) -> TrainState:
    """Shapes of a training state, the vocabulary padded."""
    pad = functools.partial(model.pad_vocab, shape, size=words)
    return jax.eval_shape(pad, optimizer.shapes(shape, adam))


@functools.lru_cache(maxsize=64)
def rollout(shape: ModelConfig, weights: str, words: int) -> dict:
    """Shapes of what sampling reads, the vocabulary padded."""
    cast = functools.partial(rollout_params, shape, mesh=None, weights=weights)
    return jax.eval_shape(cast, parameters(shape, words))


def placed(shape, place) -> jax.ShapeDtypeStruct:
    """An array of this shape and type in this place."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)


def rows(mesh: Mesh, shape, dtype) -> jax.ShapeDtypeStruct:
    """An array whose first dimension is spread over data and fsdp."""
    place = NamedSharding(mesh, sharding.spec(("batch",), sharding.SAMPLING))
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=place)


def copy(mesh: Mesh, shape, dtype) -> jax.ShapeDtypeStruct:
    """An array of which every device has a copy."""
    return jax.ShapeDtypeStruct(
        shape, jnp.dtype(dtype), sharding=NamedSharding(mesh, PartitionSpec())
    )
