"""Grades: what a reward says of a response, and the results of checking its answer and steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

LONGEST_MESSAGE = 2000  # characters of a message that are kept


@dataclasses.dataclass(frozen=True)
class Grade:
    """What a reward says of a response.

    Example: `Grade(0.5, message="one of two words is missing")`.

    Attributes:
      score: How right the response is, in [0, 1].
      answer: The answer that it states. "" leaves reading it to the task; None says that no
        answer can be read, and the score is then 0.
      message: What a person should know of the grade.
      step_rewards: The rewards of its solution steps in [-1, 1], the conclusion last; None where
        the reward says nothing of them.

    Raises:
      ValueError: If the score or a reward is out of range.
    """

    score: float
    _: dataclasses.KW_ONLY
    answer: str | None = ""
    message: str = ""
    step_rewards: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _check("the score", self.score, 0.0, 1.0)
        if self.answer is None and self.score:
            raise ValueError(f"the score is {self.score} without an answer; it is 0 there")
        if self.answer is not None and not isinstance(self.answer, str):
            raise ValueError(f"the answer is {self.answer!r}; it is a text or None")
        for reward in self.step_rewards or ():
            _check("a step reward", reward, -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class GradedResponse:
    """All that grading finds about one response.

    Attributes:
      answer: The answer that it states, written one way, so that equal answers are equal texts.
        For code this is 16 digits of the response's hash; None where no answer can be read, or
        where grading broke or ran too long.
      correct: Whether its score reaches the source's `correct_at`.
      reason: "correct", "wrong", "unparseable", "timeout" or "error".
      process_reward: In [-1, 1], the minimum of `step_rewards`; None where the source has no
        check of steps, or the response has no step to check.
      step_rewards: In [-1, 1], one for each solution step, the conclusion last; None likewise.
      message: What went wrong, or what the reward says; "" otherwise.
      first_failing: Place of the first test that a program failed, from 0; None otherwise.
      score: In [0, 1]; None where grading itself broke or ran too long.
      seconds: Time that grading the answer took.
    """

    answer: str | None
    correct: bool
    reason: str
    process_reward: float | None = None
    step_rewards: list[float] | None = None
    message: str = ""
    first_failing: int | None = None
    score: float | None = 0.0
    seconds: float = dataclasses.field(default=0.0, compare=False)

    @property
    def is_broken(self) -> bool:
        """Whether grading itself broke or ran too long, so that nothing is known."""
        return self.score is None


def broken(reason: str, message: str, seconds: float = 0.0) -> GradedResponse:
    """Returns what is known of a response whose grading broke ("error") or ran too long."""
    kept = message[-LONGEST_MESSAGE:]
    return GradedResponse(None, False, reason, message=kept, score=None, seconds=seconds)


def reaches(score: float, correct_at: float) -> bool:
    """Says whether a score counts as correct; both are compared in millionths."""
    return round(1e6 * score) >= round(1e6 * correct_at)


def _check(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; it is a number in [{low:g}, {high:g}]")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it is in [{low:g}, {high:g}]")
