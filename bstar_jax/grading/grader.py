"""Grades responses, each by the kind of answer that its source has, or by its source's function.

Whatever breaks while a response is graded is the reason "error" of that response alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from bstar_jax.config import RewardsConfig, UserError
from bstar_jax.grading.functions import FunctionGrader, FunctionPool, reward_steps
from bstar_jax.grading.grade import GradedResponse, broken
from bstar_jax.grading.kinds import AnswerGrader, AnswerKind, answer_kind
from bstar_jax.isolation import outside
from bstar_jax.isolation.workers import WorkersError
from bstar_jax.records import Query, Response, Rollouts, Source

Value = TypeVar("Value")
_COLUMNS = ("answer", "correct", "reason", "process_reward", "step_rewards", "score", "message")


class Grader:
    """Grades responses to queries of some sources; made by `open_grader`.

    Attributes:
      functions: Calls the functions of the sources; None if they have none.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        grade_answers: Callable[[Sequence[Response]], list[GradedResponse]],
        functions: FunctionPool | None = None,
    ) -> None:
        """Makes a grader.

        Args:
          sources: The sources of the queries, by name.
          grade_answers: Grades the answers of responses, in their order; solution steps aside.
          functions: Calls the functions of the sources.
        """
        self._sources, self._grade_answers = sources, grade_answers
        self.functions = functions

    def grade(
        self, responses: Sequence[Response], *, check_steps: bool = True
    ) -> list[GradedResponse]:
        """Grades responses.

        Equal texts that answer the same query, surrounding spaces aside, share one grade. In a
        response that the length limit cut, no answer is read from the last line.

        Example (stories, reference 9): "8 - 3 = 5 . 5 + 4 = 9 . # 9" ->
          GradedResponse("9", True, "correct", 1.0, [1.0, 1.0, 1.0], score=1.0)

        Args:
          responses: The responses.
          check_steps: Whether to check solution steps too, where the source can.
        """
        stripped = [self._stripped(response) for response in responses]
        keys = [(response.query.query_id, *response[1:]) for response in stripped]
        distinct = dict(zip(keys, stripped, strict=True))
        graded = self._grade_answers(list(distinct.values()))
        if check_steps:
            graded = self._with_steps(list(distinct.values()), graded)
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
          The same rows with `answer`, `correct`, `reason`, `score`, `message`, `process_reward` and
          `step_rewards`; the last two are null where steps are not checked.

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
        values = {name: [getattr(grade, name) for grade in grades] for name in _COLUMNS}
        return rollouts.with_columns(**values)

    def _source(self, response: Response) -> Source:
        return self._sources[response.query.source]

    def _stripped(self, response: Response) -> Response:
        text = response.text
        if answer_kind(self._source(response)).keeps_indentation:
            text = text.rstrip()
        elif response.finish_reason == "stop":
            text = text.strip()
        return response._replace(text=text)

    def _with_steps(
        self, responses: Sequence[Response], grades: Sequence[GradedResponse]
    ) -> list[GradedResponse]:
        def checked(responses: Sequence[Response], source: Source) -> list[tuple]:
            if source.step_reward:
                assert self.functions is not None
                return reward_steps(self.functions, responses, source)
            check = source.step_check
            return [(check(each.query, each.text) if check else None, "", "") for each in responses]

        found = _by_source(self._sources, responses, checked, lambda error: (None, "error", error))
        return [_with_rewards(*each) for each in zip(grades, found, strict=True)]


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
        if a function cannot be loaded or takes other arguments; or if programs are to be run and
        no sandbox can be made.
    """
    settings = settings or RewardsConfig()
    by_source: dict[str, list[Query]] = {name: [] for name in sources}
    for query in queries:
        by_source[query.source].append(query)
    with contextlib.ExitStack() as stack:
        functions = _open_functions(stack, sources, settings)
        opened: dict[AnswerKind, AnswerGrader] = {}
        graders: dict[str, AnswerGrader] = {}
        complaints = []
        for name, source in sources.items():
            kind = answer_kind(source)
            if source.reward and functions:
                graders[name] = FunctionGrader(functions, kind.read)
                continue
            if kind not in opened:
                opened[kind] = stack.enter_context(kind.open(settings))
            graders[name] = opened[kind]
            complaints += graders[name].complaints(by_source[name], source, places or {})
        if complaints:
            raise UserError("\n".join(complaints))

        def grade_answers(responses: Sequence[Response]) -> list[GradedResponse]:
            def graded(part: Sequence[Response], source: Source) -> list[GradedResponse]:
                return graders[part[0].query.source].grade(part, source)

            return _by_source(sources, responses, graded, lambda error: broken("error", error))

        yield Grader(sources, grade_answers, functions)


def _open_functions(
    stack: contextlib.ExitStack, sources: Mapping[str, Source], settings: RewardsConfig
) -> FunctionPool | None:
    named = [(source.reward, "reward") for source in sources.values() if source.reward]
    named += [(source.step_reward, "steps") for source in sources.values() if source.step_reward]
    return stack.enter_context(FunctionPool(named, settings)) if named else None


def _by_source(
    sources: Mapping[str, Source],
    responses: Sequence[Response],
    work: Callable[[Sequence[Response], Source], list[Value]],
    failed: Callable[[str], Value],
) -> list[Value]:
    """Works on responses, those of a source together, and keeps their order.

    If that raises, each response is worked on alone, and only what fails again is an error.

    Args:
      sources: The sources by name.
      responses: The responses.
      work: Returns a value for each response to queries of a source.
      failed: Makes the value of a response whose work raised, of its traceback.
    """
    places: dict[str, list[int]] = {}
    for place, response in enumerate(responses):
        places.setdefault(response.query.source, []).append(place)
    values: dict[int, Value] = {}
    for name, chosen in places.items():
        part = [responses[place] for place in chosen]
        values.update(zip(chosen, _guarded(part, sources[name], work, failed), strict=True))
    return [values[place] for place in range(len(responses))]


def _guarded(
    part: Sequence[Response],
    source: Source,
    work: Callable[[Sequence[Response], Source], list[Value]],
    failed: Callable[[str], Value],
) -> list[Value]:
    try:
        return work(part, source)
    except (UserError, WorkersError):
        raise  # nothing can be graded, whatever the responses
    except Exception as error:
        if len(part) == 1:
            return [failed(outside.last_frames(error))]
    return [value for each in part for value in _guarded([each], source, work, failed)]


def _with_rewards(
    grade: GradedResponse, found: tuple[list[float] | None, str, str]
) -> GradedResponse:
    """Adds the rewards of solution steps, or what broke while they were checked."""
    rewards, reason, message = found
    if grade.is_broken:
        return grade
    if reason:
        return broken(reason, message, grade.seconds)
    if not rewards:
        return grade
    return dataclasses.replace(grade, process_reward=min(rewards), step_rewards=rewards)
