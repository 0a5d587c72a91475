"""What a run is measured by: estimators from n responses a query, and figures of a classifier.

metrics.pass_at_k([4, 4], [1, 3], 2)  ->  [0.5, 1.0]
"""

from bstar_jax.metrics.classification import auc, reliability
from bstar_jax.metrics.estimators import (
    diversity,
    majority_at_k,
    pass_at_k,
    pass_at_k_s,
    reward_at_k_s,
)
from bstar_jax.metrics.micro import MICRO, to_micro
from bstar_jax.metrics.summary import summarize

__all__ = [
    "MICRO",
    "auc",
    "diversity",
    "majority_at_k",
    "pass_at_k",
    "pass_at_k_s",
    "reliability",
    "reward_at_k_s",
    "summarize",
    "to_micro",
]
