"""Values as bytes: a letter, then what it needs. "i2a;" is 42, "l2:Ns1:a" is [None, "a"].

Unlike pickle and marshal, it is safe to read whatever a program wrote. Unlike JSON, it keeps a
tuple a tuple and a set a set. A frame is 8 bytes of length, then that many bytes.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` itself takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Handles = Callable[[Any], int]
    Objects = Callable[[int], object]

_UNREADABLE = (
    ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_CONTAINERS = {list: b"l", tuple: b"t", set: b"S", frozenset: b"Z"}
_CONTAINER_OF = {letter: container for container, letter in _CONTAINERS.items()}
_PLAIN = (bool, int, float, str, bytes, list, tuple, set, frozenset, dict)
# Builtin types and functions, which a test may give to a program, are sent by name.
_BUILTINS = {
    value.__name__: value
    for value in (*_PLAIN, complex, object, type, abs, all, any, len, max, min, sorted, sum)
}
# Standard classes that tests compare by value: the arguments that make an equal object.
_STANDARD = {
    ("builtins", "complex"): lambda value: (value.real, value.imag),
    ("builtins", "range"): lambda value: (value.start, value.stop, value.step),
    ("builtins", "bytearray"): lambda value: (bytes(value),),
    ("collections", "deque"): lambda value: (list(value),),
    ("fractions", "Fraction"): lambda value: (value.numerator, value.denominator),
    ("decimal", "Decimal"): lambda value: (str(value),),
    ("datetime", "date"): lambda value: (value.year, value.month, value.day),
    ("datetime", "timedelta"): lambda value: (value.days, value.seconds, value.microseconds),
    ("datetime", "datetime"): lambda value: (
        value.year, value.month, value.day, value.hour, value.minute, value.second,
        value.microsecond,
    ),
}  # fmt: skip
# Numbers of NumPy that are of no class of Python; `longdouble` is more than a float.
_NUMPY = {
    ("numpy", name)
    for name in (
        *("bool", "bool_", "float16", "float32", "float64", "complex64", "complex128"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *("longlong", "ulonglong", "intc", "uintc"),
    )
}


def _no_handle(value: object) -> Any:
    raise TypeError(f"a {type(value).__name__} is not plain data")


def encode(value: object, handle_of: Handles = _no_handle) -> bytes:
    """Encodes a value as bytes.

    Args:
      value: None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict, an object of a
        subclass of these (which arrives as the base class), an object of a class in `_STANDARD`,
        one of `_BUILTINS`, or a number of NumPy (which arrives as Python's).
      handle_of: Gives any other object a number, by which the other side may name it.

    Raises:
      TypeError: If an object is none of these and there are no handles.
      RecursionError: If the value is nested too deeply, or contains itself.

    Example: encode([1, ("a", None)]) -> b"l2:i1;t2:s1:aN"
    """
    pieces: list[bytes] = []
    _put(value, pieces, handle_of)
    return b"".join(pieces)


def _put(value: Any, pieces: list[bytes], handle_of: Handles) -> None:
    kind = type(value)
    if kind is int:
        pieces.append(b"i%x;" % value)
    elif kind is str:
        text = value.encode("utf-8", "surrogatepass")
        pieces.append(b"s%d:%b" % (len(text), text))
    elif kind in _CONTAINERS:
        pieces.append(b"%b%d:" % (_CONTAINERS[kind], len(value)))
        for item in value:
            _put(item, pieces, handle_of)
    elif kind is dict:
        pieces.append(b"d%d:" % len(value))
        for pair in value.items():
            _put(pair[0], pieces, handle_of)
            _put(pair[1], pieces, handle_of)
    elif value is None or kind is bool:
        pieces.append(b"N" if value is None else b"T" if value else b"F")
    elif kind is float:
        pieces.append(b"f%b;" % float.__repr__(value).encode())
    elif kind is bytes:
        pieces.append(b"b%d:%b" % (len(value), value))
    else:
        _put_object(value, kind, pieces, handle_of)


def _put_object(value: Any, kind: type, pieces: list[bytes], handle_of: Handles) -> None:
    name = (kind.__module__, kind.__qualname__)
    base = next((base for base in _PLAIN if issubclass(kind, base)), None)
    named = getattr(value, "__name__", None) if kind in (type, type(len)) else None
    if named is not None and _BUILTINS.get(named) is value:
        pieces.append(b"B%b;" % named.encode())
    elif name in _STANDARD:
        pieces.append(b"o")
        _put((name, _STANDARD[name](value)), pieces, handle_of)
    elif base is not None:
        _put(_as_base(value, base), pieces, handle_of)
    elif name in _NUMPY and type(value.item()) in (bool, int, float, complex):
        _put(value.item(), pieces, handle_of)
    else:
        pieces.append(b"h%x;" % handle_of(value))


def _as_base(value: Any, base: type) -> object:
    """Returns a value as its base class: the tuple of a namedtuple, the dict of a Counter."""
    if base is int:
        return int.__int__(value)
    if base is float:
        return float.__float__(value)
    if base is str:
        return str.__str__(value)
    return base(dict.items(value) if base is dict else base.__iter__(value))


def decode(data: bytes, object_of: Objects = _no_handle) -> Any:
    """Decodes what `encode` returned; safe for any bytes.

    Args:
      data: The bytes.
      object_of: Returns the object for a handle, given its number.

    Raises:
      ValueError: If the bytes are not one value.

    Example: decode(b"l2:i1;t2:s1:aN") -> [1, ("a", None)]
    """
    reader = _Reader(data, object_of)
    try:
        value = reader.value()
    except _UNREADABLE as error:
        raise ValueError(f"not a value: {type(error).__name__}: {error}"[:200]) from error
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes after a value")
    return value


class _Reader:
    """Reads values from bytes, from the left."""

    def __init__(self, data: bytes, object_of: Objects) -> None:
        self.data, self.at, self.object_of = data, 0, object_of

    def value(self) -> Any:
        letter = self.data[self.at : self.at + 1]
        self.at += 1
        if letter == b"i":
            return int(self._until(b";"), 16)
        if letter == b"s":
            return str(self._bytes(), "utf-8", "surrogatepass")
        if letter in (b"l", b"t", b"S", b"Z"):
            items = [self.value() for _ in range(self._count())]
            return items if letter == b"l" else _CONTAINER_OF[letter](items)
        if letter == b"d":
            return {self.value(): self.value() for _ in range(self._count())}
        if letter == b"f":
            return float(self._until(b";"))
        if letter == b"b":
            return self._bytes()
        if letter == b"h":
            return self.object_of(int(self._until(b";"), 16))
        if letter == b"B":
            return _BUILTINS[self._until(b";").decode()]
        if letter == b"o":
            (module, name), arguments = self.value()
            if (module, name) not in _STANDARD:
                raise ValueError(f"objects of type {module}.{name} cannot be sent")
            return getattr(__import__(module), name)(*arguments)
        return _CONSTANTS[letter]

    def _until(self, mark: bytes) -> bytes:
        start, self.at = self.at, self.data.index(mark, self.at) + 1
        return self.data[start : self.at - 1]

    def _count(self) -> int:
        count = int(self._until(b":"))
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError(f"{count} items in {len(self.data) - self.at} bytes")
        return count

    def _bytes(self) -> bytes:
        count = self._count()
        self.at += count
        return self.data[self.at - count : self.at]


def write_frame(file: int, data: bytes) -> None:
    """Writes 8 bytes of length and the data."""
    write_all(file, len(data).to_bytes(8, "big") + data)


def write_all(file: int, data: bytes) -> None:
    """Writes all of the data, in as many calls as that takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def read_frame(file: int, most: int) -> bytes:
    """Reads what `write_frame` wrote.

    Raises:
      EOFError: If the other side has closed.
      ValueError: If there is more data than `most` bytes.
    """
    length = int.from_bytes(_read_exactly(file, 8), "big")
    if length > most:
        raise ValueError(f"the answer is larger than the limit of {most} bytes")
    return _read_exactly(file, length)


def _read_exactly(file: int, count: int) -> bytes:
    pieces = []
    while count:
        piece = os.read(file, min(count, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
