"""Compares what a program printed with what a test by standard input and output expects."""

from __future__ import annotations

import math
import re

_RELATIVE, _ABSOLUTE = 1e-5, 1e-8
_WHOLE = re.compile(r"[-+]?\d+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def same_output(output: str, expected: str) -> bool:
    r"""Tells whether a program printed what was expected.

    Empty lines, and the amount of space around and between words, do not count. Words are equal
    as text, or as numbers: a whole number also with a point and zeros after it, any other number
    within 1e-8 + 1e-5 |expected| (as NumPy's `allclose`).

    Examples, output and expected: "1 2 \n\n3" and "1 2\n3", "5.0" and "5", "0.33333" and
    "0.333333" are the same; "1\n2" and "1 2", "1000001" and "1000000", "007" and "7" are not.
    """
    if output.strip() == expected.strip():
        return True
    ours, theirs = (
        [line.split() for line in text.split("\n") if line.strip()] for text in (output, expected)
    )
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(output: list[str], expected: list[str]) -> bool:
    return len(output) == len(expected) and all(map(_same_word, output, expected))


def _same_word(output: str, expected: str) -> bool:
    if output == expected:
        return True
    if not (_NUMBER.fullmatch(output) and _NUMBER.fullmatch(expected)):
        return False
    if _WHOLE.fullmatch(expected):
        whole, point, fraction = output.partition(".")
        return bool(point) and whole == expected and not fraction.strip("0")
    value, wanted = float(output), float(expected)
    error = abs(value - wanted)  # NaN if both overflow
    return math.isfinite(error) and error <= _ABSOLUTE + _RELATIVE * abs(wanted)
