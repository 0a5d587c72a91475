"""Reads numbers of mathematics, exactly, and the units after them.

Texts are in the one form of `notation`, without spaces and commas in numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from bstar_jax.answers.mathematics.notation import join
from bstar_jax.answers.text import parse_number

_PLAIN = re.compile(r"[+-]?[$€£¥]?[+-]?[0-9.,/ ]*[0-9]\.?[$€£¥]?")
_SPACED = re.compile(r"[+-]?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?")  # 1 000
_FRACTION = re.compile(r"(-?)(\d*)\\frac\{([^{}]*)\}\{([^{}]*)\}")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}")
# One power of ten: several in a row could make a number of more digits than any answer has.
_SCIENTIFIC = re.compile(r"([^^]+)\\cdot10\^\{(-?\d{1,3})\}")

_BARE_UNIT = re.compile(r"(?<=[\d})])\s*([A-Za-z][A-Za-z. -]*)((?:\^\{?[23]\}?)?)$")
_SHORT_UNITS = set(
    "cm mm km ft kg mg ml lb lbs oz mph kph hr hrs min sec yd sq cu per st nd rd th".split()
)
_NO_UNITS = set(
    "if for when where and or otherwise base sinh cosh tanh sqrt frac mod am pm".split()
)
_UNIT = re.compile(r"\\text\{([A-Za-z].*)\}")
_ANGLES = {rf"\{name}" for name in "sin cos tan cot sec csc".split()}

_BASED = re.compile(
    r"(?:\(|\\text\{)?([0-9][0-9A-F]*|[A-F][0-9A-F]+)[)}]?_\{(?:(\d+)|\\text\{([a-z]+)\})\}"
)
_BASES: dict[str, int] = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_TIME = re.compile(r"(\d{1,2}(?::\d\d)?)\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_TEXT_COMMAND = re.compile(r"\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}")


def number(text: str) -> Fraction | None:
    r"""Reads the number that a text is, exactly; None if it is none, or may not be one.

    Examples: "-1.50", r"-\frac{3}{2}", r"-1\frac{1}{2}" -> -3/2     r"0.\overline{3}" -> 1/3
        r"6\cdot10^{-2}" -> 3/50     "5!", r"2\frac{3}{2}" -> None
    """
    if _PLAIN.fullmatch(text):
        return parse_number(text.replace(" ", "") if _SPACED.fullmatch(text) else text)
    if match := _FRACTION.fullmatch(text):
        over, under = number(match[3]), number(match[4])
        if over is None or not under:
            return None
        if match[2] and not (match[3].isdigit() and match[4].isdigit() and over < under):
            return None  # not a mixed number: a product, or a slip
        value = int(match[2] or 0) + over / under
    elif match := _REPEATING.fullmatch(text):
        once, again = (len(match[group]) for group in (3, 4))
        value = Fraction(f"{match[2] or 0}.{match[3] or 0}")
        value += Fraction(int(match[4]), (10**again - 1) * 10**once)
    elif (match := _SCIENTIFIC.fullmatch(text)) and (value := number(match[1])) is not None:
        return value * Fraction(10) ** int(match[2])
    else:
        return None
    return -value if match[1] else value


def with_unit_marked(text: str) -> str:
    r"""Puts a unit in plain letters into \text{}, in an answer as it was written.

    Only what is certainly a unit: `5m` and `2xyz` may be products.

    Examples: "5 cm^2" -> "5\\text{cm}^2"     "12 small apples" -> "12\\text{small apples}"
    """
    unit = _BARE_UNIT.search(text)
    words = _plain(unit[1]).split() if unit else []
    is_sure = words and all(len(word) > 3 or word in _SHORT_UNITS for word in words)
    if unit is None or not is_sure:
        return text
    return rf"{text[: unit.start()]}\text{{{unit[1]}}}{unit[2]}"


def without_unit(found: Sequence[str]) -> tuple[list[str], Fraction] | None:
    r"""Returns what precedes a unit at the end, and the factor that the unit stands for.

    A degree in a formula of angles is not a unit: it is a factor of pi/180.

    Examples: 5 \text{cm} ^ { 2 } -> 5, 1     2 \text{million dollars} -> 2, 1000000
        5 % -> 5, 1                     5 \text{if even}, 5 -> None
    """
    bare, scale = list(found), Fraction(1)
    if bare[-1] == "%":
        bare = bare[:-1]
    elif bare[-4:] == ["^", "{", r"\circ", "}"] and not _ANGLES & set(bare):
        bare = bare[:-4]
    else:
        bare = bare[:-4] if re.fullmatch(r"\^\{[23]\}", "".join(bare[-4:])) else bare
        unit = _UNIT.fullmatch(bare[-1]) if bare else None
        if not unit or _NO_UNITS & {*_plain(unit[1]).split()}:
            return None
        bare, scale = bare[:-1], parse_number(f"1 {unit[1]}")
    text = join(bare)
    is_quantity = re.search(r"[\d\\]", text) and re.search(r"[\w)}\]]$", text)
    if scale is None or not is_quantity or r"\text" in text or text.endswith(r"\circ}"):
        return None
    return bare, scale


def based(text: str) -> str | None:
    r"""Writes a number that has a base in one form; None if the text is none.

    Examples: "204_{5}", r"204_{\text{five}}" -> "204_{5}"     "x_{5}", "9_{1}" -> None
    """
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    base = int(match[2]) if match[2] else _BASES.get(match[3], 0)
    return f"{match[1]}_{{{base}}}" if base > (1 if match[1].isdigit() else 10) else None


def clock_time(text: str) -> str | None:
    r"""Writes a time of day in one form; its last letters are no unit.

    Example: r"10:30 \text{ p.m.}" -> "10:30 pm"
    """
    match = _TIME.fullmatch(_TEXT_COMMAND.sub(r"\1", text).strip())
    return f"{match[1]} {match[2].lower()}m" if match else None


def _plain(words: str) -> str:
    return re.sub("[.-]", "", words).lower()
