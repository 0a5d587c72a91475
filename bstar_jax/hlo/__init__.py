"""What a compiled program does, read from its text (HLO).

`parsing` reads the instructions and how often each runs, `cost` counts products and memory
traffic, `collectives` the exchanges between devices.
"""

from bstar_jax.hlo.cost import cost_of

__all__ = ["cost_of"]
