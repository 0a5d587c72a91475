"""Several processes that make one run: how they start, keep an eye on each other, and end.

Each host runs the same program (`cluster` finds the others, `jax.distributed` joins the devices).
What crosses hosts beside the devices' own exchanges is small and goes through `team`, and so does
the news that a process is gone. Whatever is large is a file in the run directory.
"""

from bstar_jax.processes.cluster import Cluster, find
from bstar_jax.processes.joining import define_flags, join
from bstar_jax.processes.stopping import StopRequest
from bstar_jax.processes.team import ALONE, Team

__all__ = ["ALONE", "Cluster", "StopRequest", "Team", "define_flags", "find", "join"]
