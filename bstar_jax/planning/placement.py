"""A run laid out on a topology: its mesh, and the devices on which one process samples."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from jax.sharding import AxisType, Mesh

from bstar_jax import sharding
from bstar_jax.config import Config, UserError
from bstar_jax.planning.models import PlannedModel
from bstar_jax.planning.topologies import Topology, find_topology
from bstar_jax.sharding import Placement


@dataclasses.dataclass(frozen=True)
class MissingDevice:
    """A GPU that is not there: enough of a device for a mesh; nothing compiles for it.

    Attributes:
      id: Its number, from 0.
      process_index: Its host.
      device_kind: Such as "h100".
      platform: "gpu".
    """

    id: int
    process_index: int
    device_kind: str
    platform: str = "gpu"


def _devices(topology: Topology) -> list:
    """The devices of a topology, in the order of their hosts."""
    if topology.is_tpu:
        return list(topology.devices)
    return [
        MissingDevice(index, index // topology.devices_per_host, topology.kind)
        for index in range(topology.count)
    ]


def place(config: Config, planned: PlannedModel, topology: Topology) -> Placement:
    """Lays a run out on a topology.

    Raises:
      UserError: If the mesh does not multiply to the devices, or cannot share the model or rows.
    """
    mesh = sharding.make_mesh(config.mesh, _devices(topology))
    sharding.check_model(mesh, planned.model)
    sharding.check_batches(mesh, config)
    sampling_mesh = sharding.sampling_mesh(mesh, config.mesh.sampling, 0).mesh
    if sampling_mesh.size < mesh.size and topology.is_tpu:
        sampling_mesh = _on_one_host(sampling_mesh, topology)
    return Placement(config, planned.model, mesh, sampling_mesh)


def _on_one_host(mesh: Mesh, topology: Topology) -> Mesh:
    """The same mesh over the devices of a host that stands alone.

    The compiler takes no program for a part of a large slice: on a v5e of 8x8 or more, not even
    for two of its chips.
    """
    sizes = ["2", "2", "1"][: topology.accelerator.dimensions]
    alone = find_topology(f"{topology.kind}:{'x'.join(sizes)}")
    if alone.count != mesh.size:
        return mesh
    devices = np.asarray(alone.devices).reshape(mesh.devices.shape)
    return Mesh(devices, sharding.MESH_AXES, axis_types=(AxisType.Auto,) * devices.ndim)


def across_hosts(mesh: Mesh, topology: Topology) -> frozenset[str]:
    """Returns the mesh axes whose neighbours are on several hosts, where that is slower: GPUs."""
    if topology.is_tpu:
        return frozenset()
    hosts = np.vectorize(lambda device: device.process_index)(mesh.devices)
    is_far = [(hosts != np.take(hosts, [0], axis)).any() for axis in range(hosts.ndim)]
    return frozenset(axis for axis, far in zip(sharding.MESH_AXES, is_far, strict=True) if far)


def meshes(config: Config, planned: PlannedModel, topology: Topology) -> list[Config]:
    """Returns the config with every mesh of the topology that can share the model and all rows."""
    count = topology.count
    sizes = [size for size in range(1, count + 1) if count % size == 0]
    found = []
    for data, fsdp, tensor in itertools.product(sizes, repeat=3):
        if math.prod((data, fsdp, tensor)) != count or tensor > 16:
            continue
        changes = {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
        other = config.changed(changes)
        if _is_possible(other, planned, topology):
            found.append(other)
    return found


def _is_possible(config: Config, planned: PlannedModel, topology: Topology) -> bool:
    try:
        place(config, planned, topology)
    except UserError:
        return False
    return True
