"""Declares and checks settings, and converts a config to and from dictionaries.

A section of the config is a frozen dataclass that derives from `Section`. Each of its fields is
made by `setting`, which says everything about it. Building a section checks every value.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import math
import os
import re
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from bstar_jax.config.errors import UserError

# What is done with a stored model or run while some settings differ from the stored ones: a
# checkpoint is imported; a run is resumed, evaluated or exported.
Occasion = Literal["import", "resume", "evaluate", "export"]

KIND_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}

_LONGEST_QUOTE = 90  # characters of a setting's text in an error

Value = TypeVar("Value")
SomeSection = TypeVar("SomeSection", bound="Section")


def setting(
    default: Value,
    doc: str,
    *,
    when: str = "",
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
    takes_functions: bool = False,
    may_differ_on: Sequence[Occasion] = (),
) -> Value:
    """Declares a field of a section. Everything that is said about a setting comes from here.

    Args:
      default: The value where nothing else is given.
      doc: What the setting does, and what special values such as 0 mean.
      when: When to change it, and which way.
      unit: What a number counts or measures, such as "tokens"; "" for a ratio or a plain number.
      low: The smallest value allowed. Of a tuple, each element must keep to the range.
      high: The largest value allowed.
      above: What the value must exceed.
      choices: The values allowed, where they are few.
      takes_functions: Whether a function, FILE.py:NAME or MODULE:NAME, is allowed beside `choices`.
      may_differ_on: Occasions on which the value may differ from the stored one.
    """
    rules = {"low": low, "high": high, "above": above, "choices": choices}
    rules["takes_functions"] = takes_functions
    texts = {"doc": doc, "when": when, "unit": unit, "may_differ_on": tuple(may_differ_on)}
    return dataclasses.field(default=default, metadata={**texts, **rules})


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of settings. Each is checked, and converted to its type, when the section is built.

    Attributes:
      prefix: What precedes the name of a setting in messages, such as "sft.".
      may_differ_on: As for `setting`, for all settings of the section at once.
    """

    prefix: ClassVar[str] = ""
    may_differ_on: ClassVar[tuple[Occasion, ...]] = ()

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if not field.metadata:
                continue
            name = f"{self.prefix}{field.name}"
            try:
                value = _convert(name, getattr(self, field.name), kinds[field.name])
                for element in value if isinstance(value, tuple) else (value,):
                    _check_range(name, element, field.metadata)
            except UserError as error:
                raise UserError(f"{error} ({quoted(field.metadata['doc'])})") from None
            object.__setattr__(self, field.name, value)


def _convert(name: str, value: Any, kind: Any) -> Any:
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


def _check_range(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    low, high, above, choices = (rules[rule] for rule in ("low", "high", "above", "choices"))
    unit = f" {rules['unit']}" if rules["unit"] else ""
    if choices is not None and value not in choices:
        if rules["takes_functions"]:
            _check_function_name(name, value, choices)
        else:
            _refuse_choice(name, value, choices, "")
    if low is not None and value < low:
        raise UserError(f"{name} is {value!r}; it takes {low} or more{unit}")
    if high is not None and value > high:
        raise UserError(f"{name} is {value!r}; it takes {high} or less{unit}")
    if above is not None and value <= above:
        raise UserError(f"{name} is {value!r}; it takes more than {above}{unit}")


def _refuse_choice(name: str, value: Any, choices: Sequence[str], others: str) -> NoReturn:
    near = difflib.get_close_matches(str(value), [each for each in choices if each], 1, 0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(map(repr, filter(None, choices)))
    one_of = f"one of {listed}{others}" if listed else others.removeprefix(", or ")
    raise UserError(f"{name} is {value!r}; it takes {one_of}{hint}")


def _check_function_name(name: str, value: str, choices: Sequence[str]) -> None:
    """Checks the form of MODULE:NAME or FILE.py:NAME. Whether it exists is found at the start."""
    place, colon, function = value.rpartition(":")
    if not colon and value.endswith(".py"):
        raise UserError(
            f"{name} is {value!r}, which names a file, not a function in it; write {value}:NAME"
        )
    is_module = all(part.isidentifier() for part in place.split("."))
    if not colon or not (place.endswith(".py") or is_module) or not function.isidentifier():
        _refuse_choice(name, value, choices, ", or FILE.py:FUNCTION, or MODULE:FUNCTION")


def quoted(doc: str) -> str:
    """Quotes the first statement of a setting's text, for an error about the setting.

    Example: "Sampling temperatures of the grid; 0 is greedy." -> '"Sampling temperatures of the
    grid"', with the quotation marks.
    """
    first = re.split(r"[.;:] ", doc)[0].rstrip(".")
    return f'"{textwrap.shorten(first, _LONGEST_QUOTE, placeholder=" ...")}"'


def absolute_function(name: str) -> str:
    """Returns the name of a function with its file, if it is in one, as an absolute path.

    Example, in /home/me: "score.py:judge" -> "/home/me/score.py:judge"; "mine:judge" stays.
    """
    place, colon, function = name.rpartition(":")
    return f"{os.path.abspath(place)}:{function}" if colon and place.endswith(".py") else name


def to_dict(section: Section) -> dict[str, Any]:
    """The section as nested dictionaries of JSON values; tuples stay tuples."""
    return dataclasses.asdict(section)


def from_dict(values: Mapping[str, Any], kind: type[SomeSection]) -> SomeSection:
    """Builds and checks a section from nested dictionaries; what is missing takes its default.

    Args:
      values: Settings by name; a section inside this one is a dictionary, too.
      kind: The class of the section.

    Raises:
      UserError: On an unknown name (with the nearest valid one), type, range or combination.
    """
    kinds = _field_kinds(kind)
    arguments = {}
    for name, value in values.items():
        _check_name(name, kind, kinds)
        inner = kinds[name]
        if _is_section(inner):
            if not isinstance(value, Mapping):
                raise UserError(f"{kind.prefix}{name} is a section, not the value {value!r}")
            value = from_dict(value, inner)
        elif named := _section_by_name(inner):
            value = {
                key: value[key] if isinstance(value[key], named) else from_dict(value[key], named)
                for key in sorted(value)
            }
        arguments[name] = value
    return kind(**arguments)


def changed(section: SomeSection, changes: Mapping[str, object]) -> SomeSection:
    """A copy of a section with some of its settings changed, checked once all changes are made.

    Args:
      section: The section, which stays as it is.
      changes: New values by name. A dotted name reaches into a section inside this one, such as
        "fields.question" of `task`. The name of a section takes a section of the same class.

    Raises:
      UserError: On an unknown name (with the nearest valid one), type, range or combination.
    """
    kind, kinds = type(section), _field_kinds(type(section))
    values = {name: getattr(section, name) for name in kinds}
    inside: dict[str, dict[str, object]] = {}
    for full_name, value in changes.items():
        name, _, inner_name = full_name.partition(".")
        _check_name(name, kind, kinds)
        is_section = _is_section(kinds[name])
        if inner_name and not (is_section or _section_by_name(kinds[name])):
            _check_name(full_name, kind, kinds)
        if inner_name:
            inside.setdefault(name, {})[inner_name] = value
        elif is_section and type(value) is not kinds[name]:
            raise UserError(f"{kind.prefix}{name} is a section, not the value {value!r}")
        else:
            values[name] = value
    for name, inner_changes in inside.items():
        is_section = _is_section(kinds[name])
        change = changed if is_section else functools.partial(_changed_by_name, kind.prefix + name)
        values[name] = change(values[name], inner_changes)
    return kind(**values)


def _changed_by_name(
    name: str, sections: Mapping[str, SomeSection], changes: Mapping[str, object]
) -> dict[str, SomeSection]:
    """Changes settings of sections that have names, such as "math.share" of `task.sources`."""
    values = dict(sections)
    inside: dict[str, dict[str, object]] = {}
    for full_name, value in changes.items():
        key, _, inner_name = full_name.partition(".")
        if key not in values:
            raise UserError(unknown_name(f"{name}.{key}", [f"{name}.{other}" for other in values]))
        inside.setdefault(key, {})[inner_name] = value
    for key, inner_changes in inside.items():
        values[key] = changed(values[key], inner_changes)
    return values


def free_settings(kind: type[Section], occasion: Occasion) -> tuple[str, ...]:
    """The settings that may differ from the stored ones on an occasion.

    Example: for `Config` and "export", ("mesh.*", "log.*"): any setting of these two sections.
    """
    found: list[str] = []
    kinds = _field_kinds(kind)
    for field in dataclasses.fields(kind):
        inner = kinds[field.name]
        if _section_by_name(inner):
            continue
        if not _is_section(inner):
            if occasion in field.metadata["may_differ_on"]:
                found.append(kind.prefix + field.name)
        elif occasion in inner.may_differ_on:
            found.append(f"{inner.prefix}*")
        else:
            found += free_settings(inner, occasion)
    return tuple(found)


def is_among(name: str, patterns: Sequence[str]) -> bool:
    """Whether a setting is one of `free_settings`. Example: "mesh.data" is among ("mesh.*",)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def to_dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one: {"sft": {"steps": 3}} -> {"sft.steps": 3}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(to_dotted(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def unknown_name(name: str, known: Sequence[str], what: str = "setting") -> str:
    """The message for a name that does not exist, with the nearest name that does."""
    near = difflib.get_close_matches(name, known, 1, 0.0)
    return f"there is no {what} {name!r}; the nearest is {near[0]!r}"


def _field_kinds(kind: type[Section]) -> dict[str, Any]:
    """The type of each field: a class of settings, or what `_convert` takes."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _section_by_name(kind: object) -> type[Section] | None:
    """The class of the sections in a field of sections that have names; None of any other field."""
    arguments = typing.get_args(kind)
    is_mapping = typing.get_origin(kind) is Mapping and _is_section(arguments[1])
    return arguments[1] if is_mapping else None


def _check_name(name: str, kind: type[Section], kinds: Mapping[str, Any]) -> None:
    if name not in kinds:
        raise UserError(unknown_name(kind.prefix + name, [kind.prefix + known for known in kinds]))
