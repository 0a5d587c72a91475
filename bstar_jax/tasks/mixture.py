"""Several sources in one run: how many queries each gives, and one task of them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bstar_jax.config import SourceConfig
from bstar_jax.records import SPLITS
from bstar_jax.tasks.task import LoadedTask


def shares_of(sources: Mapping[str, SourceConfig], counts: Mapping[str, int]) -> dict[str, float]:
    """Returns each source's share of the queries: as set, or in proportion to what it has.

    Args:
      sources: The settings by name.
      counts: The queries that each source has.
    """
    given = {name: source.share for name, source in sources.items()}
    if any(given.values()):
        return given
    total = sum(counts.values())
    return {name: counts[name] / total for name in sources}


def divide(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divides a count by shares, by largest remainders; equal ones go by name.

    Example: 10 by {"a": 0.5, "b": 0.25, "c": 0.25} -> 5, 3, 2.
    """
    exact = {name: count * share for name, share in shares.items()}
    whole = {name: int(value + 1e-9) for name, value in exact.items()}
    left = count - sum(whole.values())
    by_remainder = sorted(shares, key=lambda name: (round(whole[name] - exact[name], 9), name))
    return {name: whole[name] + (name in by_remainder[:left]) for name in shares}


def mixed(parts: Mapping[str, LoadedTask], shares: Mapping[str, float]) -> LoadedTask:
    """Makes one task of several sources; the id of every query begins with its source's name.

    Args:
      parts: The loaded sources by name, each with the queries that it gives.
      shares: Their shares.
    """
    splits = {
        split: tuple(
            dataclasses.replace(query, query_id=f"{name}/{query.query_id}")
            for name, part in parts.items()
            for query in part.splits[split]
        )
        for split in SPLITS
    }
    places = {
        f"{name}/{query_id}": place
        for name, part in parts.items()
        for query_id, place in part.places.items()
    }
    return LoadedTask(
        "+".join(parts),
        splits,
        {name: source for part in parts.values() for name, source in part.sources.items()},
        places=places,
        notes=tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes),
        left_out=tuple(record for part in parts.values() for record in part.left_out),
        functions={name: each for part in parts.values() for name, each in part.functions.items()},
        shares=shares,
    )
