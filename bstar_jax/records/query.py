"""Queries, where they come from, and responses to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SPLITS = ("sft", "train", "calibration", "heldout")


@dataclasses.dataclass(frozen=True)
class Query:
    """One question of a task.

    Attributes:
      query_id: Unique in its task: the file's own id, or `<split>/<record number from 0>`.
      split: One of `SPLITS`.
      prompt: The text that the model continues.
      reference: The reference answer, as text.
      solution: A human solution, answer line included; "" where there is none.
      fields: The task's own data about the query, such as its quantities.
      prefix: The beginning of a response, where the model is to continue one; else "".
      more_solutions: Other human solutions.
      source: Name of the `Source` that the query comes from.
    """

    query_id: str
    split: str
    prompt: str
    reference: str
    solution: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    more_solutions: tuple[str, ...] = ()
    source: str = ""

    def solutions(self, count: int) -> tuple[str, ...]:
        """Returns the first human solutions, at most `count`."""
        return tuple(filter(None, (self.solution, *self.more_solutions)))[:count]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where queries come from: all that they share about how responses are written and graded.

    Attributes:
      name: Its name, as in `Query.source`.
      answer_kind: How answers are read and compared: a key of `grading.kinds.KINDS`.
      answer_marker: The text before the answer; its first occurrence ends the solution steps.
        "" where answers have no marker, as programs.
      separator: What ends a solution step.
      hint_prompt: Template of a prompt that gives the answer away, for rationalization. It holds
        {question} and {reference}.
      shots: Solved examples that precede every prompt; "" where there are none.
      step_check: Checks the solution steps of a response to a query exactly, and returns a reward
        in [-1, 1] for each, the conclusion last; none where there is no step to check. None
        where steps cannot be checked.
      equations: Reads the equations of a response in their order, repeats included. None where
        responses have no equations.
    """

    name: str
    answer_kind: str
    answer_marker: str = ""
    separator: str = "\n"
    hint_prompt: str = ""
    shots: str = ""
    step_check: Callable[[Query, str], list[float]] | None = None
    equations: Callable[[str], list[str]] | None = None


class Response(NamedTuple):
    """A response to a query.

    Attributes:
      query: What was answered.
      text: The response, which may be empty.
      finish_reason: "stop", or "length" where the length limit cut it.
    """

    query: Query
    text: str
    finish_reason: str = "stop"
