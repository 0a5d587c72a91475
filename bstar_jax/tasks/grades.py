"""Grades responses to queries of one's own, without a run: for scripts and notebooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from bstar_jax.config import RewardsConfig, SourceConfig
from bstar_jax.grading import GradedResponse, open_grader
from bstar_jax.records import Query, Response
from bstar_jax.tasks.own import Task, source_of


def grade_responses(
    queries: Sequence[Query],
    responses: Sequence[str],
    *,
    reward: str | Callable = "text",
    step_reward: str | Callable | None = None,
    answer_marker: str = "",
    correct_at: float = 1.0,
    finish_reasons: Sequence[str] = (),
    settings: RewardsConfig | None = None,
) -> list[GradedResponse]:
    r"""Grades responses as a run would.

    Example:
        query = Query(prompt="2 + 2 = ", reference="4")
        (grade,) = grade_responses([query], ["It is\n=> 4"], reward="number", answer_marker="=>")
        grade.correct                                  # True

    Args:
      queries: The query of each response; one that has several responses is repeated.
      responses: The texts of the responses.
      reward: As for `Task`: "number", "text" or "math", a function, or its name.
      step_reward: As for `Task`: a function, or its name.
      answer_marker: The text before the answer in a response; "" if there is none.
      correct_at: The score from which a response counts as correct.
      finish_reasons: "stop", or "length" where the length limit cut a response; () is all "stop".
      settings: Workers and limits.

    Returns:
      A grade for each response, in their order.

    Raises:
      ValueError: If the lists differ in length, or a value is none that `Task` allows.
      UserError: If a reference cannot be read, or a function cannot be loaded.
    """
    reasons = finish_reasons or ["stop"] * len(responses)
    if not len(queries) == len(responses) == len(reasons):
        raise ValueError(
            f"there are {len(queries)} queries, {len(responses)} responses and {len(reasons)} "
            "finish reasons; there is one of each for every response"
        )
    if not queries:
        return []
    task = Task(
        queries,
        reward=reward,
        step_reward=step_reward,
        answer_marker=answer_marker,
        correct_at=correct_at,
    )
    source = source_of(task, SourceConfig(), "own")
    # Each place has an id of its own: queries of a script often have none.
    asked = [
        dataclasses.replace(query, query_id=str(place), source=source.name)
        for place, query in enumerate(queries)
    ]
    with open_grader(asked, {source.name: source}, settings) as grader:
        return grader.grade(
            [Response(*each) for each in zip(asked, responses, reasons, strict=True)]
        )
