"""Compares what a program printed with what a test by standard input and output expects."""

from __future__ import annotations

import math
import re

from bstar_jax.isolation.inside.harness import is_close

_PRINTED = 1e-5  # the least tolerance: printed numbers are rounded
_WHOLE = re.compile(r"[-+]?\d+", re.ASCII)
_PARTS = re.compile(r"([\[\](),])")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def same_output(output: str, expected: str, tolerance: float = 0.0) -> bool:
    r"""Tells whether a program printed what was expected.

    Empty lines, and the amount of space around and between words, do not count. Words are equal
    as text, or as numbers: a whole number also with a point and zeros after it, any other number
    where it `is_close` with the tolerance, or with 1e-5 if that is larger. Numbers between brackets
    and commas, as lists print them, are compared likewise.

    Examples, output and expected: "1 2 \n\n3" and "1 2\n3", "5.0" and "5", "0.33333" and
    "0.333333", "[0.33333, 1]" and "[0.333333, 1]" are the same; "1\n2" and "1 2", "1000001" and
    "1000000", "007" and "7" are not.

    Args:
      output: What the program printed.
      expected: What the test expects.
      tolerance: The largest relative difference of two numbers that are equal.
    """
    tolerance = max(tolerance, _PRINTED)
    if output.strip() == expected.strip():
        return True
    ours, theirs = (
        [line.split() for line in text.split("\n") if line.strip()] for text in (output, expected)
    )
    return len(ours) == len(theirs) and all(
        len(one) == len(two)
        and all(_same_word(*words, tolerance) for words in zip(one, two, strict=True))
        for one, two in zip(ours, theirs, strict=True)
    )


def _same_word(output: str, expected: str, tolerance: float) -> bool:
    if output == expected:
        return True
    ours, theirs = _PARTS.split(output), _PARTS.split(expected)
    return len(ours) == len(theirs) and all(
        _same_part(*parts, tolerance) for parts in zip(ours, theirs, strict=True)
    )


def _same_part(output: str, expected: str, tolerance: float) -> bool:
    if output == expected:
        return True
    if not (_NUMBER.fullmatch(output) and _NUMBER.fullmatch(expected)):
        return False
    if _WHOLE.fullmatch(expected):
        whole, point, fraction = output.partition(".")
        return bool(point) and whole == expected and not fraction.strip("0")
    wanted = float(expected)
    return math.isfinite(wanted) and is_close(float(output), wanted, tolerance)
