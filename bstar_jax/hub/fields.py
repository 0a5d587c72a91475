"""The fields of a `config.json`, read one by one; an error names field, value and remedy."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

from bstar_jax.config import UserError

_REQUIRED: Any = object()
_KINDS = {int: "a whole number", str: "a text", bool: "true or false", dict: "a group of fields"}
_MOST = 2**31 - 1  # no size of a model is larger


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fields of a file, or of a group within it. null means absent, unless said otherwise.

    Attributes:
      file: The file that holds them.
      values: The fields by name.
      prefix: Name of the group and a dot, or "".
    """

    file: pathlib.Path
    values: Mapping
    prefix: str = ""

    def refuse(self, name: str, rule: str) -> typing.NoReturn:
        """Raises the error about a field.

        Raises:
          UserError: Always, with the field's name and value, and the rule.
        """
        value = json.dumps(self.values.get(name))
        raise UserError(
            f"{self.file}: {self.prefix}{name} is {value[:100]}; {rule}; take another checkpoint, "
            "or correct the file where it does not describe the weights"
        )

    def only(self, name: str, neutral: object, rule: str) -> None:
        """Accepts a field that is absent or has this value.

        Raises:
          UserError: If it has another value.
        """
        value = self.values.get(name)
        if value is not None and value != neutral:
            self.refuse(name, rule)

    def integer(self, name: str, default: int | None = _REQUIRED, *, most: int = _MOST) -> int:
        """A whole number of at most `most`; `default` where the field is absent."""
        value: Any = self._take(name, default, int)
        if isinstance(value, int) and value > most:
            self.refuse(name, f"it is at most {most}")
        return value

    def number(self, name: str, default: float | None = _REQUIRED) -> float:
        """A finite number, as a float; `default` where the field is absent."""
        value = self.values.get(name)
        if not isinstance(value, float):
            value = self._take(name, default, int)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.refuse(name, "it takes a finite number, in the range of a float")
        return number

    def text(self, name: str, default: str = _REQUIRED) -> str:
        """A text; `default` where the field is absent."""
        return self._take(name, default, str)

    def flag(self, name: str, default: bool) -> bool:
        """True or False; `default` where the field is absent."""
        return self._take(name, default, bool)

    def group(self, name: str) -> Fields:
        """The fields of a group; none where the group is absent."""
        return Fields(self.file, self._take(name, {}, dict), f"{self.prefix}{name}.")

    def _take(self, name: str, default: Any, kind: type) -> Any:
        value = self.values.get(name)
        if value is None and default is not _REQUIRED:
            return default
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_kind:
            state = f"is {json.dumps(value)[:100]}" if name in self.values else "is missing"
            raise UserError(
                f"{self.file}: {self.prefix}{name} {state}; it takes {_KINDS[kind]}: fetch the "
                "file again, or correct it"
            )
        return value


def read_json(file: pathlib.Path) -> dict:
    """The fields that a JSON file holds.

    Raises:
      UserError: If it is not JSON, or holds something else.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); fetch it again") from error
    except RecursionError:
        raise UserError(f"{file} has groups within groups without end; fetch it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{file} is not a group of fields; fetch it again")
    return values
