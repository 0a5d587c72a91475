"""Finds an answer in a text and reads it, exactly.

Numbers are read as fractions, so that 3, 3.0 and 6/2 are one answer and .1 is a tenth. What may
not be one number counts as none: a grader that guesses rewards guessing.
"""

from __future__ import annotations

import re
from fractions import Fraction

_CURRENCY = "$€£¥"
_MINUS = "-−–"
_SIGN = rf"[+\{_MINUS}]"  # escaped: after the plus a hyphen would make a range
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>{_SIGN}?)\s*\\?[{_CURRENCY}]?\s*(?P<inner_sign>{_SIGN}?)
    (?:
      (?P<whole>[0-9]+)\s+(?P<part>[0-9]+)/(?P<of>[0-9]+)      # 1 1/2
      | (?P<over>{_DIGITS})\s*/\s*(?P<under>{_DIGITS})  # 3/4
      | (?P<decimal>{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)          # 1,234.50
    )
    (?P<rest>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
# What may follow a number: a unit, a percent sign, a full stop; never another number or sign.
# Possessive: a hyphen between letters matches twice, and backtracking would try all combinations.
_UNIT = re.compile(rf"(?:[^\W\d_]|[\s.,;:!?%°'\"()/{_CURRENCY}]|(?<=\w)-(?=\w)|-(?=[^\W\d_]))*+")
_SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# Words that change a number in another way, or say something of it: `5 squared` is not 5.
_NO_UNITS = frozenset(
    "and or nor but not point plus minus to over below is are was isn wrong "
    "squared cubed factorial half halves third thirds quarter quarters fourth fourths fifth fifths "
    "sixth sixths eighth eighths tenth tenths hundredth hundredths thousandth thousandths".split()
)
_HALF_UNITS = frozenset(["square", "cubic"])  # without a word after them: a slip for `squared`
_LETTER_UNITS = frozenset("acfghlms")  # 5 a day, 20 °C, 5 g; other letters may be variables
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # what a backslash precedes is no brace
_WORD = re.compile(r"[^\W\d_]+")
_LONGEST = 200  # characters; Python's own integers refuse a few thousand digits


def read_answer(text: str, marker: str) -> str | None:
    r"""Reads the answer that a solution states, as it is written there.

    The first occurrence of the marker ends the solution. The answer is the next line that is not
    empty; it may begin on the marker's own line or below it. What follows that line is not read:
    a model that writes more cannot change its answer, or add to it.

    Examples with the marker `####`:
      "3+4=7\n#### 7"         -> "7"
      "#### 7\n\n#### 8"      -> "7"
      "####\n\n7 clips"       -> "7 clips"
      "The answer is 7", "####" -> None
    """
    _, found, rest = text.partition(marker)
    lines = rest.strip().splitlines()
    return lines[0].strip() if found and lines else None


def whole_lines(response: str, finish_reason: str) -> str:
    """Returns the part of a response in which an answer is looked for.

    If the length limit cut the response, its last line may be incomplete (12 of 1234) and is
    left out.

    Args:
      response: The response.
      finish_reason: "stop", or "length" where the length limit cut it.
    """
    return response[: response.rfind("\n") + 1] if finish_reason == "length" else response


def last_boxed(text: str) -> str | None:
    r"""Returns the content of the last box of a LaTeX text, without spaces around it.

    A box without braces reaches to the end of its formula or line. Of nested boxes the inner one
    counts. None if there is no box, or it is empty or not closed.

    Examples:
      "so $\boxed{\frac{1}{2}}$." -> "\frac{1}{2}"     "\boxed{3} or \boxed{5}" -> "5"
      "$\boxed 7$ apples" -> "7"                     "\boxed{\frac{1}{2" -> None
    """
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    rest = text[boxes[-1].end() :]
    if not rest.lstrip().startswith("{"):
        return re.split(r"[$\n]", rest.strip(), maxsplit=1)[0].strip() or None
    depth = 0
    for brace in _BRACE.finditer(rest):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return rest[rest.index("{") + 1 : brace.start()].strip() or None
    return None


def parse_number(text: str) -> Fraction | None:
    """Reads the number that a text states, exactly; None if it may not be one number.

    Reads signs, currency signs, thousands separators, decimals, fractions, mixed numbers, and the
    unit after them: a percent sign or "dollars" changes nothing, "million" and "hundred thousand"
    multiply. A text in which "squared", "and a half", a variable or an exclamation mark follows is
    no number.

    Examples:
      "-1,234.50" -> -2469/2      "$18" -> 18         "72 clips." -> 72       "50%" -> 50
      "1 1/2" -> 3/2              "3.0" -> 3          "2 million" -> 2000000
      "7 and 8", "3 + 4", "1,23", "x", "5-6", "" -> None
    """
    text = text.strip().strip("*`").strip()
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    scale = _scale(match["rest"])
    if scale is None:
        return None
    try:
        number = _magnitude(match) * scale
    except ZeroDivisionError:
        return None
    negative = (match["sign"] or match["inner_sign"] or "+") in _MINUS
    return -number if negative else number


def _scale(rest: str) -> int | None:
    """Returns what the words after a number multiply it by; None if they may change it otherwise.

    Examples: " apples" -> 1     " hundred thousands" -> 100000     " and a half", " x", "!" -> None
    """
    if not _UNIT.fullmatch(rest) or rest.startswith("!") or any(map(str.isnumeric, rest)):
        return None
    words, scale = _WORD.findall(rest), 1
    while words and words[0].lower().removesuffix("s") in _SCALES:
        scale *= _SCALES[words.pop(0).lower().removesuffix("s")]
    if scale > 1 and rest.lstrip().startswith("("):  # 12 (a dozen), or 12 dozen?
        return None
    if not words:
        return scale
    first = words[0].lower()
    # `5 m` are metres, but `5 M` may be millions.
    is_variable = len(first) == 1 and (first not in _LETTER_UNITS or words[0] == "M")
    is_doubtful = first in _NO_UNITS or words[-1].lower() in _HALF_UNITS
    return None if is_variable or is_doubtful else scale


def _magnitude(match: re.Match) -> Fraction:
    if match["part"]:
        return int(match["whole"]) + Fraction(int(match["part"]), int(match["of"]))
    if match["over"]:
        over, under = (int(match[name].replace(",", "")) for name in ("over", "under"))
        return Fraction(over, under)
    return Fraction(match["decimal"].replace(",", ""))


def canonical_answer(kind: str, text: str | None) -> str | None:
    """Writes an answer in canonical form; None if none can be read.

    Two answers are equal if and only if their canonical forms are.

    Args:
      kind: "number", or "text": runs of spaces are one, case and a final full stop do not count.
      text: The answer as it was written, or None.

    Examples:
      "number": "$1,200.00" -> "1200", "3.50" -> "7/2", "seven" -> None
      "text": " The  moon." -> "the moon", "" -> None
    """
    if text is None:
        return None
    if kind == "number":
        number = parse_number(text)
        return None if number is None else str(number)
    if kind == "text":
        return " ".join(text.split()).removesuffix(".").strip().casefold() or None
    raise ValueError(f"answers compare as 'number' or 'text', not {kind!r}")
