"""Rollouts as arrays: what selection and the estimators see of the stored rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from bstar_jax import balance, metrics
from bstar_jax.records import Rollouts
from bstar_jax.tasks import Task


def group(rollouts: Rollouts, names: Sequence[str]) -> np.ndarray:
    """A number for every row, equal where all the named columns are, in order of appearance."""
    numbers = {}
    columns = [rollouts.column(name) for name in names]
    return np.array([numbers.setdefault(key, len(numbers)) for key in zip(*columns, strict=True)])


def texts(task: Task, rollouts: Rollouts, distinct: str) -> list[str]:
    """What tells repeats apart: the stripped response, or the equations it writes.

    Args:
      task: Reads the equations.
      rollouts: The rows.
      distinct: "text" or "equations", as `balance.distinct`.
    """
    responses = [response.strip() for response in rollouts.column("response")]
    if distinct == "text":
        return responses
    pairs = zip(rollouts.column("query_id"), responses, strict=True)
    return ["\n".join(task.equations(*pair)) for pair in pairs]


def first_of_equal(groups: np.ndarray, values: Sequence[str]) -> list[int]:
    """For each row the first row of its group with an equal value."""
    seen = {}
    return [
        seen.setdefault(key, row)
        for row, key in enumerate(zip(groups.tolist(), values, strict=True))
    ]


def _hash_ranks(responses: Sequence[str]) -> np.ndarray:
    """Place of each text's SHA-256 among those of all distinct texts, int32."""
    digests = {text: hashlib.sha256(text.encode()).digest() for text in set(responses)}
    ranks = {text: rank for rank, text in enumerate(sorted(digests, key=digests.__getitem__))}
    return np.array([ranks[text] for text in responses], np.int32)


def graded_responses(
    task: Task, rollouts: Rollouts, shape: Callable, *, distinct: str
) -> balance.GradedResponses:
    """Graded rows as selection sees them.

    Args:
      task: The task of the rows.
      rollouts: Graded rows; of equal texts the one that stands first has the lowest
        sample_index, so rows are sorted.
      shape: Turns a column [rows] and the value for places without a row into an array, such
        as `grid_shape` or `query_shape` give.
      distinct: What makes a repeat, as `balance.distinct`.
    """
    cells = group(rollouts, ["query_id", "temperature", "top_k"])
    first = first_of_equal(cells, texts(task, rollouts, distinct))
    answered = [answer is not None for answer in rollouts.column("answer")]
    stopped = [reason == "stop" for reason in rollouts.column("finish_reason")]
    responses = [response.strip() for response in rollouts.column("response")]
    return balance.GradedResponses(
        is_correct=shape(np.array(rollouts.column("correct"), bool), False),
        process_reward=shape(process_rewards(rollouts), 0.0),
        is_eligible=shape(np.logical_and(answered, stopped), False),
        is_first=shape(np.array(first) == np.arange(len(first)), False),
        tie_rank=shape(_hash_ranks(responses), 0),
    )


def process_rewards(rollouts: Rollouts) -> np.ndarray:
    """The process reward of every row, float32; rows without one count as 0."""
    values = rollouts.column("process_reward")
    return np.array([0.0 if value is None else value for value in values], np.float32)


def rewards(rollouts: Rollouts, process_weight: float) -> np.ndarray:
    """The reward of every graded row, float64, in whole millionths."""
    is_correct = np.array(rollouts.column("correct"), bool)
    micro = balance.rewards(is_correct, process_rewards(rollouts), process_weight)
    return micro / balance.MICRO


def grid_shape(temperatures: int, top_ks: int, samples: int) -> Callable:
    """Columns sorted by (query, temperature, top_k, sample) as [T, K, Q, N]."""

    def shape(column, _):
        grid_QTKN = column.reshape(-1, temperatures, top_ks, samples)
        return grid_QTKN.transpose(1, 2, 0, 3)

    return shape


def query_shape(rollouts: Rollouts) -> Callable:
    """Columns as [Q, N], N the most rows of any query; places left over take the fill."""
    queries = group(rollouts, ["query_id"])
    place = _places(queries)
    size = (int(queries.max()) + 1, int(place.max()) + 1) if len(queries) else (0, 0)

    def shape(column, fill):
        array_QN = np.full(size, fill, np.asarray(column).dtype)
        array_QN[queries, place] = column
        return array_QN

    return shape


def to_rows(rollouts: Rollouts, array_QN: np.ndarray) -> np.ndarray:
    """The inverse of `query_shape`: one value a row."""
    queries = group(rollouts, ["query_id"])
    return np.asarray(array_QN)[queries, _places(queries)]


def _places(queries: np.ndarray) -> np.ndarray:
    """Position of each row among its query's rows, in order."""
    order = np.argsort(queries, kind="stable")
    ordered = queries[order]
    starts = np.searchsorted(ordered, ordered)
    place = np.empty(len(queries), np.int64)
    place[order] = np.arange(len(queries)) - starts
    return place


def monitor_figures(
    task: Task, rollouts: Rollouts, *, ks: Sequence[int], s: int
) -> dict[str, float | None]:
    """The figures of the monitor phase from its stored rows, `greedy` included.

    Rows at temperature 0 are the greedy responses; all others are the samples.

    Raises:
      ValueError: If a query is without a result.
    """
    is_greedy = rollouts.array("temperature") == 0
    greedy, sampled = rollouts.filter(is_greedy), rollouts.filter(~is_greedy)
    shape = query_shape(sampled)
    queries = group(sampled, ["query_id"])
    responses = [response.strip() for response in sampled.column("response")]
    answers = sampled.column("answer")
    answer_id = np.array(first_of_equal(queries, answers))
    answer_id[[answer is None for answer in answers]] = -1
    correct = np.array(sampled.column("correct"), bool)
    found = [[] for _ in range(int(queries.max()) + 1)]
    rows = zip(queries, sampled.column("query_id"), responses, correct, strict=True)
    for query, query_id, response, is_correct in rows:
        if is_correct:
            found[query].extend(task.equations(query_id, response))
    figures = metrics.summarize(
        text_id_QN=shape(np.array(first_of_equal(queries, responses)), -1),
        answer_id_QN=shape(answer_id, -1),
        is_correct_QN=shape(correct, False),
        reward_QN=shape(sampled.array("reward"), 0.0),
        equations_by_query=found,
        ks=ks,
        s=s,
    )
    if len(greedy):
        figures["greedy"] = float(np.mean(np.array(greedy.column("correct"), float)))
    return figures
