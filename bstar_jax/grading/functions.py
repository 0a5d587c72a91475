"""Rewards from outside: functions of the user's own, called in worker processes.

A worker has no accelerator, and limits of time and memory; what passes them is killed and replaced.
A call that runs too long is tried once more with twice the time. A batch that fails is repeated row
by row, so that one response spoils no other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bstar_jax.answers.solution_steps import split_steps
from bstar_jax.config import RewardsConfig, UserError
from bstar_jax.grading.calling import Call, Description, Reply, Row
from bstar_jax.grading.grade import GradedResponse, broken, reaches
from bstar_jax.isolation.workers import Outcome, WorkerPool, WorkersError
from bstar_jax.records import Query, Response, Source

_CARRY_OUT = "bstar_jax.grading.calling:carry_out"
_SECOND_TRIES = 8  # of the calls of one unit: more would be no accident
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONHASHSEED": "0",
    "MALLOC_ARENA_MAX": "2",
    "MKL_NUM_THREADS": "1",
}


class FunctionPool:
    """Worker processes that call functions from outside.

    A context manager: workers start on entering, and are gone on leaving.

    Args:
      functions: The functions, each with the role "reward" or "steps" in which it is called.
      settings: Workers and limits.

    Attributes:
      described: What is known of each function, by name.
      printed: The beginning of what each function printed first, by name.
    """

    def __init__(self, functions: Iterable[tuple[str, str]], settings: RewardsConfig) -> None:
        self._functions = dict(functions)
        self._settings = settings
        self.workers = settings.in_flight or settings.workers or len(os.sched_getaffinity(0))
        self._pool = WorkerPool(
            _CARRY_OUT,
            self.workers,
            settings.seconds,
            memory_bytes=settings.memory_mib << 20,
            warm_up=[tuple(self._functions)],
            environment=_ENVIRONMENT,
        )
        self.described: dict[str, Description] = {}
        self.printed: dict[str, str] = {}

    def __enter__(self) -> FunctionPool:
        self._pool.__enter__()
        try:
            for name, role in self._functions.items():
                (outcome,) = self._pool.run([Call("describe", name, (role,))], limit_seconds=60.0)
                reply = _reply(outcome, self._settings)
                if reply.values is None:
                    raise UserError(reply.error)
                self.described[name] = reply.values[0]
        except WorkersError as error:
            self._pool.__exit__()
            raise UserError(f"{', '.join(self._functions)} cannot be called: {error}") from error
        except BaseException:
            self._pool.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def call(self, role: str, name: str, rows: Sequence[tuple]) -> list[tuple[Any, Reply, float]]:
        """Calls a function for every row.

        Args:
          role: "reward", "steps" or "example".
          name: The function.
          rows: The arguments, a row for each response.

        Returns:
          For each row its value, None if there is none; the reply that it came with, which says
          why; and the seconds that the call took.
        """
        size = self._settings.batch if self.described[name].batched and role == "reward" else 1
        batches = [tuple(rows[start : start + size]) for start in range(0, len(rows), size)]
        outcomes = self._run([Call(role, name, batch) for batch in batches], again=size == 1)
        found: list[tuple[Any, Reply, float]] = []
        alone: list[int] = []
        for batch, outcome in zip(batches, outcomes, strict=True):
            reply = _reply(outcome, self._settings)
            if reply.printed:
                self.printed.setdefault(name, reply.printed)
            if reply.values is None and len(batch) > 1:
                alone += range(len(found), len(found) + len(batch))
            values = reply.values or [None] * len(batch)
            found += [(value, reply, outcome.seconds / len(batch)) for value in values]
        calls = [Call(role, name, (rows[index],)) for index in alone]
        for index, outcome in zip(alone, self._run(calls, again=True), strict=True):
            reply = _reply(outcome, self._settings)
            found[index] = ((reply.values or [None])[0], reply, outcome.seconds)
        return found

    def _run(self, calls: Sequence[Call], *, again: bool) -> list[Outcome]:
        outcomes = list(self._pool.run(calls))
        late = [index for index, outcome in enumerate(outcomes) if outcome.kind == "timeout"]
        late = late[:_SECOND_TRIES] if again else []
        tries = self._pool.run(
            [calls[index] for index in late], limit_seconds=2 * self._settings.seconds
        )
        for index, outcome in zip(late, tries, strict=True):
            outcomes[index] = outcome
        return outcomes


class FunctionGrader:
    """Grades responses by a function; an `AnswerGrader`.

    Args:
      pool: Calls it.
      read: Reads the answer of a response where the function names none.
    """

    def __init__(self, pool: FunctionPool, read: Callable[[Response, Source], str | None]) -> None:
        self._pool, self._read = pool, read

    def grade(self, responses: Sequence[Response], source: Source) -> list[GradedResponse]:
        """Grades responses to queries of a source, in their order."""
        rows = [(each.query, each.text, each.finish_reason) for each in responses]
        found = self._pool.call("reward", source.reward, rows)
        return [
            self._graded(response, source, *each)
            for response, each in zip(responses, found, strict=True)
        ]

    def complaints(
        self, queries: Sequence[Query], source: Source, places: Mapping[str, str]
    ) -> list[str]:
        """Returns []: whether the function can grade is tried, not read off the queries."""
        return []

    def _graded(
        self, response: Response, source: Source, row: Row | None, reply: Reply, seconds: float
    ) -> GradedResponse:
        if row is None:
            return broken(reply.reason, reply.error, seconds)
        if row.error:
            return broken("error", row.error, seconds)
        answer = row.answer
        if answer == "":
            answer = self._read(response, source) or hashed(response)
        correct = answer is not None and reaches(row.score, source.correct_at)
        reason = "unparseable" if answer is None else "correct" if correct else "wrong"
        return GradedResponse(
            answer,
            correct,
            reason,
            min(row.step_rewards) if row.step_rewards else None,
            list(row.step_rewards) if row.step_rewards else None,
            row.message,
            score=row.score,
            seconds=seconds,
        )


def reward_steps(
    pool: FunctionPool, responses: Sequence[Response], source: Source
) -> list[tuple[list[float] | None, str, str]]:
    """Rewards the solution steps of responses by the step reward of their source.

    Returns:
      For each response the rewards of its steps, None if it has none; and, if the function failed,
      a reason and a message.
    """
    split = [split_steps(each.text, source.separator, source.answer_marker) for each in responses]
    chosen = [index for index, steps in enumerate(split) if steps]
    rows = [
        (responses[index].query, split[index], responses[index].finish_reason) for index in chosen
    ]
    rewards: list[tuple[list[float] | None, str, str]] = [(None, "", "")] * len(responses)
    for index, (values, reply, _) in zip(
        chosen, pool.call("steps", source.step_reward, rows), strict=True
    ):
        failed = (None, reply.reason, reply.error)
        rewards[index] = failed if values is None else (list(values), "", "")
    return rewards


def write_examples(pool: FunctionPool, name: str, queries: Sequence[Query]) -> list[str | None]:
    """Returns the responses that a function calls right; None for a query where it fails."""
    return [value for value, *_ in pool.call("example", name, queries)]  # pyright: ignore[reportArgumentType]  # rows of this role are queries


def hashed(response: Response) -> str:
    """Returns 16 digits of the hash of a stripped response: the answer where none can be read."""
    text = response.text.strip().encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def _reply(outcome: Outcome, settings: RewardsConfig) -> Reply:
    """Returns the reply of a call, or what became of the worker instead."""
    if outcome.kind == "done":
        return outcome.value
    if outcome.kind == "timeout":
        return Reply(
            None,
            f"it ran too long and was stopped after {outcome.seconds:.1f} s; raise rewards.seconds "
            f"({settings.seconds:g}) if it needs more",
            reason="timeout",
        )
    if outcome.kind == "died":
        return Reply(
            None,
            f"its worker died: {outcome.error}; if memory ran out, raise rewards.memory_mib "
            f"({settings.memory_mib} MiB of address space), or set it to 0 for no limit",
        )
    return Reply(None, outcome.error)
