"""Divides the queries of a file into splits.

Without a test file, held-out queries are drawn from the train file: queries are ordered by the
SHA-256 of (seed, query id); the first are held out, the next are for calibration, the rest are
train, and the first of these with a human solution are the examples for warm-up.

Examples that every prompt shows (shots) are taken from the end of train, where a query is neither
held out nor an example for warm-up. So no query is shown its own solution, and the number of
shots changes no other split.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from bstar_jax.config import UserError
from bstar_jax.records import SPLITS, Query


def split_queries(
    train: Sequence[Query],
    test: Sequence[Query] | None,
    seed: int,
    sizes: Mapping[str, int],
    path: str,
) -> tuple[dict[str, tuple[Query, ...]], tuple[Query, ...]]:
    """Divides queries into the four splits.

    Args:
      train: Queries of the train file.
      test: Queries of the test file; None if there is no such file.
      seed: Decides the order.
      sizes: Number of queries that "heldout", "calibration", "sft" and "shots" take.
      path: The file or folder, for messages.

    Returns:
      The splits by name, and the queries that every prompt shows solved.

    Raises:
      UserError: If there are too few queries, or too few with a solution.
    """
    train = _shuffled(train, seed)
    heldout, calibration, sft, shots = (
        sizes[name] for name in ("heldout", "calibration", "sft", "shots")
    )
    needs = {"held-out": heldout, "calibration": calibration, "train": max(sft, 1)}
    if shots:
        needs["shots"] = shots
    if test is None:
        heldout_queries, rest = train[:heldout], train[heldout:]
    else:
        del needs["held-out"]
        _check_count(f"{path}/test.jsonl", len(test), {"held-out": heldout})
        heldout_queries, rest = _shuffled(test, seed)[:heldout], train
    _check_count(path, len(train), needs)
    left = rest[calibration:]
    solved = [query for query in left if query.solution]
    _check_solutions(len(solved), len(left), sft, shots)
    shown = solved[len(solved) - shots :]
    shown_ids = {query.query_id for query in shown}
    kept = [query for query in left if query.query_id not in shown_ids]
    parts = (solved[:sft], kept, rest[:calibration], heldout_queries)
    splits = {
        name: tuple(dataclasses.replace(query, split=name) for query in queries)
        for name, queries in zip(SPLITS, parts, strict=True)
    }
    return splits, tuple(shown)


def _check_count(path: str, records: int, needs: Mapping[str, int]) -> None:
    total = sum(needs.values())
    if records < total:
        listed = " + ".join(f"{count} {name}" for name, count in needs.items())
        raise UserError(
            f"{path} has {records} records, but {total} are needed ({listed}); lower "
            "monitor.queries, calibrate.queries, sft.examples or task.shots, or give a longer file"
        )


def _check_solutions(solved: int, records: int, sft: int, shots: int) -> None:
    if solved >= sft + shots:
        return
    asked = {"sft.examples": sft, "task.shots": shots}
    listed = " and ".join(f"{name} is {count}" for name, count in asked.items() if count)
    found = f"{solved} of {records} train records have solutions" if solved else ""
    raise UserError(
        f"{listed}, but {found or 'the records have no solutions'}; task jsonl reads them from "
        "the field that task.fields.solution names, and nothing needs them with sft.examples=0, "
        "sft.steps=0 and task.shots=0"
    )


def _shuffled(queries: Sequence[Query], seed: int) -> list[Query]:
    """Orders queries by their ids and the seed."""
    return sorted(
        queries,
        key=lambda query: hashlib.sha256(f"{seed}/{query.query_id}".encode()).digest(),
    )
