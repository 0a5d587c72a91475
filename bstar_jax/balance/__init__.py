"""The balance score: what to sample with, and what to keep (B-STaR, arXiv:2412.17256).

A *cell* is a temperature, a top-k, a threshold and a process weight. In every cell the
calibration responses are rewarded, selected as training would select them, and scored:

    reward = score + process_weight * process_reward
    selected: the best `cap` of a query's distinct texts with reward > threshold
    score of query q = min(n'_q / n*, 1) * n'_q / n_q
    objective = mean of the scores over queries

and the cell with the highest objective is chosen. A paired bootstrap over queries says how
certain that choice is. `score` has the score, `selection` what is kept, `surface` the grid
search, `rules` the points in which the authors' code differs from the paper.

Everything that decides is an integer: rewards and thresholds are counts of 1e-6, and scores are
sums of exact binary digits. So a choice depends neither on the order of the queries, nor on how
the work is divided into blocks, nor on the backend.

`rules="reference"` follows the authors' code where it differs from the paper: the mean is over
queries with something selected, repeats are removed after the cap, and threshold and cap are
chosen again on the generated responses (`choose_filter`).

Axes besides the project's: R resamples, I digits, C slabs (a slab is one temperature, top-k and
process weight with all its thresholds), M first ranks, J caps tried.
"""

from bstar_jax.balance.rules import RULES, Rules
from bstar_jax.balance.score import balance_score, objective
from bstar_jax.balance.selection import GradedResponses, choose_filter, rewards, select
from bstar_jax.balance.surface import Choice, Grid, Surface, balance_surface, bootstrap_counts
from bstar_jax.metrics import MICRO, to_micro

__all__ = [
    "MICRO",
    "RULES",
    "Choice",
    "GradedResponses",
    "Grid",
    "Rules",
    "Surface",
    "balance_score",
    "balance_surface",
    "bootstrap_counts",
    "choose_filter",
    "objective",
    "rewards",
    "select",
    "to_micro",
]
