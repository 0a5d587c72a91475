"""The mesh, and the one table from logical axes to mesh axes.

A layer names logical axes only; this table says which mesh axis holds each. Parameters have
two maps: *storage*, where one copy is spread over `fsdp` while it trains, and *sampling*,
where that spread is gathered once, since decoding would otherwise gather it every token.

    mesh axis   what is spread
    data        rows of a batch; every data slice has all parameters
    fsdp        rows of a batch, and the stored parameters by their width
    tensor      heads, feed-forward and vocabulary within one matrix product
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bstar_jax.config import MeshConfig, ModelConfig, UserError

MESH_AXES = ("data", "fsdp", "tensor")

STORAGE: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "layers": None,
    "width": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_width": None,
    "feed_forward": "tensor",
    "vocab": "tensor",
    "rank": None,
}

SAMPLING: Mapping[str, str | tuple[str, ...] | None] = {**STORAGE, "width": None}

# On disk the vocabulary has its true size, which tensor need not divide.
DISK: Mapping[str, str | tuple[str, ...] | None] = {**STORAGE, "vocab": None}

# Activations keep their width whole: the rows are spread over `fsdp` already.
_ACTIVATIONS = SAMPLING


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Lays the devices out as (data, fsdp, tensor).

    Raises:
      UserError: If the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if 0 in sizes or sizes.count(-1) > 1:
        raise UserError(
            f"mesh (data, fsdp, tensor) is {tuple(sizes)}; sizes are 1 or more, "
            "and one of them may be -1 for the devices left over"
        )
    given = int(np.prod([size for size in sizes if size != -1]))
    if len(devices) % given or (-1 not in sizes and given != len(devices)):
        raise UserError(
            f"mesh (data, fsdp, tensor) is {tuple(sizes)}, {given} devices, but there are "
            f"{len(devices)}; sizes must multiply to {len(devices)}, or give mesh.data=-1"
        )
    sizes = [len(devices) // given if size == -1 else size for size in sizes]
    return Mesh(
        np.asarray(devices).reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes)
    )


def spec(axes: tuple[str | None, ...], table: Mapping = STORAGE) -> PartitionSpec:
    """The partition of an array whose dimensions have these logical axes."""
    return PartitionSpec(*(None if axis is None else table[axis] for axis in axes))


def shardings(mesh: Mesh, tree, axes: list[tuple[str, ...]], table: Mapping = STORAGE):
    """Where each array of a tree lies, given the logical axes of its leaves in their order."""
    placed = [NamedSharding(mesh, spec(names, table)) for names in axes]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
    """Tells the compiler how an activation lies on the mesh in force; without one, nothing."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, spec(axes, _ACTIVATIONS))


def by_shard(function):
    """The function on every shard's own rows: all its arrays have the shards as first dimension.

    Without a mesh in force it is the function itself. Inside there is one shard, and nothing that
    it does can become an exchange between devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    rows = spec(("batch",), SAMPLING)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)


def row_shards(mesh: Mesh) -> int:
    """Number of parts that the rows of a batch are cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def put_rows(mesh: Mesh, tree):
    """Places host arrays on the mesh, their first dimension spread over data and fsdp."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))


def put_copies(mesh: Mesh, tree):
    """Places arrays on the mesh, a whole copy on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def check_rows(mesh: Mesh, name: str, rows: int) -> None:
    """Refuses a number of rows that the mesh cannot spread evenly.

    Raises:
      UserError: With both numbers and the nearest that divides.
    """
    parts = row_shards(mesh)
    if rows % parts:
        raise UserError(
            f"{name} is {rows}, but mesh.data x mesh.fsdp = {parts} devices share its rows; "
            f"the nearest that divides is {max(round(rows / parts), 1) * parts}"
        )


def check_model(mesh: Mesh, config: ModelConfig) -> None:
    """Refuses a model whose dimensions the mesh cannot spread evenly.

    Raises:
      UserError: With both numbers.
    """
    sizes = {
        "model.width": ("fsdp", config.width),
        "model.heads": ("tensor", config.heads),
        "model.kv_heads": ("tensor", config.kv_heads),
        "model.feed_forward": ("tensor", config.feed_forward),
    }
    for name, (axis, size) in sizes.items():
        if size % mesh.shape[axis]:
            raise UserError(
                f"{name} is {size}, but mesh.{axis} is {mesh.shape[axis]} and must divide it"
            )


def padded_vocab(config: ModelConfig, mesh: Mesh) -> int:
    """Vocabulary as it lies on the mesh: a multiple of 256 x tensor where tensor > 1."""
    tensor = mesh.shape["tensor"]
    if tensor == 1:
        return config.vocab_size
    return -(-config.vocab_size // (256 * tensor)) * 256 * tensor
