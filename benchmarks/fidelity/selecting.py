"""Rewards, selection and balance score from a run's stored rows; used by `recompute`.

NumPy, pyarrow and the standard library alone: nothing here comes from the package, so that
agreement means something.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.fidelity import counting

MOST_REFERENCE_CAP = 64
Row = dict[str, Any]  # of a Parquet file
Group = list[Row]  # the rows of one query


def balance_score(
    correct_QN: np.ndarray, selected_QN: np.ndarray, target: int, *, covered_only: bool
) -> float:
    """The mean over queries of min(n'/n*, 1) * n'/n, rounded to 1e-6."""
    right_Q = (correct_QN & selected_QN).sum(axis=1)
    kept_Q = selected_QN.sum(axis=1)
    score_Q = np.minimum(right_Q / target, 1) * right_Q / np.maximum(kept_Q, 1)
    counted_Q = kept_Q > 0 if covered_only else np.ones(len(kept_Q), bool)
    mean = score_Q[counted_Q].mean() if counted_Q.any() else 0.0
    # To 12 digits first: float64 may hold an exact half slightly below or above it.
    return float(np.round(np.round(mean, 12), 6))


def reward_micro(row: Row, weight: float) -> int:
    """The reward in millionths: the score, and the weighted process reward (0 if none)."""
    # Where grading broke the score is null and nothing is correct; earlier versions have no scores.
    score = row.get("score")
    score = float(row["correct"]) if score is None else score
    return round((score + weight * (row["process_reward"] or 0.0)) * 1e6)


def errors(rows: Sequence[Row]) -> int:
    """How many responses could not be graded."""
    broken = ("error", "timeout")
    return sum(row.get("score", 0.0) is None and row["reason"] in broken for row in rows)


def select(
    rows: Sequence[Row], threshold: float, weight: float, cap: int, rules: str
) -> np.ndarray:
    """Which of one query's rows training uses, in one cell: a boolean a row."""
    micro = [reward_micro(row, weight) for row in rows]
    above = round(threshold * 1e6)
    texts = [row["response"].strip() for row in rows]
    firsts = {row["repeat_key"]: index for index, row in reversed(list(enumerate(rows)))}
    order = [
        index
        for index, row in enumerate(rows)
        if row["answer"] is not None and row["finish_reason"] == "stop" and micro[index] > above
    ]
    order.sort(key=lambda index: (-micro[index], hashlib.sha256(texts[index].encode()).digest()))
    first = [index for index in order if firsts[rows[index]["repeat_key"]] == index]
    if rules == "paper":
        chosen = first[: cap or None]
    else:  # repeats use up the cap; of equal rewards and texts the sort kept the order
        chosen = sorted(set(order[: cap or None]) & set(first))
    return np.isin(np.arange(len(rows)), chosen)


def read_rows(file: pathlib.Path, config: dict[str, Any]) -> Group:
    """Rows of a Parquet file as dicts, with what makes a repeat in `repeat_key`."""
    rows = pq.ParquetFile(file).read().to_pylist()
    task, distinct = config["task"]["name"], config["balance"]["distinct"]
    for row in rows:
        text = row["response"].strip()
        row["equations"] = counting.equations(task, text)
        row["repeat_key"] = text if distinct == "text" else tuple(row["equations"])
    return rows


def by_query(rows: Sequence[Row]) -> list[Group]:
    """Rows of each query, in the order of the file."""
    queries = defaultdict(list)
    for row in rows:
        queries[row["query_id"]].append(row)
    return list(queries.values())


def as_arrays(
    groups: Sequence[Group], masks: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Correct and selected as [Q, N]; entries without a row are False."""
    shape = (len(groups), max(map(len, groups)))
    correct_QN, selected_QN = np.zeros(shape, bool), np.zeros(shape, bool)
    for query, (rows, mask) in enumerate(zip(groups, masks, strict=True)):
        correct_QN[query, : len(rows)] = [row["correct"] for row in rows]
        selected_QN[query, : len(rows)] = mask
    return correct_QN, selected_QN


def score(groups: Sequence[Group], masks: Sequence[np.ndarray], config: dict[str, Any]) -> float:
    """The balance score of what the masks select."""
    settings = config["balance"]
    arrays = as_arrays(groups, masks)
    covered_only = settings["rules"] == "reference"
    return balance_score(*arrays, settings["target_correct"], covered_only=covered_only)


def select_all(
    groups: Sequence[Group],
    config: dict[str, Any],
    threshold: float,
    weight: float,
    cap: int | None = None,
) -> list[np.ndarray]:
    """`select` of every query; by default with the config's cap."""
    settings = config["balance"]
    most: int = settings["cap"] if cap is None else cap
    return [select(rows, threshold, weight, most, settings["rules"]) for rows in groups]


def reference_filter(
    groups: Sequence[Group], weight: float, config: dict[str, Any]
) -> tuple[float, int]:
    """Threshold and cap, chosen again on the generated responses as rules="reference" wants."""
    target, candidates = config["balance"]["target_total"], []
    for threshold in config["calibrate"]["thresholds"]:
        cap, masks = 0, list[np.ndarray]()
        while cap < MOST_REFERENCE_CAP and sum(mask.sum() for mask in masks) < target:
            cap += 1
            masks = select_all(groups, config, threshold, weight, cap)
        candidates.append((score(groups, masks, config), threshold, cap))
    _, threshold, cap = max(candidates, key=lambda candidate: candidate[0])  # the first of equals
    return threshold, cap
