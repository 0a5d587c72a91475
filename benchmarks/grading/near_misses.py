r"""Ways to get an answer nearly right: every text has another value than the answer.

As with `rewritings`, that follows from how each text is made, whatever a grader thinks.
"""

from __future__ import annotations

import re

from benchmarks.grading.numbers import is_formula, number, whole
from benchmarks.grading.rewritings import Rewriting, as_decimal

PAIR = re.compile(r"(\\left)?\s*([(\[])([^()\[\]]+),([^()\[\],]+?)(\\right)?\s*([)\]])")


def other_sign(text: str) -> str | None:
    if (re.search(r"[,=]|\\pm|\\text|\\begin", text) and number(text) is None) or number(text) == 0:
        return None
    if re.search(r"(?<!^)[-+]", text.strip()):
        return f"-({text})"
    return text.strip()[1:].strip() if text.strip().startswith("-") else f"-{text}"


def other_sign_inside(text: str) -> str | None:
    """The sign of the last term or coordinate."""
    places = [match.start() for match in re.finditer(r"(?<=.)[-+](?=\s*[\w\\])", text)]
    if not places or r"\text" in text:
        return None
    at = places[-1]
    flipped = "+" if text[at] == "-" else "-"
    flipped = "" if flipped == "+" and re.search(r"[,(\[&\\]\s*$|^$", text[:at]) else flipped
    return text[:at] + flipped + text[at + 1 :]


def last_digit(text: str) -> str | None:
    match = re.search(r"\d(?=\D*$)", text)
    if not match or text.startswith(r"\text"):
        return None
    return text[: match.start()] + str((int(match[0]) + 1) % 10) + text[match.end() :]


def first_digit(text: str) -> str | None:
    match = re.search(r"\d", text)
    if not match or text.startswith(r"\text"):
        return None
    digit = int(match[0]) % 9 + 1
    return text[: match.start()] + str(digit) + text[match.end() :]


def one_more(text: str) -> str | None:
    value = number(text)
    if value is not None:
        changed = value + 1
        over, under = changed.numerator, changed.denominator
        return f"{over}" if under == 1 else rf"\frac{{{over}}}{{{under}}}"
    return f"{text} + 1" if is_formula(text) else None


def one_less(text: str) -> str | None:
    value = whole(text)
    return f"{value - 1}" if value is not None else None


def ten_times(text: str) -> str | None:
    value = whole(text)
    return f"{value * 10}" if value else None


def a_tenth(text: str) -> str | None:
    value = whole(text)
    return f"{value // 10}.{value % 10}" if value and value > 0 else None


def nearly(text: str) -> str | None:
    """A decimal that is rounded to it, or that it is rounded to."""
    value = number(text)
    if value is None:
        return None
    if value.denominator == 1:
        return f"{value}.0000001"
    return None if as_decimal(text) else f"{float(value):.7f}"


def with_a_variable(text: str) -> str | None:
    return f"{text}x" if whole(text) else None


def factorial(text: str) -> str | None:
    value = whole(text)
    return f"{value}!" if value is not None and 2 < value < 1000 else None


def flipped(text: str) -> str | None:
    value = number(text)
    if value is None or abs(value) in (0, 1):
        return None
    return f"{value.denominator}/{value.numerator}" if value > 0 else None


def doubled(text: str) -> str | None:
    return f"2({text})" if is_formula(text) else None


def swapped(text: str) -> str | None:
    """The first two coordinates, or entries, exchanged."""
    match = re.search(r"([(\[])([^,()\[\]]+),([^,()\[\]]+)", text)
    if match:
        first, second = match[2].strip(), match[3].strip()
        return None if first == second else text.replace(match[0], f"{match[1]}{second}, {first}")
    match = re.search(r"(matrix\})([^\\&]+?)(\\\\|&)([^\\&]+?)(?=\\\\|&|\\end)", text)
    if not match or match[2].strip() == match[4].strip():
        return None
    return text.replace(match[0], f"{match[1]}{match[4]}{match[3]}{match[2]}")


def other_left_end(text: str) -> str | None:
    match = PAIR.fullmatch(text.strip())
    if not match:
        return None
    at = text.index(match[2])
    return text[:at] + ("[" if match[2] == "(" else "(") + text[at + 1 :]


def other_right_end(text: str) -> str | None:
    match = PAIR.fullmatch(text.strip())
    if not match:
        return None
    at = text.rindex(match[6])
    return text[:at] + ("]" if match[6] == ")" else ")") + text[at + 1 :]


def as_braces(text: str) -> str | None:
    match = PAIR.fullmatch(text.strip())
    return rf"\{{{match[3]},{match[4]}\}}" if match else None


def without_the_last(text: str) -> str | None:
    if "(" in text or not re.search(r"\d\s*,\s*(?!\\!)-?\d", text) or number(text) is not None:
        return None
    return text.rpartition(",")[0]


def without_the_base(text: str) -> str | None:
    match = re.fullmatch(r"(\d+)_\{?\d\}?", text)
    return match[1] if match else None


def one_root_only(text: str) -> str | None:
    return text.replace(r"\pm", "+") if r"\pm" in text else None


def not_so(text: str) -> str | None:
    match = re.fullmatch(r"\\text\{(\w{2,})\}", text)
    return rf"\text{{not {match[1]}}}" if match else None


def other_word(text: str) -> str | None:
    match = re.fullmatch(r"\\text\{\(?(\w+)\)?\}", text)
    if not match:
        return None
    return rf"\text{{{match[1][:-1]}{chr(ord(match[1][-1]) + 1)}}}"


def reversed_word(text: str) -> str | None:
    match = re.fullmatch(r"\\text\{(\w{2,})\}", text)
    return rf"\text{{{match[1][::-1]}}}" if match else None


def empty_statement(text: str) -> str | None:
    return "0" if number(text) != 0 else "1"


def more_of_it(text: str) -> str | None:
    """The answer, and another one."""
    return f"{text}, 77" if "," not in text else None


def in_a_pair(text: str) -> str | None:
    return f"({text}, 0)"


def a_word(text: str) -> str | None:
    return r"\text{unknown}"


def squared(text: str) -> str | None:
    return f"({text})^2" if is_formula(text) else None


# Near misses that few answers allow come first, and last those that are a last resort.
NEAR_MISSES: tuple[list[Rewriting], ...] = (
    [
        swapped, other_left_end, other_right_end, other_sign_inside, without_the_last,
        without_the_base, one_root_only, not_so, other_word, reversed_word, as_braces,
    ],
    [
        other_sign, last_digit, one_more, one_less, first_digit, nearly, ten_times, a_tenth,
        with_a_variable, factorial, flipped, doubled, squared,
    ],
    [more_of_it, in_a_pair, empty_statement, a_word],
)  # fmt: skip
