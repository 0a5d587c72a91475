"""Every setting with what is said about it: help, documents and completion are made of this."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from bstar_jax.config.config import Config
from bstar_jax.config.schema import KIND_NAMES, Section, to_dict, to_dotted

_ANY_SOURCE = "task.sources.NAME."


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is said about a setting. But for the first two, the attributes are those of `setting`.

    Attributes:
      name: The dotted name, as in `--config.NAME=value`.
      kind: The type of the value; of a tuple, that of its elements.
      is_tuple: Whether it takes one or more values.
    """

    name: str
    kind: type
    is_tuple: bool
    default: Any
    doc: str
    when: str
    unit: str
    low: float | None
    high: float | None
    above: float | None
    choices: tuple[str, ...] | None
    takes_functions: bool

    def takes(self) -> str:
        """Says which values it takes. Example: "a whole number of steps, 1 or more"."""
        if self.choices is not None:
            values = [choice or repr(choice) for choice in self.choices]
            values += ["FILE.py:FUNCTION", "MODULE:FUNCTION"] if self.takes_functions else []
            return "one of " + ", ".join(values) if len(values) > 1 else values[0]
        said = KIND_NAMES[self.kind]
        if self.is_tuple:
            plural = {int: "whole numbers", float: "numbers", str: "texts", bool: "True or False"}
            said = f"{plural[self.kind]} between commas"
        if self.unit:
            said += f" ({self.unit})"
        limits = [
            (self.low, f"{self.low} or more"),
            (self.above, f"more than {self.above}"),
            (self.high, f"at most {self.high}"),
        ]
        return ", ".join([said, *(text for limit, text in limits if limit is not None)])

    @property
    def first_sentence(self) -> str:
        """What it does, without the details."""
        return self.doc.partition(". ")[0].rstrip(".") + "."

    @property
    def section(self) -> str:
        """The dotted name of its section; "" for a setting of none."""
        return self.name.rpartition(".")[0]


def sections() -> dict[str, type[Section]]:
    """Returns the sections of a config by dotted name, in its order; "" is the config itself."""
    return dict(_sections(Config, ""))


def all_settings() -> dict[str, Setting]:
    """Returns all settings by dotted name, in the order of config.json.

    Of the settings of named sources, which are those of the task, only those that the task has not
    itself are listed: `task.sources.NAME.share`.
    """
    found: dict[str, Setting] = {}
    for name, kind in sections().items():
        prefix = f"{name}." if name else ""
        for setting in _settings_of(kind, prefix):
            of_task = setting.name.replace(_ANY_SOURCE, "task.")
            if of_task == setting.name or of_task not in found:
                found[setting.name] = setting
    return found


def find(name: str) -> Setting | None:
    """Returns what is said about a setting, also of a named source; None if there is none.

    Example: "task.sources.math.path" -> the setting "task.path".
    """
    settings = all_settings()
    if name.startswith("task.sources."):
        inner = name.split(".", 3)[-1]
        return settings.get(f"{_ANY_SOURCE}{inner}") or settings.get(f"task.{inner}")
    return settings.get(name)


def defaults(config: Config) -> dict[str, Any]:
    """Returns the values of a config by dotted name."""
    return to_dotted(to_dict(config))


def written(value: Any) -> str:
    """Writes a value as a flag takes it. Example: (0.5, 0.7) -> "0.5,0.7"."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _sections(kind: type[Section], name: str) -> typing.Iterator[tuple[str, type[Section]]]:
    yield name, kind
    hints = typing.get_type_hints(kind)
    prefix = f"{name}." if name else ""
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        inner = [each for each in (hint, *typing.get_args(hint)) if isinstance(each, type)]
        for each in inner:
            if issubclass(each, Section):
                place = f"{prefix}{field.name}"
                yield from _sections(each, place if each is hint else f"{place}.NAME")


def _settings_of(kind: type[Section], prefix: str) -> list[Setting]:
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        if not field.metadata:
            continue
        hint = hints[field.name]
        is_tuple = typing.get_origin(hint) is tuple
        said = {name: value for name, value in field.metadata.items() if name != "may_differ_on"}
        if said["choices"] is not None:
            said["choices"] = tuple(said["choices"])
        element = typing.get_args(hint)[0] if is_tuple else hint
        name = prefix + field.name
        found.append(Setting(name, element, is_tuple, field.default, **said))
    return found
