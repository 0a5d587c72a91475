"""How a config is checked: fields with ranges, errors that say what to write instead.

A section is a frozen dataclass whose fields are made by `setting`. Building one checks every
value; `from_dict` builds a tree of them, and refuses names that are not there.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping

from bstar_jax.config.errors import UserError

Section = typing.TypeVar("Section", bound="Checked")


def setting(default, doc, *, low=None, high=None, choices=None, above=None):
    """A config field with its meaning and range; tuples state the range of their elements.

    Args:
      default: The value where nothing is said.
      doc: Meaning and unit, one line.
      low: Smallest value allowed.
      high: Largest value allowed.
      choices: The values allowed, where they are few.
      above: Values must be strictly larger than this.
    """
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices, "above": above}
    return dataclasses.field(default=default, metadata=metadata)


class Checked:
    """Checks and converts every field by its type and range when the section is built.

    Attributes:
      prefix: What stands before a field's name in messages, such as "sft.".
    """

    prefix: typing.ClassVar[str] = ""

    def __post_init__(self):
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if not field.metadata:
                continue
            name = f"{self.prefix}{field.name}"
            value = _convert(name, getattr(self, field.name), hints[field.name])
            for element in value if isinstance(value, tuple) else (value,):
                _check_range(name, element, field.metadata)
            object.__setattr__(self, field.name, value)


KIND_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}


def _convert(name, value, kind):
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)) or not value:
            raise UserError(
                f"{name} is {value!r}; it takes one or more values, written as {name}=1,2"
            )
        return tuple(_convert(name, element, typing.get_args(kind)[0]) for element in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name} is {value!r}; it takes {KIND_NAMES[kind]}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{name} is {value!r}; it takes a finite number")
    return value


def _check_range(name, value, rule):
    if rule["choices"] is not None and value not in rule["choices"]:
        near = difflib.get_close_matches(str(value), map(str, rule["choices"]), 1, 0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        allowed = ", ".join(map(repr, rule["choices"]))
        raise UserError(f"{name} is {value!r}; it takes one of {allowed}{hint}")
    if rule["low"] is not None and value < rule["low"]:
        raise UserError(f"{name} is {value!r}; it takes {rule['low']} or more")
    if rule["high"] is not None and value > rule["high"]:
        raise UserError(f"{name} is {value!r}; it takes {rule['high']} or less")
    if rule["above"] is not None and value <= rule["above"]:
        raise UserError(f"{name} is {value!r}; it takes more than {rule['above']}")


def to_dict(config) -> dict:
    """The config as nested dictionaries of JSON values, tuples as tuples."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping, cls: type, prefix: str = ""):
    """Builds and checks a config from nested dictionaries; what is missing takes its default.

    Raises:
      UserError: On an unknown name (with the nearest valid one), type, range or combination.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    arguments = {}
    for name, value in values.items():
        if name not in names:
            raise UserError(unknown_name(prefix + name, [prefix + known for known in names]))
        kind = hints[name]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise UserError(f"{prefix}{name} is a section, not the value {value!r}")
            value = from_dict(value, kind, f"{prefix}{name}.")
        arguments[name] = value
    return cls(**arguments)


def changed(section: Section, changes: Mapping[str, object]) -> Section:
    """A copy of a section with some of its settings changed; checked once all are.

    Args:
      section: The section, which stays as it is.
      changes: New values by name. A dotted name reaches into a section inside this one, such as
        "fields.question" of `task`; the name of a section alone takes a whole section.

    Raises:
      UserError: On an unknown name (with the nearest valid one), type, range or combination.
    """
    kinds = typing.get_type_hints(type(section))
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    inside: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        own, dot, rest = name.partition(".")
        is_section = own in values and dataclasses.is_dataclass(kinds[own])
        if own not in values or (dot and not is_section):
            full, known = section.prefix + (name if own in values else own), list(values)
            raise UserError(unknown_name(full, [section.prefix + other for other in known]))
        if dot:
            inside.setdefault(own, {})[rest] = value
        elif is_section and type(value) is not kinds[own]:
            raise UserError(f"{section.prefix}{own} is a section, not the value {value!r}")
        else:
            values[own] = value
    for own, their_changes in inside.items():
        values[own] = changed(values[own], their_changes)
    return type(section)(**values)


def flatten(values: Mapping, prefix: str = "") -> dict:
    """Nested dictionaries to one with dotted names."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def unknown_name(name: str, known: list[str], kind: str = "setting") -> str:
    """Message for a name that is not there, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, 1, 0.0)
    return f"there is no {kind} {name!r}; the nearest is {near[0]!r}"
