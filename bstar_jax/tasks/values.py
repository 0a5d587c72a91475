"""Values of records: how JSON is decoded exactly, what is refused, and values as plain Python.

Numbers are kept as Decimals, digits as written. What would not be one value, or would take the
memory or the stack of whoever reads it, is refused: a key that stands twice in an object, a number
of more than ten thousand digits, lists and objects a hundred deep.
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from bstar_jax.config import UserError

MOST_DIGITS = 10_000  # before or behind the point of a number written out
DEEPEST = 100  # lists and objects inside each other
_MOST_PLAIN_DIGITS = 4_000  # Python writes no whole number of more digits by default


def decode(text: str, place: str) -> object:
    """Decodes a JSON text; numbers become Decimals.

    Args:
      text: The text.
      place: Where it stands, "FILE, line N", for messages.

    Raises:
      UserError: If it is not JSON, or holds what this module refuses.
    """
    try:
        value = _EXACT.decode(text)
        _check_depth(value, text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}, column {error.colno}: not JSON: {error.msg}") from error
    except (_RefusedError, RecursionError) as error:
        raise UserError(f"{place}: {_reason(error)}") from error
    return value


def decode_array(text: str, file: str) -> Iterator[tuple[int, object]]:
    """Decodes the elements of a JSON array, one after the other.

    Args:
      text: The text of the file; its first character that is no space opens the array.
      file: Its name, for messages.

    Yields:
      The number of the line in which an element begins, from 1, and the element.

    Raises:
      UserError: As `decode`.
    """
    place = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    more = text[place : place + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, end = _EXACT.raw_decode(text, place)
            _check_depth(value, text[place:end])
        except json.JSONDecodeError as error:
            where = f"{file}, line {error.lineno}, column {error.colno}"
            raise UserError(f"{where}: not JSON: {error.msg}") from error
        except (_RefusedError, RecursionError) as error:
            raise UserError(f"{file}, line {line}: {_reason(error)}") from error
        yield line, value
        place = _skip(text, end)
        more = text[place : place + 1] == ","
        place = _skip(text, place + 1) if more else place
    if text[place : place + 1] != "]" or text[place + 1 :].strip():
        line += text.count("\n", counted, place)
        raise UserError(f"{file}, line {line}: not JSON: a ',' or the end of the array is missing")


def decode_plain(text: str) -> object:
    """Decodes a JSON text to plain Python values.

    Raises:
      ValueError: If it is not JSON, or holds what this module refuses.
    """
    try:
        value = _PLAIN.decode(text)
        _check_depth(value, text)
    except RecursionError as error:
        raise ValueError(_reason(error)) from error
    return value


def plain(value: object) -> object:
    """Writes a decoded value as plain JSON values: whole numbers as int, others as float.

    A number is whole if it is written without a point and an exponent. NaN, which tables hold where
    a number is missing, becomes None.

    Raises:
      ValueError: If a number is infinite, or too large for a float.
    """
    if isinstance(value, dict):
        return {name: plain(element) for name, element in value.items()}
    if isinstance(value, list):
        return [plain(element) for element in value]
    if not isinstance(value, decimal.Decimal):
        return value
    if value.is_nan():
        return None
    if value.is_finite() and value.as_tuple().exponent == 0:
        if value.adjusted() >= _MOST_PLAIN_DIGITS:
            raise ValueError(f"a number has more than {_MOST_PLAIN_DIGITS} digits")
        return int(value)
    number = float(value)
    if math.isinf(number):
        raise ValueError(f"the number {short(str(value))} is too large for a float")
    return number


def kind(value: object) -> str:
    """Returns the word that messages use for the type of a decoded value."""
    kinds = {str: "text", bool: "true or false", list: "a list", dict: "an object", bytes: "bytes"}
    return "null" if value is None else kinds.get(type(value), "a number")


def short(text: str) -> str:
    """Quotes a text for a message, cut if it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def is_whole(text: str) -> bool:
    r"""Tells whether a text can be written: JSON may hold half of a character, as \ud800 is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(names: Sequence[str]) -> str:
    """Lists names for a message, at most eight of them."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


class _RefusedError(ValueError):
    """What is JSON and refused all the same."""


def _number(text: str) -> decimal.Decimal:
    try:
        number = decimal.Decimal(text)
    except decimal.InvalidOperation:
        number = None
    if number is None or abs(number.adjusted()) > MOST_DIGITS:
        raise _RefusedError(
            f"the number {short(text)} has more than {MOST_DIGITS:,} digits when written out; "
            "write it as text"
        )
    return number


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _RefusedError(f"the key {twice!r} stands twice in one object; keep one of them")
    return values


def _check_depth(value: object, text: str) -> None:
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [
            element for each in inside for element in each if isinstance(element, (dict, list))
        ]
        if not level:
            return
    raise _RefusedError(_TOO_DEEP)


def _reason(error: Exception) -> str:
    return _TOO_DEEP if isinstance(error, RecursionError) else str(error)


def _skip(text: str, place: int) -> int:
    """Returns the place of the next character that is no space."""
    while text[place : place + 1] in (" ", "\t", "\n", "\r"):
        place += 1
    return place


def _whole_number(text: str) -> int:
    # Python's integers refuse texts of a few thousand digits; those of a Decimal do not.
    return int(text) if len(text) < 1000 else int(decimal.Decimal(text))


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is none of its numbers")


_TOO_DEEP = f"lists and objects stand more than {DEEPEST} deep in each other"
_EXACT = json.JSONDecoder(
    parse_int=_number,
    parse_float=_number,
    parse_constant=decimal.Decimal,
    object_pairs_hook=_object,
)
_PLAIN = json.JSONDecoder(parse_int=_whole_number, parse_constant=_no_number)
