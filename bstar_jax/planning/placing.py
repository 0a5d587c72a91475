"""A config on a topology: its mesh, the devices on which one process samples, its programs."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from jax.sharding import AxisType, Mesh

from bstar_jax import sharding
from bstar_jax.config import Config, UserError
from bstar_jax.planning import chips
from bstar_jax.planning.chips import Topology
from bstar_jax.planning.programs import Programs
from bstar_jax.planning.published import Shape


@dataclasses.dataclass(frozen=True)
class Absent:
    """A GPU that is not there: enough of a device for a mesh, and nothing compiles for it."""

    id: int
    process_index: int
    device_kind: str
    platform: str = "gpu"


def devices_of(topology: Topology) -> list:
    """The devices of a topology, in the order of their hosts."""
    if topology.is_tpu:
        return list(topology.devices)
    return [
        Absent(place, place // topology.a_host, topology.kind) for place in range(topology.count)
    ]


def place(config: Config, shape: Shape, topology: Topology) -> Programs:
    """The programs of a config on a topology.

    Raises:
      UserError: If the mesh does not multiply to the devices, or cannot share the model or rows.
    """
    mesh = sharding.make_mesh(config.mesh, devices_of(topology))
    sharding.check_model(mesh, shape.model)
    sharding.check_batches(mesh, config)
    site = sharding.sampling_site(mesh, config.mesh.sampling, 0).mesh
    if site.size < mesh.size and topology.is_tpu:
        site = _of_one_host(site, topology)
    return Programs(config, shape.model, mesh, site)


def _of_one_host(site: Mesh, topology: Topology) -> Mesh:
    """The same mesh over the devices of a host that stands alone.

    The compiler takes no part of a large slice: of a v5e of 8x8 or more, no two of its chips.
    """
    alone = chips.find(f"{topology.kind}:{'x'.join(['2', '2', '1'][: topology.chip.dimensions])}")
    if alone.count != site.size:
        return site
    devices = np.asarray(alone.devices).reshape(site.devices.shape)
    return Mesh(devices, sharding.MESH_AXES, axis_types=(AxisType.Auto,) * devices.ndim)


def mesh_of(programs: Programs) -> tuple[int, int, int]:
    """(data, fsdp, tensor) of the mesh."""
    return tuple(programs.mesh.shape[axis] for axis in sharding.MESH_AXES)


def across_hosts(mesh: Mesh, topology: Topology) -> frozenset[str]:
    """Mesh axes along which neighbours are on several hosts, where that is slower: of GPUs."""
    if topology.is_tpu:
        return frozenset()
    hosts = np.vectorize(lambda device: device.process_index)(mesh.devices)
    reach = [(hosts != np.take(hosts, [0], axis)).any() for axis in range(hosts.ndim)]
    return frozenset(axis for axis, far in zip(sharding.MESH_AXES, reach, strict=True) if far)


def meshes(config: Config, shape: Shape, topology: Topology) -> list[Config]:
    """The config on every mesh of the topology that can share the model and all rows."""
    count = topology.count
    sizes = [size for size in range(1, count + 1) if count % size == 0]
    found = []
    for data, fsdp, tensor in itertools.product(sizes, repeat=3):
        if math.prod((data, fsdp, tensor)) != count or tensor > 16:
            continue
        mesh = dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)
        other = dataclasses.replace(config, mesh=mesh)
        if _is_possible(other, shape, topology):
            found.append(other)
    return found


def _is_possible(config: Config, shape: Shape, topology: Topology) -> bool:
    try:
        place(config, shape, topology)
    except UserError:
        return False
    return True
