"""Figures: what a model can do, and how well a score tells right from wrong."""

from bstar_jax.metrics.estimators import (
    MICRO,
    auc,
    calibration,
    diversity,
    majority_at_k,
    pass_at_k,
    pass_at_k_s,
    reward_at_k_s,
    summarize,
    to_micro,
)

__all__ = [
    "MICRO",
    "auc",
    "calibration",
    "diversity",
    "majority_at_k",
    "pass_at_k",
    "pass_at_k_s",
    "reward_at_k_s",
    "summarize",
    "to_micro",
]
