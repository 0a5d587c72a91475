"""How well a score tells two classes apart, and how far a stated probability can be believed."""

import numpy as np
from numpy.typing import ArrayLike


def auc(scores: ArrayLike, is_positive: ArrayLike) -> float | None:
    """The chance that a random positive has a higher score than a random negative.

        AUC = P(score+ > score-) + P(score+ = score-) / 2

    Example: scores [0.1, 0.4, 0.4, 0.8], positives [F, F, T, T] -> 0.875.

    Args:
      scores: Finite numbers [N].
      is_positive: Their classes [N].

    Returns:
      A value in [0, 1]; 0.5 means that the score does not separate the classes. None where a
      class is empty.
    """
    scores, is_positive = np.asarray(scores, np.float64), np.asarray(is_positive, bool)
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return None
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks, from 1.
    rank = np.cumsum(counts) - (counts - 1) / 2
    above = rank[index][is_positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def reliability(
    probabilities: ArrayLike, outcomes: ArrayLike, bins: int = 10
) -> list[dict[str, float]]:
    """How often an event happened that was predicted with probability p, bin by bin.

    Args:
      probabilities: Predictions in [0, 1], [N].
      outcomes: What happened: 0, 1, or a share between them, [N].
      bins: Number of equal parts of [0, 1]; 1 belongs to the last.

    Returns:
      One record for every bin that is not empty, in order: `count`, the mean prediction as
      `predicted` and the mean outcome as `observed`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    outcomes = np.asarray(outcomes, np.float64)
    bin_index = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        {
            "count": int((bin_index == index).sum()),
            "predicted": float(probabilities[bin_index == index].mean()),
            "observed": float(outcomes[bin_index == index].mean()),
        }
        for index in np.unique(bin_index)
    ]
