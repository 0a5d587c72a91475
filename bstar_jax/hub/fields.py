"""The fields of a `config.json`, taken one by one: what is wrong is named with value and remedy."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping

from bstar_jax.config import UserError

_REQUIRED = object()
_KINDS = {int: "a whole number", str: "a text", bool: "true or false", dict: "a group of fields"}


@dataclasses.dataclass(frozen=True)
class Fields:
    """Fields of a file, or of a group within it. null and absent are the same unless said.

    Attributes:
      file: Where they stand.
      values: By name.
      prefix: Name of the group, with a dot, or "".
    """

    file: pathlib.Path
    values: Mapping
    prefix: str = ""

    def refuse(self, name: str, rule: str) -> typing.NoReturn:
        """Raises the error of a field.

        Raises:
          UserError: Always, with the field's name and value, and the rule.
        """
        value = json.dumps(self.values.get(name))
        raise UserError(
            f"{self.file}: {self.prefix}{name} is {value[:100]}; {rule}; take another checkpoint, "
            "or correct the file where it does not say what the weights are"
        )

    def only(self, name: str, neutral, rule: str) -> None:
        """Refuses a field with another value than this one.

        Raises:
          UserError: If it has.
        """
        value = self.values.get(name)
        if value is not None and value != neutral:
            self.refuse(name, rule)

    def whole(self, name: str, default=_REQUIRED) -> int:
        """A whole number; `default` where there is none."""
        return self._take(name, default, int)

    def number(self, name: str, default=_REQUIRED) -> float:
        """A number, as a float; `default` where there is none."""
        value = self.values.get(name)
        if isinstance(value, float):
            return value
        return float(self.whole(name, default))

    def text(self, name: str, default=_REQUIRED) -> str:
        """A text; `default` where there is none."""
        return self._take(name, default, str)

    def flag(self, name: str, default: bool) -> bool:
        """True or False; `default` where neither is said."""
        return self._take(name, default, bool)

    def mapping(self, name: str) -> dict:
        """A group of fields; empty where there is none."""
        return self._take(name, {}, dict)

    def inner(self, name: str) -> Fields:
        """The fields of a group."""
        return Fields(self.file, self.mapping(name), f"{self.prefix}{name}.")

    def _take(self, name, default, kind):
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
    """The group of fields that a JSON file holds.

    Raises:
      UserError: If it does not.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON ({error}); fetch it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no group of fields; fetch it again")
    return values
