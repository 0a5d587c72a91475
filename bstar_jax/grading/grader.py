"""Grades responses, each by the kind of answer that its source has."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bstar_jax.config import RewardsConfig, UserError
from bstar_jax.grading.grade import Grade
from bstar_jax.grading.kinds import AnswerGrader, answer_kind
from bstar_jax.records import Query, Response, Rollouts, Source


class Grader:
    """Grades responses to queries of some sources; made by `open_grader`."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        grade_answers: Callable[[Sequence[Response]], list[Grade]],
    ) -> None:
        """Makes a grader.

        Args:
          sources: The sources of the queries, by name.
          grade_answers: Grades the answers of responses, in their order; solution steps aside.
        """
        self._sources, self._grade_answers = sources, grade_answers

    def grade(self, responses: Sequence[Response], *, check_steps: bool = True) -> list[Grade]:
        """Grades responses.

        Equal texts that answer the same query, surrounding spaces aside, share one grade. In a
        response that the length limit cut, no answer is read from the last line.

        Example (stories, reference 9): "8 - 3 = 5 . 5 + 4 = 9 . # 9" ->
          Grade("9", True, "correct", 1.0, [1.0, 1.0, 1.0])

        Args:
          responses: The responses.
          check_steps: Whether to check solution steps too, where the source can.
        """
        stripped = [self._stripped(response) for response in responses]
        keys = [(response.query.query_id, *response[1:]) for response in stripped]
        distinct = dict(zip(keys, stripped, strict=True))
        graded = self._grade_answers(list(distinct.values()))
        if check_steps:
            graded = list(map(self._with_steps, distinct.values(), graded))
        grades = dict(zip(distinct, graded, strict=True))
        return [grades[key] for key in keys]

    def grade_rollouts(
        self, rollouts: Rollouts, queries: Mapping[str, Query], *, check_steps: bool = True
    ) -> Rollouts:
        """Grades all rows of rollouts.

        Args:
          rollouts: Rows with `query_id`, `response` and `finish_reason`.
          queries: The queries by id.
          check_steps: As in `grade`.

        Returns:
          The same rows with `answer`, `correct`, `reason`, `process_reward` and `step_rewards`;
          the last two are null where steps are not checked.

        Raises:
          KeyError: If a row's query is not among the queries.
        """
        columns = (rollouts.column(name) for name in ("query_id", "response", "finish_reason"))
        grades = self.grade(
            [
                Response(queries[query_id], text, finish_reason)
                for query_id, text, finish_reason in zip(*columns, strict=True)
            ],
            check_steps=check_steps,
        )
        names = ("answer", "correct", "reason", "process_reward", "step_rewards")
        return rollouts.with_columns(
            **{name: [getattr(grade, name) for grade in grades] for name in names}
        )

    def _source(self, response: Response) -> Source:
        return self._sources[response.query.source]

    def _stripped(self, response: Response) -> Response:
        text = response.text
        if answer_kind(self._source(response)).keeps_indentation:
            text = text.rstrip()
        elif response.finish_reason == "stop":
            text = text.strip()
        return response._replace(text=text)

    def _with_steps(self, response: Response, grade: Grade) -> Grade:
        check = self._source(response).step_check
        rewards = check(response.query, response.text) if check else []
        if not rewards:
            return grade
        return dataclasses.replace(grade, process_reward=min(rewards), step_rewards=rewards)


@contextlib.contextmanager
def open_grader(
    queries: Iterable[Query],
    sources: Mapping[str, Source],
    settings: RewardsConfig | None = None,
    places: Mapping[str, str] | None = None,
) -> Iterator[Grader]:
    """Opens a grader, with the worker processes and sandboxes that the kinds of answers need.

    Args:
      queries: The queries that will be answered; checked first.
      sources: Their sources, by name.
      settings: Workers and limits.
      places: Where each query was read, by its id, for messages.

    Raises:
      UserError: If reference answers cannot be read, or tests of programs, with all that cannot;
        or if programs are to be run and no sandbox can be made.
    """
    settings = settings or RewardsConfig()
    by_source: dict[str, list[Query]] = {name: [] for name in sources}
    for query in queries:
        by_source[query.source].append(query)
    with contextlib.ExitStack() as stack:
        opened: dict[str, AnswerGrader] = {}
        complaints = []
        for name, source in sources.items():
            kind = source.answer_kind
            if kind not in opened:
                opened[kind] = stack.enter_context(answer_kind(source).open(settings))
            complaints += opened[kind].complaints(by_source[name], source, places or {})
        if complaints:
            raise UserError("\n".join(complaints))
        graders = {name: opened[source.answer_kind] for name, source in sources.items()}
        yield Grader(sources, lambda responses: _grade_answers(graders, sources, responses))


def _grade_answers(
    graders: Mapping[str, AnswerGrader],
    sources: Mapping[str, Source],
    responses: Sequence[Response],
) -> list[Grade]:
    """Grades the answers of responses, those of a source together, and keeps their order."""
    places: dict[str, list[int]] = {}
    for place, response in enumerate(responses):
        places.setdefault(response.query.source, []).append(place)
    grades: dict[int, Grade] = {}
    for name, chosen in places.items():
        part = [responses[place] for place in chosen]
        grades.update(zip(chosen, graders[name].grade(part, sources[name]), strict=True))
    return [grades[place] for place in range(len(responses))]
