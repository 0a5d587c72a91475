"""The grade of a response: what is known once its answer and its steps have been checked."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Grade:
    """The grade of one response.

    Attributes:
      answer: The answer that it states, written one way, so that equal answers are equal texts.
        For code this is 16 digits of the response's hash; None where no answer can be read.
      correct: Whether that is the reference answer, or the program passes its tests.
      reason: "correct", "wrong", "unparseable", "timeout" or "error".
      process_reward: In [-1, 1], the minimum of `step_rewards`; None where the source has no
        check of steps, or the response has no step to check.
      step_rewards: In [-1, 1], one for each solution step, the conclusion last; None likewise.
      message: What went wrong in a program, in one line; "" otherwise.
      first_failing: Place of the first test that a program failed, from 0; None otherwise.
      seconds: Time that grading the answer took.
    """

    answer: str | None
    correct: bool
    reason: str
    process_reward: float | None = None
    step_rewards: list[float] | None = None
    message: str = ""
    first_failing: int | None = None
    seconds: float = dataclasses.field(default=0.0, compare=False)
