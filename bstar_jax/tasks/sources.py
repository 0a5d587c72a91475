"""Loads the task of a run: the queries of its one source, or of several together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bstar_jax.config import Config, SourceConfig, UserError
from bstar_jax.config.task import names_source
from bstar_jax.records import SPLITS, Query
from bstar_jax.tasks import own
from bstar_jax.tasks.loading import check_distinct, load_source
from bstar_jax.tasks.mixture import divide, mixed, shares_of
from bstar_jax.tasks.task import LoadedTask


def load_task(config: Config, *, keep_repeats: bool = False) -> LoadedTask:
    """Loads the task of a run; the same config and data give the same task.

    Args:
      config: All settings; the task's, and the number of queries that each phase takes.
      keep_repeats: Whether repeats of a question stay, as in runs of earlier versions.

    Raises:
      UserError: If a source cannot be read or made, with its name where there are several.
    """
    check_distinct(config.task, config.balance.distinct)
    sources = config.task.all_sources()
    sizes: dict[str, int] = {
        "sft": config.sft.examples,
        "calibration": config.calibrate.queries,
        "heldout": config.monitor.queries,
        "shots": config.task.shots,
    }
    if not config.task.sources:
        return _load_source(config, "", sources[""], sizes, keep_repeats=keep_repeats)
    if config.task.shots:
        raise UserError(
            f"task.shots is {config.task.shots}, but examples belong to one source; set it to 0, "
            "and put examples into the prompts of task.sources"
        )
    shares = shares_of(sources, _counts(config, sources))
    divided = {split: divide(count, shares) for split, count in sizes.items()}
    parts = {}
    for name, settings in sources.items():
        mine = {split: counts[name] for split, counts in divided.items()}
        parts[name] = _renamed(_load_source(config, name, settings, mine), name)
    return mixed(parts, shares if config.generate.queries else {})


def _counts(config: Config, sources: Mapping[str, SourceConfig]) -> dict[str, int]:
    """Counts the queries of each source, if shares depend on them."""
    if any(settings.share for settings in sources.values()):
        return {}
    nothing: dict[str, int] = dict.fromkeys(("sft", "calibration", "heldout", "shots"), 0)
    return {
        name: len(_load_source(config, name, settings, nothing).splits["train"])
        for name, settings in sources.items()
    }


def _load_source(
    config: Config,
    name: str,
    settings: SourceConfig,
    sizes: Mapping[str, int],
    *,
    keep_repeats: bool = False,
) -> LoadedTask:
    with names_source(name):
        if ":" in settings.name:
            return own.load(config, settings, name, sizes)
        part = load_source(
            settings,
            seed=config.seed,
            sizes={**sizes, "train": config.task.train_queries},
            most_left_out=config.task.most_left_out,
            keep_repeats=keep_repeats,
        )
        return _with_system(part, settings.system, config) if settings.system else part


def _with_system(part: LoadedTask, system: str, config: Config) -> LoadedTask:
    """Puts a system message before the chats that have none."""

    def changed(query: Query) -> Query:
        messages = query.messages or (("user", query.prompt),) * config.task.chat_template
        if not messages:
            raise UserError(
                f"task.system is {system!r}, but prompts are plain texts; set "
                "task.chat_template=True, or drop it"
            )
        if messages[0][0] == "system":
            return query
        return dataclasses.replace(query, messages=(("system", system), *messages))

    splits = {name: tuple(map(changed, part.splits[name])) for name in SPLITS}
    return dataclasses.replace(part, splits=splits)


def _renamed(part: LoadedTask, name: str) -> LoadedTask:
    """Gives a loaded source the name that it has in `task.sources`."""
    (source,) = part.sources.values()
    splits = {
        split: tuple(dataclasses.replace(query, source=name) for query in part.splits[split])
        for split in SPLITS
    }
    sources = {name: dataclasses.replace(source, name=name)}
    functions = dict.fromkeys([name], *part.functions.values()) if part.functions else {}
    return dataclasses.replace(part, splits=splits, sources=sources, functions=functions)
