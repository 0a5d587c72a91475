"""Records of files, and their fields, read by name or path, and by type.

A path goes into objects and lists: `reward_model.ground_truth`, `answers[0]`. A field whose whole
name is written like a path counts as that field. What is missing or of another type is refused,
with its file, line and field.
"""

from __future__ import annotations

import dataclasses
import decimal
import difflib
import re
from collections.abc import Mapping
from typing import Any

from bstar_jax.config import UserError
from bstar_jax.tasks.values import decode_plain, is_whole, kind, listed, plain

_STEP = re.compile(r"(?:^|\.)(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")


@dataclasses.dataclass(frozen=True)
class Record:
    """One record of a file, or an object in it.

    Attributes:
      place: Where it stands, "FILE, line N" or "FILE, row N", for messages.
      number: Its number in its split, from 0.
      values: Its fields; numbers are Decimals, digits as written.
      line: The line itself, of JSON Lines.
      remedy: What to do if a field has another name: a template holding {role} and {near}; "" if
        names cannot be chosen.
      inside: Precedes a field's name in messages; "" except in an object within a record.
      aliases: Names or paths of fields that the reader knows by other names: theirs by its own.
      unread: Names of other fields, which the file has and nobody asked for.
    """

    place: str
    number: int
    values: Mapping[str, object]
    line: str = ""
    remedy: str = ""
    inside: str = ""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def error(self, name: str, finding: str) -> UserError:
        """Makes an error about one field, for the caller to raise."""
        name = self.aliases.get(name, name)
        return UserError(f"{self.place}: field {self.inside + name!r}{finding}")

    def knows(self, name: str) -> bool:
        """Tells whether the field exists; it may be null or empty."""
        return not isinstance(_find(self.values, self.aliases.get(name, name)), _Missing)

    def has(self, name: str) -> bool:
        """Tells whether the field exists and is not empty; null, "" and spaces do not."""
        value = _find(self.values, self.aliases.get(name, name))
        is_empty = isinstance(value, _Missing) or value is None
        return not is_empty and not (isinstance(value, str) and not value.strip())

    def value(self, name: str, role: str) -> object:
        """Returns a field as it was decoded.

        Args:
          name: Name of the field, or path to it.
          role: What it is to the task, as in `FieldNames`.

        Raises:
          UserError: If there is none of that name; names the nearest, or what is there.
        """
        name = self.aliases.get(name, name)
        value = _find(self.values, name)
        if isinstance(value, _Missing):
            raise self._missing(name, role, value)
        return value

    def plain(self, names: tuple[str, ...] = ()) -> dict[str, object]:
        """Returns fields as plain JSON values; () stands for all.

        Raises:
          UserError: If a named field is missing, or a number has no plain value.
        """
        found = {name: self.value(name, "function") for name in names} or dict(self.values)
        values = {}
        for name, value in found.items():
            try:
                values[name] = plain(value)
            except ValueError as error:
                raise self.error(name, f": {error}") from error
        return values

    def text(self, name: str, role: str, *, numbers: bool = False) -> str:
        """Returns a field that is text and not empty; with `numbers` also a JSON number, as text.

        Raises:
          UserError: If it is missing, empty, or anything else.
        """
        value = self.value(name, role)
        if numbers and isinstance(value, decimal.Decimal):
            return f"{value:f}"
        if not isinstance(value, str):
            allowed = "text or a number" if numbers else "text"
            raise self.error(name, f" holds {kind(value)}; the {role} is {allowed}")
        if not value.strip():
            raise self.error(name, f" is empty; the {role} is text")
        if not is_whole(value):
            raise self.error(name, f" holds half of a character, as \\ud800 is; the {role} is text")
        return value

    def text_if_any(self, name: str, role: str) -> str:
        """Returns the same as `text`, or "" if the field is missing or says nothing."""
        return self.text(name, role) if self.has(name) else ""

    def texts(self, name: str, role: str, *, numbers: bool = False) -> list[str]:
        """Returns a field that is a list of texts: at least one, and none of them empty.

        Raises:
          UserError: If it is missing or anything else.
        """
        elements = self._elements(name, role)
        one = role.removesuffix("s")
        return [elements.text(element, one, numbers=numbers) for element in elements.values]

    def items(self, name: str, role: str) -> list[Record]:
        """Returns a field that is a list of objects, at least one, each as a record of its own.

        Raises:
          UserError: If it is missing or anything else.
        """
        elements = self._elements(name, role)
        one = role.removesuffix("s")
        return [elements.nested(element, one) for element in elements.values]

    def nested(self, name: str, role: str) -> Record:
        """Returns a field that is an object, as a record of its own.

        Raises:
          UserError: If it is missing or anything else.
        """
        value = self.value(name, role)
        if not isinstance(value, dict):
            raise self.error(name, f" holds {kind(value)}; the {role} is an object")
        return dataclasses.replace(
            self,
            values=value,
            remedy="",
            inside=f"{self.inside}{self.aliases.get(name, name)}.",
            aliases={},
            unread=(),
        )

    def decoded(self, name: str, role: str) -> object:
        """Returns a field whose text is JSON, decoded to plain Python values.

        Raises:
          UserError: If it is missing, not text, or not JSON.
        """
        text = self.text(name, role)
        try:
            return decode_plain(text)
        except ValueError as error:
            raise self.error(name, f" is not JSON: {error}") from error

    def _elements(self, name: str, role: str) -> Record:
        """Returns a field that is a list, as a record whose fields are its elements."""
        value = self.value(name, role)
        if not isinstance(value, list):
            raise self.error(name, f" holds {kind(value)}; the {role} are a list")
        if not value:
            raise self.error(name, f" is an empty list; of {role} there is at least one")
        name = self.aliases.get(name, name)
        values = {f"{name}[{place}]": element for place, element in enumerate(value)}
        return dataclasses.replace(self, values=values, aliases={}, unread=())

    def _missing(self, name: str, role: str, at: _Missing) -> UserError:
        """Makes the error about a field that is not there."""
        if at.before:
            return self._missing_inside(name, role, at)
        known = [*self.values, *self.unread]
        near = difflib.get_close_matches(name, known, 1, 0.0)
        hint = f"; the nearest is {self.inside + near[0]!r}" if near else ""
        if near and self.remedy:
            hint += ": " + self.remedy.format(role=role, near=near[0])
        return UserError(
            f"{self.place}: there is no field {self.inside + name!r} for the {role}{hint}"
        )

    def _missing_inside(self, name: str, role: str, at: _Missing) -> UserError:
        """Makes the error about a path that ends too early; `at` says where."""
        before = f"{self.place}: {self.inside + at.before!r}"
        if at.step.startswith("["):
            if isinstance(at.value, list):
                return UserError(
                    f"{before} has {len(at.value)} elements, so there is no {self.inside + name!r} "
                    f"for the {role}"
                )
            return UserError(f"{before} holds {kind(at.value)}, so {name!r} is not in it")
        if not isinstance(at.value, dict):
            element = "; an element of a list is written [0]" if isinstance(at.value, list) else ""
            return UserError(
                f"{before} holds {kind(at.value)}, which has no {at.step!r} for the {role}{element}"
            )
        known = sorted(at.value)
        near = difflib.get_close_matches(at.step, known, 1, 0.0)
        hint = f"; it has {listed(known)}" if known else "; it is empty"
        if near and self.remedy:
            hint += ": " + self.remedy.format(role=role, near=f"{at.before}.{near[0]}")
        return UserError(f"{before} has no {at.step!r}{hint}")


@dataclasses.dataclass(frozen=True)
class _Missing:
    """Where a path ends too early: `value`, at the path `before`, has no `step`."""

    before: str
    step: str
    value: object


def top(path: str) -> str:
    """Returns the field that a path begins with.

    Example: "reward_model.ground_truth" -> "reward_model"
    """
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _find(values: Mapping[str, object], path: str) -> object:
    """Follows a path; `_Missing` where it ends too early."""
    if path in values:
        return values[path]
    steps = list(_STEP.finditer(path))
    if "".join(step[0] for step in steps) != path or len(steps) < 2:
        return _Missing("", path, values)
    value: Any = values
    for step in steps:
        before = path[: step.start()]
        if step["name"] is not None:
            if not isinstance(value, Mapping) or step["name"] not in value:
                return _Missing(before, step["name"] if before else path, value)
            value = value[step["name"]]
        else:
            index = int(step["index"])
            if not isinstance(value, list) or index >= len(value):
                return _Missing(before, step[0], value)
            value = value[index]
    return value
