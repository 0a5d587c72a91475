"""The table of kinds of answers: how each is read, graded, hinted, and checked at the start.

A source names the kind of its answers, and `answer_kind` looks it up; nothing else in the project
asks which kind it is. A kind that needs worker processes or sandboxes starts them when it is
opened, and ends them when it is closed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, Protocol

from bstar_jax.answers import choices
from bstar_jax.answers.mathematics import verifier as mathematics
from bstar_jax.answers.stated import answers_equal, stated_answer
from bstar_jax.config import RewardsConfig, UserError
from bstar_jax.grading import ungradable
from bstar_jax.grading.code import submissions, test_plans
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.grading.functions import hashed
from bstar_jax.grading.grade import GradedResponse, broken
from bstar_jax.isolation.sandbox import Limits
from bstar_jax.records import Query, Response, Source


class AnswerGrader(Protocol):
    """Grades answers of one kind, with the workers or sandboxes that the kind needs."""

    def grade(self, responses: Sequence[Response], source: Source) -> list[GradedResponse]:
        """Grades responses to queries of a source, in their order."""
        ...

    def complaints(
        self, queries: Sequence[Query], source: Source, places: Mapping[str, str]
    ) -> list[str]:
        """Checks that responses to these queries can be graded.

        Args:
          queries: All queries of the source.
          source: The source.
          places: Where each query was read, by its id.

        Returns:
          What is wrong and what to do about it; [] where nothing is.
        """
        ...


@dataclasses.dataclass(frozen=True)
class AnswerKind:
    """A kind of answers.

    Attributes:
      read: Returns the answer that a response states, written one way; None where it states none.
      open: Makes the grader of the kind, with what it needs started.
      hint: Returns what gives the answer to a query away; "" where nothing can.
      keeps_indentation: Whether spaces before a response's first line are part of it.
      ungradable: Finds the queries that nothing could be graded against, with the reason by id.
    """

    read: Callable[[Response, Source], str | None]
    open: Callable[[RewardsConfig], contextlib.AbstractContextManager[AnswerGrader]]
    hint: Callable[[Query], str] = lambda query: query.reference
    keeps_indentation: bool = False
    ungradable: Callable[[Sequence[Query]], dict[str, str]] = ungradable.nothing


def answer_kind(source: Source) -> AnswerKind:
    """Returns the kind of a source's answers.

    Raises:
      ValueError: If there is no such kind.
    """
    if source.answer_kind not in KINDS:
        raise ValueError(f"answers are one of {', '.join(KINDS)}, not {source.answer_kind!r}")
    return KINDS[source.answer_kind]


# --- Numbers, texts and choices: read and compared on the spot. ----------------------------------


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Grades answers by comparing what is read with the reference.

    Attributes:
      read: As in `AnswerKind`.
      is_equal: Whether an answer is the reference answer.
    """

    read: Callable[[Response, Source], str | None]
    is_equal: Callable[[str, str], bool]

    def grade(self, responses: Sequence[Response], source: Source) -> list[GradedResponse]:
        return [self._grade(response, source) for response in responses]

    def complaints(
        self, queries: Sequence[Query], source: Source, places: Mapping[str, str]
    ) -> list[str]:
        return []  # references were read when the queries were

    def _grade(self, response: Response, source: Source) -> GradedResponse:
        started = time.perf_counter()
        answer = self.read(response, source)
        correct = answer is not None and self.is_equal(answer, response.query.reference)
        reason = "unparseable" if answer is None else "correct" if correct else "wrong"
        seconds, score = time.perf_counter() - started, float(correct)
        return GradedResponse(answer, correct, reason, score=score, seconds=seconds)


def _compared(
    read: Callable[[Response, Source], str | None], is_equal: Callable[[str, str], bool]
) -> AnswerKind:
    return AnswerKind(read, lambda settings: contextlib.nullcontext(_Comparison(read, is_equal)))


def _read_stated(kind: str, response: Response, source: Source) -> str | None:
    return stated_answer(kind, source.answer_marker, response.text, response.finish_reason)


def _read_choice(response: Response, source: Source) -> str | None:
    fields = response.query.fields
    labels, options = fields["labels"], fields["options"]
    marker, reason = source.answer_marker, response.finish_reason
    return choices.read(response.text, labels, options, marker, reason)


def _option(query: Query) -> str:
    return choices.option_line(query.fields, query.reference)


# --- Mathematics: workers for what needs algebra. ------------------------------------------------


def _read_mathematics(response: Response, source: Source) -> str | None:
    return mathematics.read(response.text, source.answer_marker, response.finish_reason)


@dataclasses.dataclass(frozen=True)
class _MathGrader:
    """Grades answers in mathematics.

    Attributes:
      verifier: Compares them, with its workers running.
    """

    verifier: mathematics.MathVerifier

    def grade(self, responses: Sequence[Response], source: Source) -> list[GradedResponse]:
        stated = [_read_mathematics(response, source) for response in responses]
        pairs = [
            (answer, response.query.reference)
            for answer, response in zip(stated, responses, strict=True)
            if answer is not None
        ]
        verdicts = iter(self.verifier.verify(pairs))
        grades = []
        for answer, response in zip(stated, responses, strict=True):
            if answer is None:
                grades.append(GradedResponse(None, False, "unparseable"))
                continue
            reason, seconds = next(verdicts)
            if reason in ("timeout", "error"):
                grades.append(broken(reason, f"algebra ended with {reason}: {answer}", seconds))
                continue
            # Votes go by this text, so what equals the reference is written as the reference is.
            is_correct = reason == "correct"
            written = mathematics.canonical(response.query.reference if is_correct else answer)
            written = None if reason == "unparseable" else written
            score = float(is_correct)
            grades.append(GradedResponse(written, is_correct, reason, score=score, seconds=seconds))
        return grades

    def complaints(
        self, queries: Sequence[Query], source: Source, places: Mapping[str, str]
    ) -> list[str]:
        """Finds reference answers that cannot be read."""
        reasons = self.verifier.unreadable(query.reference for query in queries)
        remedies = {
            "error": "cannot be read as mathematics; mend them, or leave their records out",
            "timeout": "take too long to read; raise rewards.seconds, or leave their records out",
        }
        complaints = []
        for reason, remedy in remedies.items():
            found = [
                f"  {places.get(query.query_id, query.query_id)}: {query.reference!r}"
                for query in queries
                if reasons.get(query.reference) == reason
            ]
            if found:
                heading = f"{len(found)} of {len(queries)} reference answers {remedy}:"
                complaints.append("\n".join([heading, *found]))
        return complaints


@contextlib.contextmanager
def _open_mathematics(settings: RewardsConfig) -> Iterator[_MathGrader]:
    with mathematics.MathVerifier(_workers(settings), settings.seconds) as verifier:
        yield _MathGrader(verifier)


# --- Code: a sandbox for each program. -----------------------------------------------------------


def _read_code(response: Response, source: Source) -> str | None:
    """Returns 16 digits of the hash of a response that holds a program."""
    return hashed(response) if submissions.written(response.text) else None


@dataclasses.dataclass(frozen=True)
class _CodeGrader:
    """Grades programs by their tests.

    Attributes:
      verifier: Runs them in sandboxes.
    """

    verifier: CodeVerifier

    def grade(self, responses: Sequence[Response], source: Source) -> list[GradedResponse]:
        jobs = [
            (response.query.fields["tests"], response.text, response.query.reference)
            for response in responses
        ]
        return [
            GradedResponse(
                None if verdict.reason == "unparseable" else _read_code(response, source),
                verdict.passed,
                verdict.reason,
                message=verdict.message,
                first_failing=verdict.first_failing,
                score=float(verdict.passed),
                seconds=verdict.seconds,
            )
            for response, verdict in zip(responses, self.verifier.verify_many(jobs), strict=True)
        ]

    def complaints(
        self, queries: Sequence[Query], source: Source, places: Mapping[str, str]
    ) -> list[str]:
        """Reads all tests, since a broken one would stop the run at its first response."""
        broken = []
        for query in queries:
            tests, reference = query.fields["tests"], query.reference
            try:
                test_plans.plan_tests(tests, reference or "pass", reference)
            except UserError as error:
                broken.append(f"  {places.get(query.query_id, query.query_id)}: {error}")
        if not broken:
            return []
        heading = (
            f"the tests of {len(broken)} of {len(queries)} queries are broken; mend them, or "
            "leave their records out:"
        )
        return ["\n".join([heading, *broken])]


@contextlib.contextmanager
def _open_code(settings: RewardsConfig) -> Iterator[_CodeGrader]:
    code = settings.code
    with CodeVerifier(
        limits(settings),
        workers=_workers(settings),
        unsafe=code.unsafe,
        packages=code.packages,
        tolerance=code.tolerance,
    ) as verifier:
        yield _CodeGrader(verifier)


def limits(settings: RewardsConfig) -> Limits:
    """Returns what a program may use."""
    return Limits(
        cpu_seconds=settings.code.cpu_seconds,
        wall_seconds=settings.code.wall_seconds,
        total_seconds=settings.code.total_seconds,
        memory_bytes=settings.code.memory_mib << 20,
    )


def _workers(settings: RewardsConfig) -> int:
    return settings.workers or len(os.sched_getaffinity(0))


# --- Free: whatever a response says; only a function can grade it. --------------------------------


def _read_free(response: Response, source: Source) -> str:
    return hashed(response)


def _open_free(settings: RewardsConfig) -> NoReturn:
    raise ValueError("free answers are graded by a function; give the source a reward")


KINDS: Mapping[str, AnswerKind] = {
    "number": _compared(
        functools.partial(_read_stated, "number"), functools.partial(answers_equal, "number")
    ),
    "text": _compared(
        functools.partial(_read_stated, "text"), functools.partial(answers_equal, "text")
    ),
    "math": AnswerKind(
        _read_mathematics, _open_mathematics, ungradable=ungradable.unreadable_mathematics
    ),
    "choice": dataclasses.replace(_compared(_read_choice, str.__eq__), hint=_option),
    "code": AnswerKind(
        _read_code, _open_code, keeps_indentation=True, ungradable=ungradable.broken_tests
    ),
    "free": AnswerKind(_read_free, _open_free),
}
