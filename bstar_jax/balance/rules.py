"""Whose rules select and score: one record for each value of `balance.rules`.

A rule that differs in these points is one more entry of `RULES`, and one more choice of the
setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Rules:
    """How responses are selected, and over which queries scores are averaged.

    Attributes:
      repeats_use_cap: Whether repeats of a text are removed after the cap, so that they use it up;
        else before.
      averages_covered_queries: Whether the mean is over the queries with something selected; else
        over all queries.
      chooses_filter_again: Whether threshold and cap are chosen again on the generated responses,
        see `choose_filter`.
    """

    repeats_use_cap: bool = False
    averages_covered_queries: bool = False
    chooses_filter_again: bool = False


RULES: Mapping[str, Rules] = {
    "paper": Rules(),
    "reference": Rules(
        repeats_use_cap=True, averages_covered_queries=True, chooses_filter_again=True
    ),
}
"""Name of the rules -> what they do. "reference" is the authors' code where it differs."""
