"""Command lines: `--config=FILE[:VARIANT]`, `--config.a.b=value`, and errors to exit codes.

The flags are those of ml_collections. What it leaves open is closed here: names are checked
against the schema before anything is parsed, tuples go through the checked dataclasses, and
every mistake of a user ends in one clear line and exit code 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from bstar_jax.config.config import Config, from_dict
from bstar_jax.config.errors import UserError
from bstar_jax.config.loading import load_config
from bstar_jax.config.schema import KIND_NAMES, flatten, to_dict, unknown_name


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command line that has been understood.

    Attributes:
      config: The config, overrides applied.
      config_file: What `--config` named, "" where it was not given.
      flags: The door's own flags.
      arguments: What is not a flag.
      overridden: Names that were given as `--config.NAME=...`.
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
    """Reads a command line.

    Args:
      argv: As in `sys.argv`, the program's name first.
      define: Defines the door's own flags.
      stored: The config to override where `--config` is absent; the default config else.

    Raises:
      UserError: On anything that is not a valid flag or setting.
    """
    values = flags.FlagValues()
    define(values)
    argv, given = _take_config(list(argv))
    base = load_config(given) if given else stored or Config()
    known = list(flatten(to_dict(base)))
    overridden = tuple(_override_name(word, known) for word in argv if word.startswith("--config."))
    argv = _last_of_each(argv)
    settings = ConfigDict(to_dict(base))
    config_flags.DEFINE_config_dict(
        "config", settings, flag_values=values, sys_argv=argv, help_string="The run's settings."
    )
    try:
        arguments = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error, values)) from None
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
        raise UserError(_unreadable(error, argv, flatten(to_dict(base)))) from None
    config = from_dict(settings.to_dict())
    return CommandLine(config, given, values, arguments, overridden)


def run_target(door: str, argv: Sequence[str]) -> tuple[str, int | None]:
    """The run directory that a door takes, and the iteration where one is named.

    Example: ["evaluate", "runs/first@2", "--quiet"] -> ("runs/first", 2); without @ the second
    is None.

    Raises:
      UserError: If there is not exactly one, or what follows @ is no number.
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


def allow_overrides(door: str, line: CommandLine, allowed: tuple[str, ...]) -> None:
    """Refuses overrides of settings that a finished run was made with.

    Raises:
      UserError: With the first setting whose name begins with none of those allowed.
    """
    for name in line.overridden:
        if not name.startswith(allowed):
            raise UserError(
                f"{name} belongs to how the run was made; {door} changes {', '.join(allowed)}"
            )


def _take_config(argv: list[str]) -> tuple[list[str], str]:
    """Takes `--config=X` or `--config X` out of the command line."""
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
    """Drops an override that a later one of the same name replaces; tuples would pile up."""
    last = {word.partition("=")[0]: place for place, word in enumerate(argv)}
    return [
        word
        for place, word in enumerate(argv)
        if not word.startswith("--config.") or last[word.partition("=")[0]] == place
    ]


def _override_name(word: str, known: list[str]) -> str:
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


def _unreadable(error: Exception, argv: list[str], settings: dict) -> str:
    """Names the setting whose value could not be parsed, and what it takes."""
    for word in argv:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if equals and name in settings and f"config.{name}=" in str(error):
            kind = KIND_NAMES.get(type(settings[name]), f"values, written as {name}=1,2")
            return f"{name} is {value!r}; it takes {kind}"
    return f"the command line cannot be read: {error}"
