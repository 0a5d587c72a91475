"""What a plain text says: the number that it is, or that it is a formula."""

from __future__ import annotations

import re
from fractions import Fraction


def number(text: str) -> Fraction | None:
    r"""The number that a plain text is, or None: integers, decimals, \frac{a}{b}."""
    bare = re.sub(r"(?<=\d),(?:\\!\s*)?(?=\d{3}(?!\d))", "", text)
    bare = re.sub(r"^(-?)\\?\$", r"\1", bare).replace(r"\frac ", r"\frac")
    if re.fullmatch(r"-?\d*\.?\d+", bare):
        return Fraction(bare)
    match = re.fullmatch(r"(-?)\\d?frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))", bare)
    if match:
        over, under = (match[2] or match[4]), (match[3] or match[5])
        return Fraction(int(f"{match[1]}{over}"), int(under))
    return None


def whole(text: str) -> int | None:
    """The integer that a plain text is, or None."""
    value = number(text)
    return int(value) if value is not None and value.denominator == 1 else None


def is_formula(text: str) -> bool:
    """Whether it is neither a number, nor words, nor a list, pair, interval or equation."""
    return number(text) is None and not re.search(
        r"\\text|\\begin|[,=_]|\\pm|\\infty|\\circ|\\\$", text
    )
