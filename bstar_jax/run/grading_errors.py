"""Responses whose grading broke: how many there may be, and grading them once more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from bstar_jax.config import UserError
from bstar_jax.records import Rollouts

_SOON = 256  # graded responses from which a share of them is telling


def is_broken(rollouts: Rollouts) -> np.ndarray:
    """Returns the rows whose grading itself broke or ran too long, bool."""
    columns = zip(rollouts.column("score"), rollouts.column("reason"), strict=True)
    return np.array([score is None and why in ("error", "timeout") for score, why in columns], bool)


@dataclasses.dataclass
class ErrorLimit:
    """Ends a phase in which grading breaks too often.

    Attributes:
      share: The setting `rewards.most_errors`.
      responses: Responses of the phase in all.
      graded: Responses that were graded so far.
      errors: Those of them whose grading broke.
    """

    share: float
    responses: int
    graded: int = 0
    errors: int = 0

    def add(self, rollouts: Rollouts) -> None:
        """Counts graded rows.

        Raises:
          UserError: If too many broke, of the phase or of those graded so far.
        """
        broken = is_broken(rollouts)
        self.graded += len(rollouts)
        self.errors += int(broken.sum())
        few = self.graded < _SOON and self.errors <= self.share * self.responses
        if not broken.any() or few or self.errors <= self.share * self.graded:
            return
        first = int(np.argmax(broken))
        query_id, response, message = (
            rollouts.column(name)[first] for name in ("query_id", "response", "message")
        )
        raise UserError(
            f"grading broke for {self.errors} of {self.graded} responses; rewards.most_errors "
            f"allows {self.share:g} of them. Mend the reward, raise rewards.seconds if it runs too "
            "long, or raise rewards.most_errors; the same command then goes on (after a change of "
            f"the reward, with --accept=reward). A response to {query_id}:\n{response[:500]}\n"
            f"{message}"
        )


def graded_again(rollouts: Rollouts, grade: Callable[[Rollouts], Rollouts]) -> Rollouts:
    """Grades the rows once more whose grading broke, and leaves all others as they are."""
    broken = is_broken(rollouts)
    again = grade(rollouts.filter(broken))
    places = np.empty(len(rollouts), np.int64)
    places[~broken] = np.arange(len(rollouts) - broken.sum())
    places[broken] = len(rollouts) - broken.sum() + np.arange(broken.sum())
    parts = Rollouts.concatenate([rollouts.filter(~broken), again])
    return Rollouts(parts.table.take(places), rollouts.seconds)
