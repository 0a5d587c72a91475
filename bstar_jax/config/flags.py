"""Command lines: `--config=FILE[:VARIANT]`, `--config.a.b=value`, and the flags of each door.

ml_collections parses the flags. This module adds what it lacks: names are checked against the
schema before anything is parsed, tuples are checked by the dataclasses, and every mistake becomes a
`UserError` of one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from bstar_jax.config.config import Config, from_dict
from bstar_jax.config.errors import UserError
from bstar_jax.config.loading import load_config
from bstar_jax.config.schema import (
    KIND_NAMES,
    Occasion,
    free_settings,
    is_among,
    to_dict,
    to_dotted,
    unknown_name,
)


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command line, parsed.

    Attributes:
      config: The config, with the overrides applied.
      config_file: The value of `--config`, "" if it was not given.
      flags: The door's own flags.
      arguments: The words that are not flags.
      overridden: The settings that were given as `--config.NAME=...`.
    """

    config: Config
    config_file: str
    flags: flags.FlagValues
    arguments: list[str]
    overridden: tuple[str, ...]


def parse(
    argv: Sequence[str],
    define: Callable[[flags.FlagValues], None],
    *,
    stored: Config | None = None,
) -> CommandLine:
    """Parses a command line.

    Args:
      argv: The words, as in `sys.argv`: the name of the program comes first.
      define: A function that defines the door's own flags.
      stored: The config to override if `--config` is not given; by default `Config()`.

    Raises:
      UserError: On an unknown flag or setting, or a value that it does not take.
    """
    values = flags.FlagValues()
    define(values)
    words, config_file = _take_config(argv)
    base = load_config(config_file) if config_file else stored or Config()
    dotted = to_dotted(to_dict(base))
    overridden = tuple(
        _setting_name(word, list(dotted)) for word in words if word.startswith("--config.")
    )
    words = _last_of_each(words)
    settings = ConfigDict(to_dict(base))
    config_flags.DEFINE_config_dict(
        "config", settings, flag_values=values, sys_argv=words, help_string="The run's settings."
    )
    try:
        arguments = values(words)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error, values)) from None
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
        raise UserError(_unreadable(error, words, dotted)) from None
    config = from_dict(settings.to_dict())
    return CommandLine(config, config_file, values, arguments, overridden)


def run_target(door: str, argv: Sequence[str]) -> tuple[str, int | None]:
    """The run directory that a door takes, and its iteration, None if none is named.

    Example: ["evaluate", "runs/first@2", "--quiet"] -> ("runs/first", 2).

    Raises:
      UserError: If not exactly one is given, or if no number follows @.
    """
    targets = [word for word in argv[1:] if not word.startswith("-")]
    if len(targets) != 1:
        raise UserError(
            f"{door} takes one run directory, such as runs/first or runs/first@2, not "
            f"{len(targets)}; write flags as --name=value"
        )
    directory, at, iteration = targets[0].rpartition("@")
    if not at:
        return targets[0], None
    if not iteration.isdecimal():
        raise UserError(f"{targets[0]}: what follows @ is an iteration, such as @2")
    return directory, int(iteration)


def check_overrides(line: CommandLine, occasion: Occasion) -> None:
    """Refuses overrides of settings that determine how a stored run was made.

    Args:
      line: The command line.
      occasion: What is done with the run.

    Raises:
      UserError: With the first setting that may not differ from the run's on this occasion.
    """
    free = free_settings(Config, occasion)
    for name in line.overridden:
        if not is_among(name, free):
            raise UserError(
                f"{name} determines how the run was made; {occasion} changes only {', '.join(free)}"
            )


def _take_config(argv: Sequence[str]) -> tuple[list[str], str]:
    """The command line without `--config=X` or `--config X`, and X."""
    rest, given = [], ""
    words = iter(argv)
    for word in words:
        if word in ("--config", "-config"):
            given = next(words, "")
        elif word.startswith(("--config=", "-config=")):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, given


def _last_of_each(argv: list[str]) -> list[str]:
    """The command line without overrides that a later one replaces: tuples would add up."""
    last = {word.partition("=")[0]: index for index, word in enumerate(argv)}
    return [
        word
        for index, word in enumerate(argv)
        if not word.startswith("--config.") or last[word.partition("=")[0]] == index
    ]


def _setting_name(word: str, known: list[str]) -> str:
    """The name in `--config.NAME=value`, if there is such a setting."""
    name = word.removeprefix("--config.").partition("=")[0]
    if name not in known:
        section = [other for other in known if other.startswith(f"{name}.")]
        if section:
            raise UserError(f"{name!r} is a section, not a setting; it holds {', '.join(section)}")
        negated = name.rpartition(".")[0] + "." + name.rpartition(".")[2].removeprefix("no")
        raise UserError(
            unknown_name(name, known) + (f" ({negated}=False)" if negated in known else "")
        )
    return name


def _unknown_flag(error: flags.UnrecognizedFlagError, values: flags.FlagValues) -> str:
    known = [name for name in values if not name.startswith("config.")]
    return unknown_name(f"--{error.flagname}", [f"--{name}" for name in known], "flag")


def _unreadable(error: Exception, argv: list[str], settings: Mapping[str, Any]) -> str:
    """The message for a value that could not be parsed: its setting, and what that takes."""
    for word in argv:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if equals and name in settings and f"config.{name}=" in str(error):
            kind = KIND_NAMES.get(type(settings[name]), f"values, written as {name}=1,2")
            return f"{name} is {value!r}; it takes {kind}"
    return f"the command line cannot be read: {error}"
