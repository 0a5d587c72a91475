"""Grades: what is known about a response once its answer and steps have been looked at."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bstar_jax.answers import choices
from bstar_jax.answers.mathematics import verifier as mathematics
from bstar_jax.answers.stated import answers_equal, stated_answer
from bstar_jax.config import RewardsConfig, UserError
from bstar_jax.grading.code import test_plans as programs
from bstar_jax.grading.code import verifier as code
from bstar_jax.isolation import sandbox
from bstar_jax.records import Query, Rollouts
from bstar_jax.tasks import calculator
from bstar_jax.tasks import story_steps as stories

_STEP_CHECKERS = {"stories": stories.step_rewards, "calculator": calculator.step_rewards}


class Row(NamedTuple):
    """What is graded: a query, the response to it, and how that ended ("stop" or "length")."""

    query: Query
    response: str
    finish_reason: str = "stop"


@dataclasses.dataclass(frozen=True)
class Grade:
    """The grade of one response.

    Attributes:
      answer: The answer it states, written one way, so that equal answers are equal texts; of
        code 16 digits of the program's hash; None where none can be read.
      correct: Whether that is the reference answer, or passes the tests.
      reason: "correct", "wrong", "unparseable", "timeout" or "error".
      process_reward: In [-1, 1], the minimum of `step_rewards`; None where the task has no
        check of steps, or the response no step to check.
      step_rewards: In [-1, 1], one a solution step, the conclusion last; None likewise.
      message: What went wrong in a program, in a line; "" otherwise.
      first_failing: Place of the first test that a program failed, from 0; None otherwise.
      seconds: Time that the answer's grade took.
    """

    answer: str | None
    correct: bool
    reason: str
    process_reward: float | None = None
    step_rewards: list[float] | None = None
    message: str = ""
    first_failing: int | None = None
    seconds: float = dataclasses.field(default=0.0, compare=False)


class Grader:
    """Grades responses to one task; made by `open_grader`."""

    def __init__(self, task, grade_answers: Callable[[Sequence[Row]], list[Grade]]):
        self._task, self._grade_answers = task, grade_answers

    def grade(self, rows: Sequence[Row], *, check_steps: bool = True) -> list[Grade]:
        """Grades responses; equal texts to a query, spaces around them aside, share one grade.

        In a response that was cut by the length limit no answer is read from the last line.

        Example (stories, reference 9): "8 - 3 = 5 . 5 + 4 = 9 . # 9" ->
          Grade("9", True, "correct", 1.0, [1.0, 1.0, 1.0])
        """
        tidied = [row._replace(response=self._tidied(row)) for row in rows]
        keys = [(row.query.query_id, *row[1:]) for row in tidied]
        distinct = dict(zip(keys, tidied, strict=True))
        graded = self._grade_answers(list(distinct.values()))
        pairs = zip(distinct.items(), graded, strict=True)
        grades = {
            key: self._with_steps(row, grade) if check_steps else grade
            for (key, row), grade in pairs
        }
        return [grades[key] for key in keys]

    def grade_rollouts(
        self,
        rollouts: Rollouts,
        queries: Mapping[str, Query] | None = None,
        *,
        check_steps: bool = True,
    ) -> Rollouts:
        """Grades all rows of rollouts.

        Args:
          rollouts: Rows with `query_id`, `response` and `finish_reason`.
          queries: The queries by id; by default those of the task.
          check_steps: Whether solution steps are checked exactly, where the task can.

        Returns:
          The same rows with `answer`, `correct`, `reason`, `process_reward` and `step_rewards`;
          the last two null where there is no check of steps.

        Raises:
          KeyError: If a row's query is not among the queries.
        """
        queries = self._task.query_by_id if queries is None else queries
        columns = (rollouts.column(name) for name in ("query_id", "response", "finish_reason"))
        grades = self.grade(
            [
                Row(queries[query_id], response, finish_reason)
                for query_id, response, finish_reason in zip(*columns, strict=True)
            ],
            check_steps=check_steps,
        )
        names = ("answer", "correct", "reason", "process_reward", "step_rewards")
        return rollouts.with_columns(
            **{name: [getattr(grade, name) for grade in grades] for name in names}
        )

    def _tidied(self, row: Row) -> str:
        if self._task.answer_kind == "code":  # the first line's indentation may count
            return row.response.rstrip()
        return row.response.strip() if row.finish_reason == "stop" else row.response

    def _with_steps(self, row: Row, grade: Grade) -> Grade:
        if not self._task.steps:
            return grade
        rewards = _STEP_CHECKERS[self._task.steps](row.query.fields, row.response)
        if not rewards:
            return grade
        return dataclasses.replace(grade, process_reward=min(rewards), step_rewards=rewards)


@contextlib.contextmanager
def open_grader(task, settings: RewardsConfig | None = None) -> Iterator[Grader]:
    """A grader for a task, with the worker processes or sandboxes that its answers need.

    Args:
      task: The task, which says how answers are marked and compared.
      settings: Workers and limits.

    Raises:
      UserError: If reference answers cannot be read, or tests of programs, with all that cannot;
        or if programs are to be run and no sandbox can be made.
    """
    settings = settings or RewardsConfig()
    workers = settings.workers or len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        if task.answer_kind == "math":
            judge = stack.enter_context(mathematics.Grader(workers, settings.seconds))
            _check_references(task, judge)
            yield Grader(task, lambda rows: _grade_mathematics(task, judge, rows))
        elif task.answer_kind == "code":
            judge = stack.enter_context(
                code.Grader(limits_of(settings), workers=workers, unsafe=settings.code.unsafe)
            )
            _check_tests(task)
            yield Grader(task, lambda rows: _grade_programs(judge, rows))
        else:
            yield Grader(task, lambda rows: [_grade_stated(task, row) for row in rows])


def limits_of(settings: RewardsConfig) -> sandbox.Limits:
    """What a program may use."""
    return sandbox.Limits(
        cpu_seconds=settings.code.cpu_seconds,
        wall_seconds=settings.code.wall_seconds,
        total_seconds=settings.code.total_seconds,
        memory_bytes=settings.code.memory_mib << 20,
    )


def _check_references(task, judge: mathematics.Grader) -> None:
    queries = list(task.query_by_id.values())
    reasons = judge.unreadable(query.reference for query in queries)
    remedies = {
        "error": "cannot be read as mathematics; mend them, or leave their records out",
        "timeout": "take too long to read; raise rewards.seconds, or leave their records out",
    }
    complaints = []
    for reason, remedy in remedies.items():
        places = [
            f"  {task.places.get(query.query_id, query.query_id)}: {query.reference!r}"
            for query in queries
            if reasons.get(query.reference) == reason
        ]
        if places:
            heading = f"{len(places)} of {len(queries)} reference answers {remedy}:"
            complaints.append("\n".join([heading, *places]))
    if complaints:
        raise UserError("\n".join(complaints))


def _check_tests(task) -> None:
    """Reads the tests of every query, since a broken one would stop the run at its first response.

    Raises:
      UserError: With all that are broken.
    """
    complaints = []
    for query in task.query_by_id.values():
        try:
            programs.plan(query.fields["tests"], query.reference or "pass", query.reference)
        except UserError as error:
            complaints.append(f"  {task.places.get(query.query_id, query.query_id)}: {error}")
    if complaints:
        raise UserError(
            f"the tests of {len(complaints)} of {len(task.query_by_id)} queries are broken; mend "
            "them, or leave their records out:\n" + "\n".join(complaints)
        )


def _grade_stated(task, row: Row) -> Grade:
    """A number, a text or a choice: read and compared on the spot."""
    started = time.perf_counter()
    fields, reference = row.query.fields, row.query.reference
    if task.answer_kind == "choice":
        answer = choices.read(
            row.response,
            fields["labels"],
            fields["options"],
            task.answer_marker,
            row.finish_reason,
        )
        correct = answer == reference
    else:
        kind = task.answer_kind
        answer = stated_answer(kind, task.answer_marker, row.response, row.finish_reason)
        correct = answer is not None and answers_equal(kind, answer, reference)
    reason = "unparseable" if answer is None else "correct" if correct else "wrong"
    return Grade(answer, correct, reason, seconds=time.perf_counter() - started)


def _grade_mathematics(task, judge: mathematics.Grader, rows: Sequence[Row]) -> list[Grade]:
    stated = [mathematics.read(row.response, task.answer_marker, row.finish_reason) for row in rows]
    pairs = [
        (answer, row.query.reference)
        for answer, row in zip(stated, rows, strict=True)
        if answer is not None
    ]
    graded = iter(judge.grade(pairs))
    grades = []
    for answer, row in zip(stated, rows, strict=True):
        if answer is None:
            grades.append(Grade(None, False, "unparseable"))
            continue
        reason, seconds = next(graded)
        # Votes go by this text, so what equals the reference is written as it is.
        written = mathematics.canonical(row.query.reference if reason == "correct" else answer)
        written = None if reason == "unparseable" else written
        grades.append(Grade(written, reason == "correct", reason, seconds=seconds))
    return grades


def _grade_programs(judge: code.Grader, rows: Sequence[Row]) -> list[Grade]:
    jobs = [(row.query.fields["tests"], row.response, row.query.reference) for row in rows]
    return [
        Grade(
            None if verdict.reason == "unparseable" else _digest(row.response),
            verdict.passed,
            verdict.reason,
            message=verdict.message,
            first_failing=verdict.first_failing,
            seconds=verdict.seconds,
        )
        for row, verdict in zip(rows, judge.grade_many(jobs), strict=True)
    ]


def _digest(program: str) -> str:
    return hashlib.sha256(program.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]
