"""Finds the processes of a run: from flags, or from what SLURM, Cloud TPU or GKE set.

flags       --coordinator=HOST:PORT --processes=N --process=I
SLURM       a job step of several tasks, which `srun` numbers
Cloud TPU   the workers of one or several slices, which find each other by their metadata, on GKE
            by environment variables
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bstar_jax.config import UserError

# SLURM reserves no port: all tasks of a job derive the same one of the upper 4096 from its number.
_FIRST_PORT, _PORTS = 61440, 4096


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Arguments of `jax.distributed.initialize`.

    Attributes:
      coordinator: HOST:PORT of process 0; "" where JAX finds everything by itself.
      count: Number of processes; 0 where JAX finds everything by itself.
      index: Number of this process, from 0.
    """

    coordinator: str = ""
    count: int = 0
    index: int = 0


def find_cluster(
    kind: str, coordinator: str, count: int | None, index: int | None, environ: Mapping[str, str]
) -> Cluster | None:
    """Finds the processes that this one belongs to.

    Args:
      kind: One of `config.door.CLUSTER_KINDS`.
      coordinator: HOST:PORT of process 0 as given by a flag, or "".
      count: Number of processes as given by a flag, or None.
      index: Number of this process as given by a flag, or None.
      environ: Environment variables.

    Returns:
      The cluster, or None where this process is alone.

    Raises:
      UserError: If the flags contradict each other, or the environment lacks what they ask for.
    """
    given = {"--coordinator": coordinator or None, "--processes": count, "--process": index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) < len(given):
        if count is None or index is None or missing or kind != "auto":
            problem = (
                f"without {' and '.join(missing)}" if missing else f"with --distributed={kind}"
            )
            raise UserError(
                f"flags name processes {problem}; give --coordinator=HOST:PORT, --processes=N and "
                "--process=I, all three and nothing else, or none of them"
            )
        return _checked(Cluster(coordinator, count, index))
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "")
    if kind == "slurm" or (kind == "auto" and tasks.isdecimal() and int(tasks) > 1):
        return _slurm(environ)
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "")
    has_slices = "MEGASCALE_COORDINATOR_ADDRESS" in environ
    if kind == "tpu" or (kind == "auto" and ("," in hosts or has_slices)):
        return Cluster()
    return None


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    missing = [name for name in names if not environ.get(name)]
    if missing:
        raise UserError(
            f"--distributed=slurm, but {', '.join(missing)} is not set; start the command with "
            "srun, which sets it, or use --coordinator, --processes and --process"
        )
    job, nodes, count, index = (environ[name] for name in names)
    port = _FIRST_PORT + int(job) % _PORTS
    cluster = _checked(Cluster(f"{first_node(nodes)}:{port}", int(count), int(index)))
    return cluster if cluster.count > 1 else None


def first_node(nodes: str) -> str:
    """The first node of a list as SLURM writes it.

    Example: "gpu[007-010,12],login1" -> "gpu007".
    """
    end = min((nodes.find(mark) for mark in ",[" if mark in nodes), default=len(nodes))
    if nodes[end : end + 1] != "[":
        return nodes[:end]
    inside, _, after = nodes[end + 1 :].partition("]")
    number = inside.replace(",", "-").partition("-")[0]
    return nodes[:end] + number + after.partition(",")[0]


def _checked(cluster: Cluster) -> Cluster:
    host, _, port = cluster.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator is {cluster.coordinator!r}; it takes the address of process 0, such "
            "as 10.0.0.5:8476"
        )
    if not 0 <= cluster.index < cluster.count:
        raise UserError(
            f"--process is {cluster.index} of --processes={cluster.count}; processes count from 0 "
            f"to {max(cluster.count - 1, 0)}"
        )
    return cluster
