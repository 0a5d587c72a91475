"""Command lines: `--config=FILE[:VARIANT]`, `--config.a.b=value`, and the flags of each door.

ml_collections parses the flags. This module adds what it lacks: names are checked against the
schema before anything is parsed, however a flag is written; tuples are checked by the dataclasses;
and every mistake becomes a `UserError` of one line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from bstar_jax.config import settings
from bstar_jax.config.config import Config, from_dict
from bstar_jax.config.errors import UserError
from bstar_jax.config.loading import leave_to_checkpoint, load_config
from bstar_jax.config.schema import (
    KIND_NAMES,
    Occasion,
    free_settings,
    is_among,
    quoted,
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
      note: A line that says which settings of the file gave way to the checkpoint's, "" for none.
    """

    config: Config
    config_file: str
    flags: flags.FlagValues
    arguments: list[str]
    overridden: tuple[str, ...]
    note: str = ""


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
    words, after = _in_one_form(argv)
    words, config_file = _take_config(words)
    base = load_config(config_file) if config_file else stored or Config()
    dotted = to_dotted(to_dict(base))
    words = [_as_override(word, dotted) for word in words]
    overridden = tuple(_setting_name(word, dotted) for word in words if _is_override(word))
    words = _last_of_each(words)
    nested = ConfigDict(to_dict(base))
    config_flags.DEFINE_config_dict(
        "config", nested, flag_values=values, sys_argv=words, help_string="The run's settings."
    )
    try:
        arguments = values(words)[1:] + after
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error, values)) from None
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
        raise UserError(_unreadable(error, words, dotted)) from None
    config, note = from_dict(nested.to_dict()), ""
    if config_file:
        config, note = leave_to_checkpoint(config, overridden)
    return CommandLine(config, config_file, values, arguments, overridden, note)


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """The value of a door's flag, before anything is parsed; None if it is not given.

    Example: (["main", "-workdir", "runs/first"], "workdir") -> "runs/first".
    """
    words, _ = _in_one_form(argv)
    value = None
    for place, word in enumerate(words):
        flag, equals, rest = word.partition("=")
        if flag not in (f"--{name}", f"-{name}"):
            continue
        value = rest if equals else "".join(words[place + 1 : place + 2])
    return value


def run_target(door: str, argv: Sequence[str]) -> tuple[str, int | None]:
    """The run directory that a door takes, and its iteration, None if none is named.

    Example: ["evaluate", "runs/first@2", "--quiet"] -> ("runs/first", 2).

    Raises:
      UserError: If not exactly one is given, or if no number follows @.
    """
    words, after = _in_one_form(argv)
    targets = [word for word in words[1:] if not word.startswith("-")] + after
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


def _in_one_form(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line with flag files read and -config as --config, and what follows "--"."""
    try:
        read = flags.FlagValues().read_flags_from_files(list(argv[1:]))
    except (flags.Error, OSError) as error:
        raise UserError(f"--flagfile cannot be read: {error}") from None
    end = read.index("--") if "--" in read else len(read)
    words = [f"-{word}" if re.match(r"-(no)?config\b", word) else word for word in read[:end]]
    for word in words:
        if re.match(r"--?undefok\b", word):
            raise UserError(f"{word}: every flag is checked here; drop it, and the unknown flags")
    return [argv[0], *words], read[end + 1 :]


def _take_config(words: Sequence[str]) -> tuple[list[str], str]:
    """The command line without `--config=X` or `--config X`, and X."""
    rest, given = [], ""
    rest_of = iter(words)
    for word in rest_of:
        if word == "--config":
            given = next(rest_of, "")
        elif word.startswith("--config="):
            given = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, given


def _is_override(word: str) -> bool:
    return word.startswith("--config.")


def _as_override(word: str, values: Mapping[str, Any]) -> str:
    """--noconfig.NAME as --config.NAME=False; other words as they are."""
    if not word.startswith("--noconfig."):
        return word
    name = _setting_name(word.replace("--no", "--", 1), values)
    if not isinstance(values[name], bool) or "=" in word:
        raise UserError(f"{word} cannot be read; write --config.{name}=VALUE")
    return f"--config.{name}=False"


def _last_of_each(words: list[str]) -> list[str]:
    """The command line without overrides that a later one replaces: tuples would add up."""
    last = {word.partition("=")[0]: index for index, word in enumerate(words)}
    return [
        word
        for index, word in enumerate(words)
        if not _is_override(word) or last[word.partition("=")[0]] == index
    ]


def _setting_name(word: str, known: Mapping[str, Any]) -> str:
    """The name in `--config.NAME=value`, if there is such a setting."""
    name = word.removeprefix("--config.").partition("=")[0]
    if name in known:
        return name
    section = [other for other in known if other.startswith(f"{name}.")]
    if section:
        raise UserError(f"{name!r} is a section, not a setting; it holds {', '.join(section)}")
    negated = name.rpartition(".")[0] + "." + name.rpartition(".")[2].removeprefix("no")
    message = unknown_name(name, list(known))
    if negated in known:
        raise UserError(f"{message} ({negated}=False)")
    nearest = settings.find(message.rpartition(" is ")[2].strip("'"))
    raise UserError(f"{message} ({quoted(nearest.doc)})" if nearest else message)


def _unknown_flag(error: flags.UnrecognizedFlagError, values: flags.FlagValues) -> str:
    known = [name for name in values if not name.startswith("config.")]
    return unknown_name(f"--{error.flagname}", [f"--{name}" for name in known], "flag")


def _unreadable(error: Exception, words: list[str], values: Mapping[str, Any]) -> str:
    """The message for a value that could not be parsed: its setting, and what that takes."""
    for word in words:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if equals and name in values and f"config.{name}=" in str(error):
            setting = settings.find(name)
            said = f" ({quoted(setting.doc)})" if setting else ""
            kind = KIND_NAMES.get(type(values[name]), f"values, written as {name}=1,2")
            return f"{name} is {value!r}; it takes {kind}{said}"
    return f"the command line cannot be read: {error}"
