"""Queries, where they come from, and responses to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Messages = tuple[tuple[str, str], ...]
"""A chat: the role and the content of each message."""

SPLITS = ("sft", "train", "calibration", "heldout")


@dataclasses.dataclass(frozen=True)
class Query:
    """One question of a task.

    Attributes:
      query_id: Unique in its task: the file's own id, or `<split>/<record number from 0>`.
      split: One of `SPLITS`.
      prompt: The text that the model continues.
      reference: The reference answer, as text.
      solution: A human solution, including its answer line; "" if there is none.
      fields: The task's own data about the query, such as its quantities.
      prefix: The beginning of a response that the model continues; "" if it starts a new one.
      more_solutions: Other human solutions.
      source: Name of the `Source` that the query comes from.
      messages: The prompt as a chat, (role, content) of each message; () if the prompt is plain
        text.
      label: A label of the record, by which metrics are also given; "" for none.
    """

    query_id: str = ""
    split: str = ""
    prompt: str = ""
    reference: str = ""
    solution: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    more_solutions: tuple[str, ...] = ()
    source: str = ""
    messages: Messages = ()
    label: str = ""

    @property
    def asked(self) -> str | Messages:
        """What a tokenizer encodes: the messages of a chat, else the prompt."""
        return self.messages or self.prompt

    def with_prompt(self, prompt: str) -> Query:
        """Returns the query with another prompt; of a chat, with another last message."""
        messages = (*self.messages[:-1], ("user", prompt)) if self.messages else ()
        return dataclasses.replace(self, prompt=prompt, messages=messages)

    def solutions(self, count: int) -> tuple[str, ...]:
        """Returns the first human solutions, at most `count`."""
        return tuple(filter(None, (self.solution, *self.more_solutions)))[:count]


@dataclasses.dataclass(frozen=True)
class Source:
    """What queries have in common: how responses to them are written and graded.

    Attributes:
      name: Name of the source, which `Query.source` refers to.
      answer_kind: How answers are read and compared: a key of `grading.kinds.KINDS`.
      answer_marker: The text before the answer. Its first occurrence ends the solution steps. ""
        if answers have no marker, as in programs.
      separator: The text that ends a solution step.
      hint_prompt: Template of a prompt that gives the answer away, for rationalization. It contains
        {question} and {reference}.
      shots: Solved examples that precede every prompt; "" for none.
      step_check: Checks the solution steps of a response to a query exactly, and returns a reward
        in [-1, 1] for each, the conclusion last; [] if the response has no step to check. None if
        steps cannot be checked.
      equations: Reads the equations of a response in order, including repeats. None if responses
        have no equations.
      reward: The function that grades responses, FILE.py:NAME or MODULE:NAME; "" if answers are
        compared with the reference.
      step_reward: The function that rewards solution steps, likewise; "" for `step_check`.
      correct_at: The score from which a response counts as correct, in (0, 1].
    """

    name: str
    answer_kind: str
    answer_marker: str = ""
    separator: str = "\n"
    hint_prompt: str = ""
    shots: str = ""
    step_check: Callable[[Query, str], list[float]] | None = None
    equations: Callable[[str], list[str]] | None = None
    reward: str = ""
    step_reward: str = ""
    correct_at: float = 1.0


class Response(NamedTuple):
    """A response to a query.

    Attributes:
      query: The query that it answers.
      text: The text of the response, which may be empty.
      finish_reason: "stop", or "length" if the length limit cut the response.
    """

    query: Query
    text: str
    finish_reason: str = "stop"
