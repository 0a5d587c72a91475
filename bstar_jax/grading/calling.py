"""The worker's side of rewards from outside: it calls a function and makes its result plain.

It runs in the worker processes of `functions`. Functions come from people, so whatever they raise
or return is caught here, and goes back as text.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bstar_jax.config import UserError
from bstar_jax.grading.grade import LONGEST_MESSAGE, Grade
from bstar_jax.isolation import outside

_LONGEST_PRINT = 20 * 80  # characters of what a function prints that are kept
_SIGNATURES = {"reward": "query, response, finish_reason", "steps": "query, steps, finish_reason"}


class Call(NamedTuple):
    """What a worker is asked for.

    Attributes:
      role: "reward" or "steps", or "describe" or "example" to learn of the function.
      function: Its name.
      arguments: Queries, texts or steps, and finish reasons: a row for each response. For
        "describe" the role in which it will be called; for "example" queries.
    """

    role: str
    function: str
    arguments: tuple = ()


class Reply(NamedTuple):
    """What a worker answers.

    Attributes:
      values: A value for each row; None if the call failed as a whole.
      error: The traceback if it failed, else "".
      printed: What the function printed, its beginning.
      reason: What a failure is to the responses: "error", or "timeout".
    """

    values: list | None
    error: str = ""
    printed: str = ""
    reason: str = "error"


class Description(NamedTuple):
    """What is known of a function once it is loaded.

    Attributes:
      batched: Whether it takes lists.
      has_example: Whether it can write a response that must be right.
      files: The files of its source.
      fingerprint: The fingerprint of its source.
    """

    batched: bool
    has_example: bool
    files: tuple[str, ...]
    fingerprint: str


class Row(NamedTuple):
    """The plain form of what a reward says of one response; `error` is "" if it says something."""

    score: float = 0.0
    answer: str | None = ""
    message: str = ""
    step_rewards: tuple[float, ...] | None = None
    error: str = ""


class _Printed(io.TextIOBase):
    """Keeps the beginning of what is printed, and drops the rest."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text[: max(_LONGEST_PRINT - len(self.text), 0)]
        return len(text)


def load(functions: Sequence[str]) -> None:
    """Loads functions ahead, so that a worker is ready for its first call."""
    for function in functions:
        with contextlib.suppress(UserError):  # `describe` reports it
            outside.load(function)


def carry_out(call: Call | tuple[str, ...]) -> Reply | None:
    """Carries out a call; a plain tuple of names only loads the functions."""
    if not isinstance(call, Call):
        load(call)
        return None
    printed = _Printed()
    try:
        with contextlib.redirect_stdout(printed):
            values = _ROLES[call.role](call)
    except MemoryError:
        raise
    except UserError as error:
        return Reply(None, str(error), printed.text)
    except (Exception, SystemExit) as error:
        return Reply(None, outside.last_frames(error), printed.text)
    return Reply(values, "", printed.text)


def _describe(call: Call) -> list[Description]:
    found = outside.load(call.function)
    (role,) = call.arguments
    _check_signature(found.function, found.name, _SIGNATURES[role])
    batched = bool(getattr(found.function, "batched", False))
    has_example = callable(getattr(found.function, "example", None))
    return [Description(batched, has_example, found.files, found.fingerprint)]


def _check_signature(function: Callable, name: str, wanted: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C, and says nothing of its arguments
    try:
        signature.bind(*wanted.split(", "))
    except TypeError:
        count = len(signature.parameters)
        arguments = "1 argument" if count == 1 else f"{count} arguments"
        raise UserError(
            f"{name} takes {arguments}; it is called as {name.rpartition(':')[2]}({wanted})"
        ) from None


def _write_examples(call: Call) -> list[str]:
    write = outside.load(call.function).function.example  # pyright: ignore[reportFunctionMemberAccess]  # `_describe` looked
    texts = [write(query) for query in call.arguments]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"example returned {text!r}; it returns a text")
    return texts


def _reward(call: Call) -> list[Row]:
    function = outside.load(call.function).function
    if not getattr(function, "batched", False):
        return [_plain_row(_finished(function(*row))) for row in call.arguments]
    columns = [list(column) for column in zip(*call.arguments, strict=True)]
    values = _finished(function(*columns))
    if isinstance(values, (str, dict)) or not hasattr(values, "__len__"):
        raise ValueError(f"it returned {_short(values)}; a batched function returns a list")
    if len(values) != len(call.arguments):
        raise ValueError(
            f"it returned {len(values)} values for {len(call.arguments)} responses; it returns "
            "one for each"
        )
    return [_plain_row(value) for value in values]


def _reward_steps(call: Call) -> list[tuple[float, ...]]:
    function = outside.load(call.function).function
    return [_plain_steps(_finished(function(*row)), row[1]) for row in call.arguments]


def _plain_steps(values: Any, steps: Sequence[str]) -> tuple[float, ...]:
    if isinstance(values, (str, dict)) or not hasattr(values, "__len__"):
        raise ValueError(f"it returned {_short(values)}; a step reward returns a list")
    if len(values) != len(steps):
        raise ValueError(
            f"it returned {len(values)} values for {len(steps)} steps; it returns one for each"
        )
    rewards = tuple(_number(value) for value in values)
    if not all(-1.0 <= reward <= 1.0 for reward in rewards):
        raise ValueError(f"it returned {_short(rewards)}; step rewards are in [-1, 1]")
    return rewards


def _plain_row(value: Any) -> Row:
    """Makes the result of a reward plain; what it may not be is the row's error."""
    try:
        grade = value if isinstance(value, Grade) else Grade(_number(value))
        steps = grade.step_rewards
        rewards = None if steps is None else tuple(map(_number, steps))
        return Row(_number(grade.score), grade.answer, grade.message[:LONGEST_MESSAGE], rewards)
    except ValueError as error:
        return Row(error=f"ValueError: {error}")


def _number(value: Any) -> float:
    """Returns a number of Python, NumPy or a 0-d array as a float.

    Raises:
      ValueError: If it is none, or not finite.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(
            f"it returned {_short(value)}; a reward returns a bool, a number in [0, 1], or a Grade"
        )
    return float(value)


def _finished(value: Any) -> Any:
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_ROLES: dict[str, Callable[[Call], list]] = {
    "describe": _describe,
    "example": _write_examples,
    "reward": _reward,
    "steps": _reward_steps,
}
