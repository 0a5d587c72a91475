"""Loads the queries of one source: a task by name and settings."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from bstar_jax.config import FieldNames, SourceConfig, TaskConfig, UserError
from bstar_jax.config.schema import absolute_function
from bstar_jax.records import Query
from bstar_jax.tasks import apps, arc, arithmetic, file, gsm8k, humaneval, mathematics, mbpp
from bstar_jax.tasks.download import fetch
from bstar_jax.tasks.file import LAYOUTS, is_function
from bstar_jax.tasks.format import Format
from bstar_jax.tasks.layout import find_files
from bstar_jax.tasks.reading import Queries, read_queries
from bstar_jax.tasks.splits import split_queries
from bstar_jax.tasks.task import LoadedTask
from bstar_jax.tasks.values import listed

# Stories are generated, but responses to them may come in files.
FORMATS = {
    module.FORMAT.name: module.FORMAT
    for module in (arithmetic, gsm8k, mathematics, arc, humaneval, mbpp, apps)
}
TASKS = (*FORMATS, *LAYOUTS)


def load(
    name: str,
    path: str = "",
    *,
    seed: int,
    sft_examples: int,
    calibration_queries: int,
    heldout_queries: int,
    train_queries: int = 10240,
    shots: int = 0,
    most_left_out: float = 0.05,
    **settings: object,
) -> LoadedTask:
    """Loads or generates a task; the same arguments give the same task.

    Args:
      name: One of `TASKS`.
      path: The data, as `task.path`; "" for a generated task.
      seed: Decides which records are held out, or what is generated.
      sft_examples: Number of queries in the split sft.
      calibration_queries: Number of queries in the split calibration.
      heldout_queries: Number of queries in the split heldout.
      train_queries: Queries of the split train, if generated; of a file, train is all that is left.
      shots: Number of solved train examples put before every prompt, and taken out of train.
      most_left_out: As `task.most_left_out`.
      **settings: Other settings of `SourceConfig`.

    Returns:
      The task; its splits have exactly the sizes asked for.

    Raises:
      UserError: As `load_source`.
    """
    source = SourceConfig(name=name, path=path, **settings)  # pyright: ignore[reportArgumentType]  # settings check their own types
    sizes = {
        "sft": sft_examples,
        "train": train_queries,
        "calibration": calibration_queries,
        "heldout": heldout_queries,
        "shots": shots,
    }
    return load_source(source, seed=seed, sizes=sizes, most_left_out=most_left_out)


def load_source(
    settings: SourceConfig,
    *,
    seed: int,
    sizes: Mapping[str, int],
    most_left_out: float,
    keep_repeats: bool = False,
) -> LoadedTask:
    """Loads or generates the queries of one source, as a task.

    Args:
      settings: Its settings.
      seed: Decides which records are held out, or what is generated.
      sizes: Number of queries that "sft", "train" (if generated), "calibration", "heldout" and
        "shots" take.
      most_left_out: As `task.most_left_out`.
      keep_repeats: Whether repeats of a question stay.

    Raises:
      UserError: If the name is unknown, a file is missing, broken or too short, a field is
        missing or of the wrong type, an id occurs twice, an answer cannot be read, or there are
        too few human solutions.
    """
    form = find_format(settings)
    if form.name == "arithmetic":
        return _generate(settings, form, seed, sizes)
    if not settings.path:
        raise UserError(
            f"task.path is '', but task {form.name!r} reads a file; "
            "add --config.task.path=FILE_OR_FOLDER"
        )
    path, notes = fetch(settings.path)
    layout = find_files(pathlib.Path(path), settings.splits)
    if layout.unread:
        notes += (f"{path} has other data that is not read: {listed(layout.unread)}",)
    found = read_queries(
        layout,
        dataclasses.replace(form, prompt=settings.prompt or form.prompt),
        drop=settings.unreadable == "drop",
        most_left_out=most_left_out,
        keep_repeats=keep_repeats,
    )
    _check_chats(found, settings, sizes)
    splits, shown = split_queries(found, layout, seed, sizes, path)
    shots = "".join(f"{query.prompt}{query.solution}\n\n" for query in shown)
    return form.task(
        {split: _after(shots, queries) for split, queries in splits.items()},
        hint_prompt=settings.hint_prompt,
        shots=shots,
        places=found.places,
        notes=notes + found.notes,
        left_out=found.left_out,
    )


def check_distinct(settings: TaskConfig, distinct: str) -> None:
    """Checks that responses to a task can be told apart as a config says.

    Args:
      settings: The task, which need not be loaded.
      distinct: What tells repeats apart, as `balance.distinct`.

    Raises:
      UserError: If equations do, and responses have none.
    """
    for source in settings.all_sources().values():
        if distinct != "equations" or is_function(source.name):
            continue
        form = find_format(source)
        if form.source.equations is None:
            kind = (source.reward or "number") if source.name in LAYOUTS else source.name
            raise UserError(
                f"balance.distinct is 'equations', but responses of task {kind!r} have none to "
                "tell them apart by; use balance.distinct=text"
            )


def find_format(settings: SourceConfig) -> Format:
    """Finds the format of a source's files.

    Raises:
      UserError: If the name is unknown, or settings do not go together.
    """
    name, reward = settings.name, settings.reward
    if name not in TASKS:
        raise UserError(f"task.name is {name!r}; it takes one of {', '.join(TASKS)}")
    if name in LAYOUTS:
        form = file.format_for(
            name, settings.fields, reward=reward, answer_marker=settings.answer_marker
        )
    else:
        form = _published(FORMATS[name], settings)
    wants_record = is_function(reward) or is_function(settings.step_reward)
    if settings.keep and not wants_record:
        raise UserError(
            f"task.keep is {settings.keep!r}, but no function gets the fields of a record; drop "
            "it, or give task.reward a function"
        )
    keeps = tuple(filter(None, (name.strip() for name in settings.keep.split(","))))
    source = dataclasses.replace(
        form.source,
        reward=absolute_function(form.source.reward),
        step_reward=absolute_function(settings.step_reward),
        correct_at=settings.correct_at,
    )
    return dataclasses.replace(form, source=source, keeps=keeps if wants_record else form.keeps)


def _published(form: Format, settings: SourceConfig) -> Format:
    """Changes a published format as settings say."""
    kind, reward = form.source.answer_kind, settings.reward
    if reward not in ("", kind) and not is_function(reward):
        raise UserError(
            f"task.reward is {reward!r}, but task {form.name} is graded as {kind!r}; drop it, give "
            "a function, or read its files by task.name=file"
        )
    changes = (settings.fields, settings.answer_marker)
    if form.name == "arithmetic" and changes != (FieldNames(), ""):
        raise UserError(
            f"task arithmetic makes its own queries; drop task.answer_marker="
            f"{settings.answer_marker!r} and {settings.fields}, or use task.name=file"
        )
    form = form.changed(settings.fields, settings.answer_marker, file.REMEDY)
    if is_function(reward):
        form = dataclasses.replace(form, source=dataclasses.replace(form.source, reward=reward))
    return form


def _generate(
    settings: SourceConfig, form: Format, seed: int, sizes: Mapping[str, int]
) -> LoadedTask:
    if sizes["shots"]:
        raise UserError(
            f"task.shots is {sizes['shots']}, but task 'arithmetic' shows no examples, as its "
            "models learn from warm-up alone; drop it"
        )
    templates = {"prompt": settings.prompt, "hint_prompt": settings.hint_prompt}
    task = arithmetic.load(seed=seed, sizes=sizes, **templates)
    (source,) = task.sources.values()
    source = dataclasses.replace(form.source, hint_prompt=source.hint_prompt)
    return dataclasses.replace(task, sources={source.name: source})


def _check_chats(found: Queries, settings: SourceConfig, sizes: Mapping[str, int]) -> None:
    """Refuses what would be put before or around a prompt that is a chat."""
    queries = (*found.train, *(found.calibration or ()), *(found.heldout or ()))
    first = next((query for query in queries if query.messages), None)
    if first is None:
        return
    place = found.places[first.query_id]
    if settings.prompt:
        raise UserError(
            f"{place}: the question is a list of chat messages, but task.prompt is a template for "
            "texts; drop task.prompt"
        )
    if sizes["shots"]:
        raise UserError(
            f"{place}: the question is a list of chat messages, which task.shots={sizes['shots']} "
            "puts no examples before; drop task.shots"
        )


def _after(shots: str, queries: tuple[Query, ...]) -> tuple[Query, ...]:
    """Puts solved examples before the prompts of queries."""
    return tuple(dataclasses.replace(query, prompt=shots + query.prompt) for query in queries)
