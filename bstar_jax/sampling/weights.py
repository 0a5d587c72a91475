"""The weights that sampling reads: cast once, and laid on the sampling map, on the devices.

Decoding reads every weight for every token, so their bytes are its time. Training keeps its f32
parameters on the storage map; sampling takes a copy of half or a quarter of their bytes:

    weights       matrices        norms    the computation
    "same"        f32             f32      as config.dtype says
    "bfloat16"    bf16            f32      bf16: exactly what config.dtype="bfloat16" computes
    "int8"        int8, scales    f32      bf16; the embedding is bf16 (see `SUMMED`)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, jaxtyped

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.kernels.int8 import Int8, quantise

WEIGHTS = ("same", "bfloat16", "int8")

# Parameter -> the logical axes that its product sums over. What is not here is no int8: norms
# and the scalar head are small, and the embedding is read by every layer: in int8 it moved
# log-probabilities up to a quarter more.
SUMMED = {
    "query": ("width",),
    "key": ("width",),
    "value": ("width",),
    "output": ("heads", "head_width"),
    "gate": ("width",),
    "up": ("width",),
    "down": ("feed_forward",),
    "head": ("width",),
}


def rollout_config(config: ModelConfig, weights: str) -> ModelConfig:
    """The config that sampling runs with: that of training, or its bf16 computation."""
    return config if weights == "same" else dataclasses.replace(config, dtype="bfloat16")


def rollout_params(config: ModelConfig, params: dict, mesh: Mesh | None, *, weights: str) -> dict:
    """The parameters that sampling reads, on the sampling map; for `rollout_config`.

    Cast first, then gathered over fsdp, in one program: what moves between devices has the bytes
    of the result, nothing passes the host, and of f32 nothing but the norms is made anew.

    Args:
      config: The model.
      params: Its parameters, f32, on the mesh; they stay as they are.
      mesh: Where; None leaves them on the device where they are.
      weights: One of `WEIGHTS`.

    Raises:
      UserError: If `weights` is not one of them.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights is {weights!r}; choose one of {WEIGHTS}")
    if weights != "same":
        return _program(config, mesh, weights == "int8")(params)
    if mesh is None:
        return params
    axes = model.logical_axes(config, params)
    return jax.device_put(params, sharding.shardings(mesh, params, axes, sharding.SAMPLING))


def as_computed(config: ModelConfig, shapes: dict) -> dict:
    """Shapes of f32 parameters in the types that the computation casts them to: no sum changes.

    Of a bf16 computation matrices are bf16 and norms f32, of an f32 one all are f32.
    """
    if config.dtype == "float32":
        return shapes
    cast = functools.partial(_cast, axes=model.logical_axes(config, shapes), is_int8=False)
    return jax.eval_shape(cast, shapes)


@jaxtyped(typechecker=beartype)
def logprob_change(
    config: ModelConfig,
    params: dict,
    rollout_config: ModelConfig,
    rollout_params: dict,
    tokens_BL: Int[Array, "B L"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What the rollout weights cost: how far they move the log-probability of a token.

        change_bl = | log p_rollout(t_bl | t_b,<l) - log p(t_bl | t_b,<l) |,   l >= 1

    Measured on CPU with the models of `tests/sampling/test_weights.py`, mean and largest; of the
    trained one over 4 seeds and 9 sets of 32 texts (its largest change is one token's, and varies):

        weights       random, 4 layers of 64     trained, 2 layers of 32
        "bfloat16"    0.008, 0.04                0.003 to 0.005, 0.04 to 0.08
        "int8"        0.013, 0.06                0.007 to 0.009, 0.10 to 0.28

    Args:
      config: The model that trains.
      params: Its parameters.
      rollout_config: As the function of that name gives it.
      rollout_params: As `rollout_params` gives them.
      tokens_BL: Texts without padding, L at least 2. On a mesh, that mesh is in force.

    Returns:
      Mean and largest change, in nats, over all tokens but the first of each row.
    """
    before_BL = _token_logprob(config, params, tokens_BL)
    change_BL = jnp.abs(_token_logprob(rollout_config, rollout_params, tokens_BL) - before_BL)
    return change_BL.mean(), change_BL.max()


@functools.partial(jax.jit, static_argnames="config")
def _token_logprob(config: ModelConfig, params: dict, tokens_BL: jax.Array) -> jax.Array:
    logprob_BLV = jax.nn.log_softmax(model.forward(config, params, tokens_BL)[:, :-1])
    return jnp.take_along_axis(logprob_BLV, tokens_BL[:, 1:, None], axis=-1)[..., 0]


@functools.lru_cache(maxsize=8)
def _program(config: ModelConfig, mesh: Mesh | None, is_int8: bool):
    """The compiled function from parameters to what sampling reads; kept for the next iteration."""
    shapes = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))
    axes = model.logical_axes(config, shapes)
    cast = functools.partial(_cast, axes=axes, is_int8=is_int8)
    if mesh is None:
        return jax.jit(cast)
    results = jax.eval_shape(cast, shapes)
    stored, gathered = (
        places(mesh, results, axes, table) for table in (sharding.STORAGE, sharding.SAMPLING)
    )

    def cast_there(params):
        # Held where the parameters lie until they are cast: the gathering moves fewer bytes.
        return jax.lax.with_sharding_constraint(cast(params), stored)

    return jax.jit(cast_there, out_shardings=gathered)


def _cast(params: dict, axes: list[tuple[str, ...]], is_int8: bool) -> dict:
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)

    def one(name, leaf, names):
        if is_int8 and name in SUMMED:
            return quantise(leaf, tuple(names.index(axis) for axis in SUMMED[name]))
        is_matrix = len([axis for axis in names if axis != "layers"]) > 1
        return leaf.astype(jnp.bfloat16) if is_matrix else leaf

    cast = [
        one(path[-1].key, leaf, names) for (path, leaf), names in zip(leaves, axes, strict=True)
    ]
    return jax.tree.unflatten(structure, cast)


def places(mesh: Mesh, tree: dict, axes: list[tuple[str, ...]], table) -> dict:
    """Where each array lies; of an Int8, the values as the weight, the scale with its channels."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda leaf: isinstance(leaf, Int8))

    def place(names) -> Any:
        return NamedSharding(mesh, sharding.spec(names, table))

    def one(leaf, names):
        if not isinstance(leaf, Int8):
            return place(names)
        sizes = zip(names, leaf.scale.shape, strict=True)
        return Int8(place(names), place([None if size == 1 else axis for axis, size in sizes]))

    return jax.tree.unflatten(structure, list(map(one, leaves, axes)))
