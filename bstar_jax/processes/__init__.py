"""Several processes that make up one run: how they start, watch each other, and end.

Each host runs the same program. `cluster` finds the other processes, and `jax.distributed` joins
the devices. Besides what devices exchange, only small values cross hosts. They go through `team`,
as does the news that a process is gone. Whatever is large is a file in the run directory.
"""

from bstar_jax.processes.cluster import Cluster, find_cluster
from bstar_jax.processes.joining import join
from bstar_jax.processes.stopping import StopRequest
from bstar_jax.processes.team import ALONE, Team

__all__ = ["ALONE", "Cluster", "StopRequest", "Team", "find_cluster", "join"]
