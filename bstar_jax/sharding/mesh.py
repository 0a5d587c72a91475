"""The mesh, and the one table from logical axes to mesh axes.

A layer names logical axes only; this table says which mesh axis holds each. Parameters have
two maps: *storage* spreads one copy over `fsdp` for training, and *sampling* gathers that copy
once, because decoding would otherwise gather it for every token.

    mesh axis   what is spread over it
    data        rows of a batch; every data slice has all parameters
    fsdp        rows of a batch, and the width of the stored parameters
    tensor      heads, feed-forward and vocabulary within one matrix product

The `tensor` devices that compute the same rows of a batch are a *row shard*. Where every row
shard lies within one process, each process samples on a mesh of its own, its `SamplingMesh`:
decoding then exchanges nothing with other hosts and never waits for them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from bstar_jax.config import Config, MeshConfig, ModelConfig, UserError

MESH_AXES = ("data", "fsdp", "tensor")

AxisTable = Mapping[str, str | tuple[str, ...] | None]
"""Logical axis -> the mesh axes that it is spread over; None where every device has all of it."""

STORAGE: AxisTable = {
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

SAMPLING: AxisTable = {**STORAGE, "width": None}

# On disk the vocabulary has its true size, which `tensor` need not divide.
DISK: AxisTable = {**STORAGE, "vocab": None}

# Activations keep their whole width, because `fsdp` already spreads their rows.
_ACTIVATIONS = SAMPLING


def make_mesh(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Arranges the devices as (data, fsdp, tensor).

    The order is by slice, then by host, so that `tensor` stays within a host and `fsdp` within a
    slice as far as their sizes allow.

    Args:
      config: Sizes of the mesh axes.
      devices: Devices to use; by default all, including those of other processes.

    Raises:
      UserError: If the sizes do not multiply to the number of devices; names the nearest that do.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if 0 in sizes or sizes.count(-1) > 1:
        raise UserError(
            f"mesh (data, fsdp, tensor) is {tuple(sizes)}; sizes are 1 or more, "
            "and one of them may be -1 for the devices left over"
        )
    given = math.prod(size for size in sizes if size != -1)
    if len(devices) % given or (-1 not in sizes and given != len(devices)):
        raise UserError(
            f"mesh (data, fsdp, tensor) is {tuple(sizes)}, {given} devices, but there are "
            f"{len(devices)}; sizes must multiply to {len(devices)}: the nearest that do are "
            f"{_nearest(sizes, len(devices))}"
        )
    sizes = [len(devices) // given if size == -1 else size for size in sizes]
    return _mesh(_arranged(devices, sizes))


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, MESH_AXES, axis_types=(AxisType.Auto,) * devices.ndim)


def _nearest(sizes: list[int], devices: int) -> tuple[int, ...]:
    """Returns the sizes closest to these, by ratio, that multiply to the number of devices."""
    divisors = [size for size in range(1, devices + 1) if devices % size == 0]
    choices = [one for one in itertools.product(divisors, repeat=3) if math.prod(one) == devices]
    wanted = [max(size, 1) for size in sizes]

    def distance(sizes: tuple[int, ...]) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(sizes, wanted, strict=True))

    return min(choices, key=distance)


def _slice_index(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0


def _arranged(devices: list, sizes: list[int]) -> np.ndarray:
    devices = sorted(devices, key=lambda each: (_slice_index(each), each.process_index, each.id))
    tensor = sizes[-1]
    of_a_host = sum(device.process_index == devices[0].process_index for device in devices)
    is_torus = devices[0].platform == "tpu" and len(set(map(_slice_index, devices))) == 1
    # Cores of one chip are not neighbours on a torus, and JAX refuses them.
    is_torus &= all(getattr(device, "core_on_chip", 0) == 0 for device in devices)
    if of_a_host % tensor and is_torus:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return np.asarray(devices).reshape(sizes)


@dataclasses.dataclass(frozen=True)
class SamplingMesh:
    """The devices on which one process samples.

    Attributes:
      mesh: The whole mesh, or the part of it that belongs to the process.
      shards: Indices of the row shards of the whole mesh that these devices form, in order.
      total: Number of row shards of the whole mesh.
    """

    mesh: Mesh
    shards: tuple[int, ...]
    total: int


def sampling_mesh(mesh: Mesh, where: str = "auto", process: int | None = None) -> SamplingMesh:
    """Chooses where a process samples: on its own devices if every row shard is in one process.

    Example: 4 hosts of 4 devices. On mesh (1, 8, 2) process 1 samples on a mesh (1, 2, 2), row
    shards 2 and 3 of 8. On mesh (1, 2, 8) it samples on the whole mesh, because 8 devices of two
    hosts share one matrix product.

    Args:
      mesh: The whole mesh.
      where: "auto" chooses; "host" insists on the process's own devices, "global" on all.
      process: Index of the process; None is this one.

    Raises:
      UserError: If `where` is "host" and a row shard spans several processes.
    """
    process = jax.process_index() if process is None else process
    rows = mesh.devices.reshape(-1, mesh.shape["tensor"])
    owners = [{device.process_index for device in row} for row in rows]
    is_apart = all(len(owner) == 1 for owner in owners)
    if where == "host" and not is_apart:
        raise UserError(
            f"mesh.sampling is 'host', but mesh.tensor={mesh.shape['tensor']} devices of several "
            "processes share one matrix product; lower mesh.tensor to divide the devices of a "
            "process, or use mesh.sampling=global"
        )
    if where == "global" or not is_apart or set.union(*owners) == {process}:
        return SamplingMesh(mesh, tuple(range(len(rows))), len(rows))
    shards = tuple(shard for shard, owner in enumerate(owners) if owner == {process})
    return SamplingMesh(_mesh(rows[list(shards)][None]), shards, len(rows))


def refusal(mesh: Mesh) -> str:
    """Runs a small program on these devices alone; returns why it failed, or "" if it worked.

    Some TPU slices run only programs that use all of their chips.
    """
    everywhere = NamedSharding(mesh, PartitionSpec(MESH_AXES))
    try:
        total = jax.jit(jnp.sum)(jax.device_put(np.ones(mesh.size, np.float32), everywhere))
        return "" if float(total) == mesh.size else f"the sum of {mesh.size} ones was {total}"
    except jax.errors.JaxRuntimeError as error:
        return str(error).splitlines()[0][:200]


def on_sampling_mesh(sampling: SamplingMesh, tree: Any) -> Any:
    """Returns a process's part of arrays on the sampling map; moves and copies nothing."""

    def here(array: Any) -> jax.Array:
        target = NamedSharding(sampling.mesh, array.sharding.spec)
        parts = {shard.device: shard.data for shard in array.addressable_shards}
        parts = [parts[device] for device in target.addressable_devices_indices_map(array.shape)]
        return jax.make_array_from_single_device_arrays(array.shape, target, parts)

    return jax.tree.map(here, tree)


def spec(axes: Sequence[str | None], table: AxisTable = STORAGE) -> PartitionSpec:
    """Returns the partition of an array whose dimensions have these logical axes."""
    return PartitionSpec(*(None if axis is None else table[axis] for axis in axes))


def shardings(
    mesh: Mesh | AbstractMesh,
    tree: Any,
    axes: Sequence[Sequence[str | None]],
    table: AxisTable = STORAGE,
) -> Any:
    """Returns where each array of a tree lies, from the logical axes of its leaves in order."""
    placed = [NamedSharding(mesh, spec(names, table)) for names in axes]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
    """Tells the compiler how an activation lies on the current mesh; does nothing without one."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, spec(axes, _ACTIVATIONS))


def by_shard(function: Callable) -> Callable:
    """Makes a function run on each shard's own rows; shards are the first axis of its arrays.

    The function sees a single shard, and nothing in it can become an exchange between devices.
    Without a current mesh it is returned as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    rows = spec(("batch",), SAMPLING)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts that the rows of a batch are divided into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def mesh_sizes(mesh: Mesh) -> tuple[int, int, int]:
    """Returns (data, fsdp, tensor) of a mesh."""
    data, fsdp, tensor = (mesh.shape[axis] for axis in MESH_AXES)
    return data, fsdp, tensor


def put_rows(mesh: Mesh, tree: Any) -> Any:
    """Places host arrays on the mesh, their first dimension spread over `data` and `fsdp`.

    Where several processes share the mesh, each passes the whole arrays and places its part.
    """
    return put(tree, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))


def put_copies(mesh: Mesh, tree: Any) -> Any:
    """Places a whole copy of each array on every device of the mesh."""
    return put(tree, NamedSharding(mesh, PartitionSpec()))


def put(tree: Any, targets: Any) -> Any:
    """Places arrays of which every process holds the same copy.

    Args:
      tree: NumPy arrays, or arrays of this process.
      targets: A sharding for each array, or one for all.
    """
    if isinstance(targets, NamedSharding):
        targets = jax.tree.map(lambda _: targets, tree)
    if all(target.is_fully_addressable for target in jax.tree.leaves(targets)):
        return jax.device_put(tree, targets)

    def one(array: Any, target: NamedSharding) -> jax.Array:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, target, lambda index: host[index])

    return jax.tree.map(one, tree, targets)


def own_rows(array: jax.Array) -> tuple[list[int], np.ndarray]:
    """Returns indices and values of the rows that this process reads.

    Rows run along the first dimension. Each row is read by one process, even where several
    hold it.
    """
    if array.is_fully_addressable:
        return list(range(len(array))), np.asarray(array)
    parts = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    parts.sort(key=lambda shard: shard.index[0].start)
    rows = [row for shard in parts for row in range(*shard.index[0].indices(len(array)))]
    nothing = np.empty((0, *array.shape[1:]), array.dtype)
    return rows, np.concatenate([nothing, *(np.asarray(shard.data) for shard in parts)])


def check_rows(mesh: Mesh, name: str, rows: int) -> None:
    """Refuses a number of rows that the mesh cannot spread evenly.

    Raises:
      UserError: With both numbers and the nearest multiple.
    """
    parts = row_shards(mesh)
    if rows % parts:
        raise UserError(
            f"{name} is {rows}, but mesh.data x mesh.fsdp = {parts} devices share its rows; "
            f"the nearest that divides is {max(round(rows / parts), 1) * parts}"
        )


def check_batches(mesh: Mesh, config: Config) -> None:
    """Refuses a run with a batch that the mesh cannot spread evenly.

    Raises:
      UserError: From `check_rows`, for the first such setting.
    """
    names = ["sft.batch", "improve.batch", "training.micro_rows"]
    for name in names + (["prm.batch", "prm.score_batch"] if config.prm.enabled else []):
        section, field = name.split(".")
        check_rows(mesh, name, getattr(getattr(config, section), field))


def check_model(mesh: Mesh, config: ModelConfig) -> None:
    """Refuses a model with a dimension that the mesh cannot spread evenly.

    Raises:
      UserError: With both numbers and the nearest mesh size that divides.
    """
    sizes = {
        "model.width": ("fsdp", config.width),
        "model.heads": ("tensor", config.heads),
        "model.kv_heads": ("tensor", config.kv_heads),
        "model.feed_forward": ("tensor", config.feed_forward),
    }
    for name, (axis, size) in sizes.items():
        parts = mesh.shape[axis]
        if size % parts:
            nearest = min(
                (part for part in range(1, size + 1) if size % part == 0),
                key=lambda part: abs(math.log(part / parts)),
            )
            raise UserError(
                f"{name} is {size}, but mesh.{axis} is {parts} and must divide it; the nearest "
                f"that does is mesh.{axis}={nearest}"
            )


def padded_vocab(config: ModelConfig, mesh: Mesh) -> int:
    """Returns the vocabulary size on the mesh: a multiple of 256 x tensor where tensor > 1."""
    tensor = mesh.shape["tensor"]
    if tensor == 1:
        return config.vocab_size
    return -(-config.vocab_size // (256 * tensor)) * 256 * tensor
