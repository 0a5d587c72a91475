"""Divides the queries of a source into splits.

Without a held-out file, held-out queries are drawn from train: queries are ordered by the SHA-256
of (seed, query id); the first are held out, the next are for calibration unless that has a file,
the rest are train, and the first of these with a human solution are the examples for warm-up.

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
from bstar_jax.tasks.layout import Files, SplitFiles
from bstar_jax.tasks.reading import Queries


def split_queries(
    found: Queries, layout: SplitFiles, seed: int, sizes: Mapping[str, int], path: str
) -> tuple[dict[str, tuple[Query, ...]], tuple[Query, ...]]:
    """Divides queries into the four splits.

    Args:
      found: The queries of the files.
      layout: The files, for messages.
      seed: Decides the order.
      sizes: Number of queries that "heldout", "calibration", "sft" and "shots" take.
      path: The file or folder, for messages.

    Returns:
      The splits by name, and the queries that every prompt shows solved.

    Raises:
      UserError: If there are too few queries, or too few with a solution.
    """
    rest = _shuffled(found.train, seed)
    needs = {"train": max(sizes["sft"], 1)} | ({"shots": sizes["shots"]} if sizes["shots"] else {})
    parts: dict[str, list[Query]] = {}
    cut: dict[str, int] = {}  # what is taken from train
    of_files = {
        "heldout": (found.heldout, layout.heldout),
        "calibration": (found.calibration, layout.calibration),
    }
    for name, (queries, files) in of_files.items():
        if queries is None:
            cut[_WORDS[name]] = sizes[name]
            parts[name], rest = rest[: sizes[name]], rest[sizes[name] :]
        else:
            _check_count(_described(files, path), queries, {_WORDS[name]: sizes[name]}, found)
            parts[name] = _shuffled(queries, seed)[: sizes[name]]
    _check_count(path, found.train, cut | needs, found)
    solved = [query for query in rest if query.solution]
    sft, shots = sizes["sft"], sizes["shots"]
    _check_solutions(len(solved), len(rest), sft, shots)
    shown = solved[len(solved) - shots :]
    shown_ids = {query.query_id for query in shown}
    parts["train"] = [query for query in rest if query.query_id not in shown_ids]
    parts["sft"] = solved[:sft]
    splits = {
        name: tuple(dataclasses.replace(query, split=name) for query in parts[name])
        for name in SPLITS
    }
    return splits, tuple(shown)


_WORDS = {"heldout": "held-out", "calibration": "calibration"}


def _described(files: Files | None, path: str) -> str:
    return str(files[0]) if files and len(files) == 1 else f"{path}: the files of this split"


def _check_count(
    path: str, queries: Sequence[Query], needs: Mapping[str, int], found: Queries
) -> None:
    total = sum(needs.values())
    if len(queries) < total:
        listed = " + ".join(f"{count} {name}" for name, count in needs.items())
        notes = "".join(f"; {note}" for note in found.notes)
        raise UserError(
            f"{path} has {len(queries)} records, but {total} are needed ({listed}); lower "
            "monitor.queries, calibrate.queries, sft.examples or task.shots, or give a longer file"
            f"{notes}"
        )


def _check_solutions(solved: int, records: int, sft: int, shots: int) -> None:
    if solved >= sft + shots:
        return
    asked = {"sft.examples": sft, "task.shots": shots}
    listed = " and ".join(f"{name} is {count}" for name, count in asked.items() if count)
    found = f"{solved} of {records} train records have solutions" if solved else ""
    raise UserError(
        f"{listed}, but {found or 'the records have no solutions'}; task file reads them from "
        "the field that task.fields.solution names, and nothing needs them with sft.examples=0, "
        "sft.steps=0 and task.shots=0"
    )


def _shuffled(queries: Sequence[Query], seed: int) -> list[Query]:
    """Orders queries by their ids and the seed."""
    return sorted(
        queries,
        key=lambda query: hashlib.sha256(f"{seed}/{query.query_id}".encode()).digest(),
    )
