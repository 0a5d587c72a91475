"""The least time that a program takes, from its work and the peak rates of a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from bstar_jax.planning.topologies import Accelerator
from bstar_jax.sharding import Cost


@dataclasses.dataclass(frozen=True)
class LeastTime:
    """The least seconds of one run of a program, or of one decode step, at peak rates.

    Attributes:
      compute: Seconds of matrix products.
      memory: Seconds of reading and writing main memory.
      exchange: Seconds of receiving from other devices, one mesh axis after another.
    """

    compute: float
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        """The longest of the three, which perfect overlap would reach."""
        return max(self.compute, self.memory, self.exchange)

    @property
    def bound(self) -> str:
        """The name of the longest."""
        parts = dataclasses.asdict(self)
        return max(parts, key=lambda name: parts[name])


def least_time(
    cost: Cost, accelerator: Accelerator, across_hosts: Collection[str] = ()
) -> LeastTime:
    """Computes the roofline of a program.

    Args:
      cost: Its work.
      accelerator: The device.
      across_hosts: Mesh axes that reach over several hosts, where that is slower.
    """
    exchange = sum(
        each.received
        / (accelerator.outside if set(across_hosts) & set(each.axes) else accelerator.link)
        for each in cost.collectives
    )
    return LeastTime(cost.flops / accelerator.flops, cost.bytes / accelerator.hbm, exchange)
