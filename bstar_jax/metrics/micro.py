"""Rewards and thresholds as whole numbers of 1e-6, so that every machine compares them alike."""

import numpy as np
from numpy.typing import ArrayLike

MICRO = 1_000_000  # micro-units in one unit of reward
_LARGEST_REWARD = 1000.0  # keeps every difference of two rewards inside int32


def to_micro(value: ArrayLike) -> np.ndarray:
    """Rounds rewards or thresholds to 1e-6, as int32 counts of micro-units.

        micro = rint(float64(value) * 1e6), halves to even

    This runs on the host, in float64, and is the only rounding of rewards in the project. What
    devices compare, what files store (`micro / 1e6`) and what a script recomputes with
    `np.round(reward, 6)` are therefore the same numbers.

    Example: to_micro([0.1 + 0.2, 0.3, -0.5]) -> [300000, 300000, -500000].

    Args:
      value: A number or an array of any shape, in [-1000, 1000].

    Raises:
      ValueError: If a value is not finite or lies outside the range.
    """
    exact = np.asarray(value, dtype=np.float64)
    allowed = np.abs(exact) <= _LARGEST_REWARD  # False for NaN
    if not allowed.all():
        raise ValueError(
            f"reward or threshold {exact[~allowed].ravel()[0]} is not a number in "
            f"[-{_LARGEST_REWARD:g}, {_LARGEST_REWARD:g}]; give 0 where no reward was computed"
        )
    return np.rint(exact * MICRO).astype(np.int32)
