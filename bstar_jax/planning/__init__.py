"""Whether a run fits devices that need not be there, and how fast it could be.

    config + topology -> the run laid out on devices             (topologies, models, placement)
                      -> every program of the run, by its room   (sharding.program)
                      -> what a device holds while it runs       (memory)
                      -> compiled, or estimated where it cannot  (compiling, reports)
                      -> the least time of its work              (hlo, roofline)
                      -> what fits, what is best, what would fit (search)
                      -> tables and JSON                         (plan, tables)

`memory` needs no compiler, so that a run that opens can ask it too.
"""

from bstar_jax.planning.plan import Plan, plan
from bstar_jax.planning.reports import ReportCache
from bstar_jax.planning.tables import show, to_json
from bstar_jax.planning.topologies import ACCELERATORS, Topology, find_topology

__all__ = [
    "ACCELERATORS",
    "Plan",
    "ReportCache",
    "Topology",
    "find_topology",
    "plan",
    "show",
    "to_json",
]
