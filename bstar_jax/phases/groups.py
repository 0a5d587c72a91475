"""Figures by source: the same figures of a phase, for the queries of each source alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bstar_jax.records import Rollouts
from bstar_jax.tasks import LoadedTask


def by_source(
    task: LoadedTask, rollouts: Rollouts, figures: Callable[[Rollouts], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Computes figures for the rows of each group of queries, see `LoadedTask.group`.

    Args:
      task: Says which group a query is in.
      rollouts: The rows of a phase.
      figures: Computes the figures of some of these rows.

    Returns:
      The figures by the name of the group, in the order of names; {} if there is one group alone,
      as its figures are those of all rows.
    """
    groups = [task.group(query_id) for query_id in rollouts.column("query_id")]
    names = sorted(set(groups))
    if len(names) < 2:
        return {}
    return {name: figures(rollouts.filter([group == name for group in groups])) for name in names}


def in_row(found: dict[str, dict[str, Any]]) -> dict[str, dict]:
    """Returns figures by source as a key of a metrics row; {} if there are none."""
    return {"by_source": found} if found else {}
