"""A request to stop: SIGTERM, as clusters send it before they take a machine away."""

from __future__ import annotations

import signal

from jax.experimental import multihost_utils

from bstar_jax.config.errors import Preempted
from bstar_jax.processes.team import ALONE, Team

STATE_IS_SAVED = "the state is saved; the same command goes on from here"


class StopRequest:
    """Whether to stop soon; phases look at it where their state is whole.

    Attributes:
      is_set: Whether it was seen; of several processes, by all at the same look.
    """

    def __init__(self, team: Team = ALONE):
        """Nothing listens yet.

        Args:
          team: The processes that stop together.
        """
        self.is_set = False
        self._team, self._looks = team, 0

    def listen(self) -> None:
        """Takes over SIGTERM. Of several processes JAX has done so, and tells the others."""
        if self._team.count == 1:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "is_set", True))

    def look(self) -> bool:
        """Looks whether to stop.

        Several processes must look equally often: a signal to any of them counts from the first
        look that none has done yet, so that all stop at the same place.
        """
        if self._team.count > 1:
            self._looks += 1
            self.is_set |= multihost_utils.reached_preemption_sync_point(self._looks)
        return self.is_set

    def check(self) -> None:
        """Raises `Preempted` if the processes were asked to stop; counts as a look.

        Raises:
          Preempted: After SIGTERM.
        """
        if self.look():
            raise Preempted(STATE_IS_SAVED)
