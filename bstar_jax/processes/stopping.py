"""A request to stop: SIGTERM, which clusters send before they take a machine away."""

from __future__ import annotations

import signal

from jax.experimental import multihost_utils

from bstar_jax.config.errors import Preempted
from bstar_jax.processes.team import ALONE, Team

STATE_IS_SAVED = "the state is saved; the same command goes on from here"


class StopRequest:
    """Whether to stop soon. Phases look at it where their state is complete.

    Attributes:
      is_set: Whether the request was seen; several processes all see it at the same look.
    """

    def __init__(self, team: Team = ALONE):
        """Makes a request that is not set; `listen` comes next.

        Args:
          team: The processes that stop together.
        """
        self.is_set = False
        self._team, self._looks = team, 0

    def listen(self) -> None:
        """Handles SIGTERM. With several processes JAX does so already, and tells the others."""
        if self._team.count == 1:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "is_set", True))

    def look(self) -> bool:
        """Looks whether to stop.

        All processes must look equally often. A signal to any of them counts from the first look
        that no process has done yet, so that all stop at the same point.
        """
        if self._team.count > 1:
            self._looks += 1
            self.is_set |= multihost_utils.reached_preemption_sync_point(self._looks)
        return self.is_set

    def check(self) -> None:
        """Raises `Preempted` if the processes were asked to stop; this counts as a look.

        Raises:
          Preempted: After SIGTERM.
        """
        if self.look():
            raise Preempted(STATE_IS_SAVED)
