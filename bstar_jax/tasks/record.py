"""JSON Lines files: their records, and the fields of a record, read by name and type.

Blank lines hold no record. What is broken, missing or of another type is refused, with its file,
line and field.
"""

from __future__ import annotations

import dataclasses
import decimal
import difflib
import json
import pathlib
from collections.abc import Iterator, Mapping

from bstar_jax.config import UserError

# Keeps numbers as they are written, whatever their size.
_JSON = json.JSONDecoder(
    parse_int=decimal.Decimal, parse_float=decimal.Decimal, parse_constant=decimal.Decimal
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One line of a file, or an object in it.

    Attributes:
      place: The line, "FILE, line N", for messages.
      number: Its number in the file, from 0.
      values: Its fields; numbers are Decimals, digits as written.
      line: The line itself.
      remedy: What to do if a field has another name: a template holding {role} and {near}; "" if
        names cannot be chosen.
      inside: Precedes a field's name in messages; "" except in an object within a line.
    """

    place: str
    number: int
    values: Mapping[str, object]
    line: str = ""
    remedy: str = ""
    inside: str = ""

    def error(self, name: str, finding: str) -> UserError:
        """Makes an error about one field, for the caller to raise."""
        return UserError(f"{self.place}: field {self.inside + name!r}{finding}")

    def has(self, name: str) -> bool:
        """Tells whether the field is there and says something; null, "" and spaces do not."""
        value = self.values.get(name)
        return value is not None and not (isinstance(value, str) and not value.strip())

    def value(self, name: str, role: str) -> object:
        """Returns a field as it was decoded.

        Args:
          name: Name of the field.
          role: What it is to the task, as in `FieldNames`.

        Raises:
          UserError: If there is none of that name; names the nearest.
        """
        if name not in self.values:
            near = difflib.get_close_matches(name, self.values, 1, 0.0)
            hint = f"; the nearest is {self.inside + near[0]!r}" if near else ""
            if near and self.remedy:
                hint += ": " + self.remedy.format(role=role, near=near[0])
            raise UserError(
                f"{self.place}: there is no field {self.inside + name!r} for the {role}{hint}"
            )
        return self.values[name]

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
        return dataclasses.replace(self, values=value, remedy="", inside=f"{self.inside}{name}.")

    def decoded(self, name: str, role: str) -> object:
        """Returns a field whose text is JSON, decoded to plain Python values.

        Raises:
          UserError: If it is missing, not text, or not JSON.
        """
        text = self.text(name, role)
        try:
            return _PLAIN_JSON.decode(text)
        except ValueError as error:
            raise self.error(name, f" is not JSON: {error}") from error

    def _elements(self, name: str, role: str) -> Record:
        """Returns a field that is a list, as a record whose fields are its elements."""
        value = self.value(name, role)
        if not isinstance(value, list):
            raise self.error(name, f" holds {kind(value)}; the {role} are a list")
        if not value:
            raise self.error(name, f" is an empty list; of {role} there is at least one")
        values = {f"{name}[{place}]": element for place, element in enumerate(value)}
        return dataclasses.replace(self, values=values)


def read_records(file: pathlib.Path, remedy: str = "") -> Iterator[Record]:
    """Reads the records of a file, in their order.

    Raises:
      UserError: If there is no file, no record in it, or a line is not a JSON object.
    """
    if not file.is_file():
        raise UserError(
            f"there is no file {file}; task.path is a .jsonl file, or a folder with train.jsonl"
        )
    number = 0
    # Only \n ends a line: JSON strings may hold other characters that end lines elsewhere.
    for line_number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {line_number}"
        try:
            text = line.decode("utf-8-sig")
            values = _JSON.decode(text)
        except UnicodeDecodeError as error:
            raise UserError(f"{place}, byte {error.start + 1}: not UTF-8 text") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{place}, column {error.colno}: not JSON: {error.msg}") from error
        if not isinstance(values, dict):
            raise UserError(f"{place} holds {kind(values)}; each line is a JSON object")
        yield Record(place, number, values, text, remedy)
        number += 1
    if number == 0:
        raise UserError(f"{file} holds no records; each line is a JSON object")


def kind(value: object) -> str:
    """Returns what a decoded value is called in messages."""
    kinds = {str: "text", bool: "true or false", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), "a number")


def short(text: str) -> str:
    """Quotes a text for a message, cut if it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _whole_number(text: str) -> int:
    # Python's integers refuse texts of a few thousand digits; those of a Decimal do not.
    return int(text) if len(text) < 1000 else int(decimal.Decimal(text))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is none of its numbers")


_PLAIN_JSON = json.JSONDecoder(parse_int=_whole_number, parse_constant=_no_number)
