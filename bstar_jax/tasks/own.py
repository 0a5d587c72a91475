"""Tasks from outside: what a function of the user's own returns, and how it becomes a loaded task.

The function is named by `task.name=FILE.py:FUNCTION`. It is called once in every process with the
run's config, and must be a function of that alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bstar_jax.config import Config, SourceConfig, UserError
from bstar_jax.config.schema import absolute_function
from bstar_jax.isolation import outside
from bstar_jax.records import SPLITS, Query, Source
from bstar_jax.tasks.format import HINT_PROMPT
from bstar_jax.tasks.layout import SplitFiles
from bstar_jax.tasks.reading import Queries
from bstar_jax.tasks.splits import split_queries
from bstar_jax.tasks.task import LoadedTask

_KINDS = ("number", "text", "math")  # rewards that need nothing of a query but its reference


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of your own.

    Example:
        def task(config):
            queries = [Query(prompt=f"{n} + 1 = ", reference=str(n + 1)) for n in range(5000)]
            return Task(queries, reward="number", answer_marker="=>")

    Attributes:
      train: Queries to learn from. Splits that are not given are cut from them.
      sft: Queries with solutions, for warm-up; None takes the first of train that have one.
      calibration: Queries that choose the cell; None cuts them from train.
      heldout: Queries that measure; None cuts them from train.
      name: Name of the source, an identifier; "" takes the function's name.
      reward: "number", "text" or "math", which compare the answer with the reference; or a
        function, or its name, called with (query, response, finish_reason).
      step_reward: A function, or its name, called with (query, steps, finish_reason); None for
        none.
      correct_at: The score from which a response counts as correct, in (0, 1].
      hint_prompt: Template with {question} and {reference}, for `generate.rationalize`.
      answer_marker: The text before the answer in a response; "" if there is none.
      separator: The text that ends a solution step.
      tokenizer: Path of the tokenizer where `tokenizer.path` names none; "" trains one.

    Raises:
      ValueError: If there is no query, or a value is none that these attributes allow.
    """

    train: Sequence[Query]
    _: dataclasses.KW_ONLY
    sft: Sequence[Query] | None = None
    calibration: Sequence[Query] | None = None
    heldout: Sequence[Query] | None = None
    name: str = ""
    reward: str | Callable = "text"
    step_reward: str | Callable | None = None
    correct_at: float = 1.0
    hint_prompt: str = ""
    answer_marker: str = ""
    separator: str = "\n"
    tokenizer: str = ""

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train is empty; a task has at least one query")
        for name in SPLITS:
            for query in getattr(self, name) or ():
                if not isinstance(query, Query):
                    raise ValueError(f"{name} has {query!r}; it holds queries, Query(prompt=...)")
        if not 0 < self.correct_at <= 1:
            raise ValueError(f"correct_at is {self.correct_at}; it is above 0 and at most 1")
        if isinstance(self.reward, str) and ":" not in self.reward and self.reward not in _KINDS:
            raise ValueError(
                f"reward is {self.reward!r}; it is one of {', '.join(_KINDS)}, or a function"
            )
        if self.name and not self.name.isidentifier():
            raise ValueError(f"name is {self.name!r}; it is an identifier of Python, or ''")


def load(config: Config, settings: SourceConfig, name: str, sizes: Mapping[str, int]) -> LoadedTask:
    """Calls the function of a source, and makes what it returns a loaded task.

    Args:
      config: The run's config, which the function gets.
      settings: The source's settings; those that the task decides itself are refused.
      name: Name of the source; "" takes the task's own.
      sizes: Number of queries of "sft", "calibration", "heldout" and "shots".

    Raises:
      UserError: If the function cannot be called, or returns no task that can be used.
    """
    for setting in ("path", "prompt", "answer_marker", "fields", "splits", "system", "keep"):
        if getattr(settings, setting) != getattr(SourceConfig(), setting):
            raise UserError(
                f"task.{setting} is set, but {settings.name} makes its own queries; drop it"
            )
    found = outside.load(settings.name)
    task = _call(found, config)
    name = name or task.name or found.name.rpartition(":")[2]
    source = source_of(task, settings, name)
    splits = _cut(task, name, config.seed, sizes, settings.name)
    return LoadedTask(
        name, splits, {name: source}, tokenizer=task.tokenizer, functions={name: found}
    )


def source_of(task: Task, settings: SourceConfig, name: str) -> Source:
    """Returns what a task and its settings say of how responses are graded.

    Args:
      task: The task.
      settings: Settings that stand above those of the task.
      name: Name of the source.

    Raises:
      UserError: If worker processes cannot find a function of the task.
    """
    reward = settings.reward or _name_of(task.reward, "reward")
    return Source(
        name,
        _answer_kind(reward, task.answer_marker),
        task.answer_marker,
        separator=task.separator,
        hint_prompt=settings.hint_prompt or task.hint_prompt or HINT_PROMPT,
        reward=absolute_function(reward) if ":" in reward else "",
        step_reward=absolute_function(
            settings.step_reward or _name_of(task.step_reward or "", "step_reward")
        ),
        correct_at=task.correct_at if settings.correct_at == 1.0 else settings.correct_at,
    )


def _call(found: outside.Outside, config: Config) -> Task:
    try:
        task = found.function(config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{found.name} failed:\n{outside.last_frames(error)}") from error
    if not isinstance(task, Task):
        raise UserError(
            f"{found.name} returned a {type(task).__name__}; it returns a Task: "
            "from bstar_jax import Query, Task"
        )
    return task


def _answer_kind(reward: str, marker: str) -> str:
    """Returns how answers are read: by the reward, or where it is a function after the marker."""
    if ":" not in reward:
        return reward
    return "text" if marker else "free"


def _name_of(function: str | Callable, role: str) -> str:
    """Returns the name by which worker processes find a function."""
    if isinstance(function, str):
        return function
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    code = getattr(function, "__code__", None)
    if not name.isidentifier() or module == "__main__" or code is None:
        raise UserError(
            f"{role} is {function!r}; worker processes find a function by its name at the top of "
            "a file: write it there (in a notebook with %%writefile FILE.py)"
        )
    return f"{code.co_filename}:{name}"


def _cut(
    task: Task, name: str, seed: int, sizes: Mapping[str, int], place: str
) -> dict[str, tuple[Query, ...]]:
    """Makes the splits, cutting from train what the task does not bring."""
    brought = {split: _named(getattr(task, split), split, name) for split in SPLITS}
    counts = Counter(query.query_id for queries in brought.values() for query in queries or ())
    ((most, count),) = counts.most_common(1)
    if count > 1:
        raise UserError(f"{place} has {count} queries of the id {most!r}; ids are unique in a task")
    found = Queries(brought["train"] or [], brought["calibration"], brought["heldout"], {}, (), ())
    needed = sizes if brought["sft"] is None else {**sizes, "sft": 0}
    cut, _ = split_queries(found, SplitFiles(()), seed, needed, place)
    given = brought["sft"]
    if given is not None:
        if len(given) < sizes["sft"]:
            raise UserError(
                f"{place} brings {len(given)} sft queries, but sft.examples is {sizes['sft']}; "
                "bring more, or lower it"
            )
        cut["sft"] = tuple(given[: sizes["sft"]])
    return cut


def _named(queries: Sequence[Query] | None, split: str, source: str) -> list[Query] | None:
    """Gives queries their split, their source and, where they have none, an id."""
    if queries is None:
        return None
    return [
        dataclasses.replace(
            query,
            query_id=query.query_id or f"{split}/{number}",
            split=split,
            source=source,
            fields=_plain(query, f"{split}/{number}"),
        )
        for number, query in enumerate(queries)
    ]


def _plain(query: Query, place: str) -> dict[str, Any]:
    """Returns a query's fields as values that JSON has, with the question that a hint repeats."""
    try:
        fields = json.loads(json.dumps(dict(query.fields), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"query {place}: its fields are no JSON values ({error}); use texts, numbers, lists "
            "and dictionaries"
        ) from error
    return {"question": query.prompt, **fields}
