"""Whether a run fits devices that need not be there, and how fast it could be.

    config + topology -> every program of the run, by shapes alone      (loads, programs)
                      -> what lies on a device while it runs            (moments)
                      -> compiled, or reckoned where nothing compiles   (compiling, arithmetic)
                      -> products, traffic, exchanges; least time       (hlo, work, compiling)
                      -> what fits, what is best, what would fit        (search)

Axes beside the project's: t, f, d the sizes of the mesh axes tensor, fsdp and data.
"""

from bstar_jax.planning.chips import CHIPS, Topology, find
from bstar_jax.planning.store import Store
from bstar_jax.planning.tables import show, to_json
from bstar_jax.planning.whole import Plan, plan

__all__ = ["CHIPS", "Plan", "Store", "Topology", "find", "plan", "show", "to_json"]
