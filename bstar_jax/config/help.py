"""Help: what a door prints for --help and --helpfull, and the page about all settings.

All of it is written from the doors and from the schema, so it cannot differ from what they take.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from bstar_jax.config import settings
from bstar_jax.config.config import Config
from bstar_jax.config.door import Door
from bstar_jax.config.errors import UserError
from bstar_jax.config.flags import flag_value
from bstar_jax.config.loading import load_config
from bstar_jax.config.settings import Setting

PROGRAM = "bstar-jax"
PAGE_MARK = "<!-- made by python -m tests.settings --write -->"
_PAGE = (
    "The {count} settings of a run. Each is written as `--config.NAME=VALUE` on a command line, "
    "where several values stand between commas, and as `load_config(FILE, {{NAME: value}})` in "
    "Python. `--helpfull` prints them with the defaults of your `--config`."
)
_VALUES = {"int": "NUMBER", "comma separated list of strings": "NAME,NAME"}
_SHORT = ("help", "helpshort", "h", "?")
_WIDTH = 80  # columns
_COLUMN = 30  # where the text of a flag begins


def shows_help(door: Door, argv: Sequence[str]) -> bool:
    """Prints the help of a door if the command line asks for it, whatever else it says.

    Args:
      door: The door.
      argv: The command line; its first word is the program.

    Returns:
      Whether it was asked for, and nothing else is to be done.
    """
    asked = asks_for_help(argv)
    if asked:
        base, remark = _defaults_of(argv)
        print(door_help(door, base, remark=remark, is_full=asked == "full"))
    return bool(asked)


def asks_for_help(argv: Sequence[str]) -> str:
    """Returns "short" or "full" if a command line asks for help, else "".

    Example: ["main", "--config=x.py", "-h"] -> "short".
    """
    names = [word.lstrip("-") for word in argv[1:] if word.startswith("-")]
    if "helpfull" in names:
        return "full"
    return "short" if any(name in _SHORT for name in names) else ""


def door_help(door: Door, base: Config, *, remark: str = "", is_full: bool = False) -> str:
    """Writes the help of a door.

    Args:
      door: The door.
      base: The config whose values are shown as defaults.
      remark: What is said about them.
      is_full: Whether all settings are listed, or those that are changed most often.
    """
    values = settings.defaults(base)
    lines = textwrap.wrap(
        f"usage: {PROGRAM} {door.name} {door.usage}", _WIDTH, subsequent_indent=" " * 7,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    lines += [f"   or: python -m bstar_jax.{door.name} ...", "", *_wrapped(door.does, 0)]
    lines += ["", "flags", *_flag_lines(door), ""]
    lines += _all_lines(values) if is_full else _changed_lines(door, values)
    lines += [f"  {line}" for line in textwrap.wrap(remark, _WIDTH - 2)]
    lines += ["", "examples"]
    for example in door.examples:
        lines += _folded(f"{PROGRAM} {door.name} {example}")
    lines += ["", *_wrapped(f"exit codes: {door.ends}", 0)]
    return "\n".join(lines)


def settings_page() -> str:
    """Writes docs/settings.md: every setting, by section."""
    described = settings.all_settings()
    values = settings.defaults(Config())
    head = _PAGE.format(count=len(described))
    lines = ["# Settings", "", PAGE_MARK, "", *textwrap.wrap(head, 100)]
    for name, kind in settings.sections().items():
        of_section = [each for each in described.values() if each.section == name]
        lines += ["", f"## {name or 'Of the run'}", ""] if of_section else []
        if name:
            lines += [*textwrap.wrap(_purpose(kind), 100), ""] if of_section else []
        for each in of_section:
            shown = settings.written(values.get(each.name, each.default))
            said = _said(each).replace("<", r"\<")
            lines.append(f"- **`{each.name}`** = `{shown or repr('')}`. {said}")
    return "\n".join(lines) + "\n"


def _defaults_of(argv: Sequence[str]) -> tuple[Config, str]:
    """Returns the config whose values are shown, and what to say about it."""
    try:
        file = flag_value(argv, "config")
        if file:
            return load_config(file), f"Defaults are those of {file}."
    except UserError as error:
        return Config(), f"Defaults are those without a file, because {error}"
    return Config(), "Defaults are those without --config=FILE; give it to see its own."


def _flag_lines(door: Door) -> list[str]:
    lines = []
    if door.takes_config:
        lines += _row("--config=FILE[:VARIANT]", "Settings: a Python file with get_config().")
    lines += _row("--config.NAME=VALUE", "Changes one setting; several values between commas.")
    for flag in door.own_flags():
        lines += _row(_written_flag(flag), _flag_text(flag))
    lines += _row("--flagfile=FILE", "Reads more flags from a file, one a line.")
    return lines + _row("--help, --helpfull", "This text; the same with every setting.")


def _written_flag(flag: flags.Flag) -> str:
    choices = getattr(flag.parser, "enum_values", None)
    if flag.boolean:
        return f"--[no]{flag.name}" if flag.default else f"--{flag.name}"
    if choices:
        return f"--{flag.name}={'|'.join(choices)}"
    return f"--{flag.name}={_VALUES.get(flag.flag_type(), 'TEXT')}"


def _flag_text(flag: flags.Flag) -> str:
    text = re.sub("^<.*>: ", "", str(flag.help))  # absl lists the choices there
    return f"{text} [{flag.default}]" if flag.default else text


def _changed_lines(door: Door, values: Mapping[str, Any]) -> list[str]:
    described = settings.all_settings()
    shown = f"{len(door.changed)} of {len(described)}"
    lines = [f"settings most often changed ({shown}; all: --helpfull, docs/settings.md)"]
    for name in door.changed:
        default = settings.written(values[name]) or "''"
        lines += _row(f"--config.{name}=", f"{described[name].first_sentence} [{default}]")
    return lines


def _all_lines(values: Mapping[str, Any]) -> list[str]:
    described = settings.all_settings()
    lines = [f"all {len(described)} settings, with their defaults"]
    for name, kind in settings.sections().items():
        of_section = [each for each in described.values() if each.section == name]
        if of_section and name:
            lines += ["", *_wrapped(f"{name}: {_purpose(kind)}", 0)]
        for each in of_section:
            shown = settings.written(values.get(each.name, each.default))
            lines += [f"  --config.{each.name}={shown}", *_wrapped(_said(each), 6)]
    return lines


def _said(setting: Setting) -> str:
    takes = setting.takes()
    return f"{setting.doc} Takes {takes}. {setting.when}".strip()


def _purpose(kind: type) -> str:
    """Returns the first paragraph of a section's docstring."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def _row(flag: str, text: str) -> list[str]:
    """Writes a flag and its text, beside it or, where the flag is long, below it."""
    wrapped = _wrapped(text, _COLUMN)
    if len(flag) + 4 > _COLUMN:
        return [f"  {flag}", *wrapped]
    return [f"  {flag}".ljust(_COLUMN) + wrapped[0].strip(), *wrapped[1:]]


def _folded(command: str) -> list[str]:
    """Writes a command on as many lines as it takes, each but the last with a backslash."""
    lines = textwrap.wrap(
        command, _WIDTH - 2, initial_indent="  ", subsequent_indent=" " * 6,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
