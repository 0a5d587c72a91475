"""Rollouts as arrays, in the form that selection and the estimators take."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from bstar_jax import balance, metrics
from bstar_jax.config import BalanceConfig
from bstar_jax.records import Rollouts
from bstar_jax.tasks import LoadedTask


def group(rollouts: Rollouts, names: Sequence[str]) -> np.ndarray:
    """Numbers the groups of rows with equal values in the named columns, in order of appearance.

    Returns:
      The number of its group for every row, from 0.
    """
    numbers = {}
    columns = [rollouts.column(name) for name in names]
    return np.array([numbers.setdefault(key, len(numbers)) for key in zip(*columns, strict=True)])


def texts(task: LoadedTask, rollouts: Rollouts, distinct: str) -> list[str]:
    """Returns the texts by which responses are compared: two are repeats if these are equal.

    Args:
      task: Reads the equations of a response.
      rollouts: The rows.
      distinct: As the setting `balance.distinct`: "text" gives the stripped response, "equations"
        the equations in it.
    """
    responses = [response.strip() for response in rollouts.column("response")]
    if distinct == "text":
        return responses
    pairs = zip(rollouts.column("query_id"), responses, strict=True)
    return ["\n".join(task.equations(*pair)) for pair in pairs]


def first_of_equal(groups: np.ndarray, values: Sequence[str]) -> list[int]:
    """Returns for each row the index of the first row in its group with an equal value."""
    seen = {}
    return [
        seen.setdefault(key, row)
        for row, key in enumerate(zip(groups.tolist(), values, strict=True))
    ]


def _hash_ranks(responses: Sequence[str]) -> np.ndarray:
    """Returns the rank of each text's SHA-256 among those of all distinct texts, int32."""
    digests = {text: hashlib.sha256(text.encode()).digest() for text in set(responses)}
    ranks = {text: rank for rank, text in enumerate(sorted(digests, key=digests.__getitem__))}
    return np.array([ranks[text] for text in responses], np.int32)


def graded_responses(
    task: LoadedTask, rollouts: Rollouts, shape: Callable, settings: BalanceConfig
) -> balance.GradedResponses:
    """Turns graded rows into the arrays that selection takes.

    Args:
      task: The task of the rows.
      rollouts: Graded rows, sorted by sample_index: the first of equal texts has the lowest.
      shape: Turns a column [rows], and the value for positions without a row, into an array.
        `grid_shape` and `query_shape` return such functions.
      settings: Says how responses are compared.
    """
    cells = group(rollouts, ["query_id", "temperature", "top_k"])
    first = first_of_equal(cells, texts(task, rollouts, settings.distinct))
    answered = [answer is not None for answer in rollouts.column("answer")]
    stopped = [reason == "stop" for reason in rollouts.column("finish_reason")]
    responses = [response.strip() for response in rollouts.column("response")]
    return balance.GradedResponses(
        is_correct=shape(np.array(rollouts.column("correct"), bool), False),
        process_reward=shape(process_rewards(rollouts), 0.0),
        is_eligible=shape(np.logical_and(answered, stopped), False),
        is_first=shape(np.array(first) == np.arange(len(first)), False),
        tie_rank=shape(_hash_ranks(responses), 0),
        score=shape(scores(rollouts), 0.0),
    )


def scores(rollouts: Rollouts) -> np.ndarray:
    """Returns the score of every row, float32.

    Where grading broke the score is null and counts as 0; in files of earlier versions it is null
    throughout, and a response was right or wrong.
    """
    columns = (rollouts.column(name) for name in ("score", "correct"))
    rows = zip(*columns, strict=True)
    return np.array([float(right) if score is None else score for score, right in rows], np.float32)


def process_rewards(rollouts: Rollouts) -> np.ndarray:
    """Returns the process reward of every row, float32; 0 for rows without one."""
    values = rollouts.column("process_reward")
    return np.array([0.0 if value is None else value for value in values], np.float32)


def rewards(rollouts: Rollouts, process_weight: float) -> np.ndarray:
    """Computes the reward of every graded row, float64, a multiple of 1e-6."""
    micro = balance.rewards(scores(rollouts), process_rewards(rollouts), process_weight)
    return micro / balance.MICRO


def grid_shape(temperatures: int, top_ks: int, samples: int) -> Callable:
    """Returns a function that shapes columns of a grid as [T, K, Q, N].

    The columns must be sorted by (query, temperature, top_k, sample).
    """

    def shape(column, _):
        grid_QTKN = column.reshape(-1, temperatures, top_ks, samples)
        return grid_QTKN.transpose(1, 2, 0, 3)

    return shape


def query_shape(rollouts: Rollouts) -> Callable:
    """Returns a function that shapes columns as [Q, N], where N is the most rows of any query.

    Positions without a row get the value `fill`.
    """
    queries = group(rollouts, ["query_id"])
    place = _places(queries)
    size = (int(queries.max()) + 1, int(place.max()) + 1) if len(queries) else (0, 0)

    def shape(column, fill):
        array_QN = np.full(size, fill, np.asarray(column).dtype)
        array_QN[queries, place] = column
        return array_QN

    return shape


def to_rows(rollouts: Rollouts, array_QN: np.ndarray) -> np.ndarray:
    """Inverts `query_shape`: returns the value of every row."""
    queries = group(rollouts, ["query_id"])
    return np.asarray(array_QN)[queries, _places(queries)]


def _places(queries: np.ndarray) -> np.ndarray:
    """Returns the position of each row among the rows of its query, in order."""
    order = np.argsort(queries, kind="stable")
    ordered = queries[order]
    starts = np.searchsorted(ordered, ordered)
    place = np.empty(len(queries), np.int64)
    place[order] = np.arange(len(queries)) - starts
    return place


def monitor_figures(
    task: LoadedTask, rollouts: Rollouts, *, ks: Sequence[int], s: int
) -> dict[str, float | None]:
    """Computes the figures of the monitor phase from its rows, including `greedy`.

    Rows at temperature 0 are the greedy responses; all others are the samples.

    Args:
      task: The task of the rows.
      rollouts: The rows, with rewards.
      ks: Values of K.
      s: S, the number of correct responses that Pass@K-S and Reward@K-S ask for.

    Raises:
      ValueError: If a reward is null, or a query has fewer samples than others.
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
