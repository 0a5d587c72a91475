r"""Ways to write an answer differently, value unchanged.

Every function takes an answer, as a data set writes it, and returns another text, or None where it
does not apply. It knows nothing of the record but the text. That the value stays follows from how
the text is made, whatever a grader thinks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from benchmarks.grading.numbers import is_formula, number, whole

Rewriting = Callable[[str], str | None]


def _template(name: str, text: str) -> Rewriting:
    """A rewriting of any answer: the text with the answer in place of "@"."""

    def fill(answer: str) -> str:
        return text.replace("@", answer)

    fill.__name__ = name
    return fill


ANYWHERE = [
    _template("in_dollars", "$@$"),
    _template("in_brackets", r"\( @ \)"),
    _template("displayed", "$$ @ $$"),
    _template("boxed", r"\boxed{@}"),
    _template("boxed_in_a_sentence", r"so it is $\boxed{ @ }$, as was to be shown."),
    _template("with_a_full_stop", "$@$."),
    _template("emphasized", "**@**"),
]


def with_thin_spaces(text: str) -> str | None:
    return rf"\,{text}\," if "\\text" not in text else None


# Rewritings of numbers.


def as_decimal(text: str) -> str | None:
    """Only where the decimal is exact."""
    value = number(text)
    if value is None:
        return None
    for places in range(1, 12):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(int(scaled))).zfill(places + 1)
            return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    return None


def as_larger_fraction(text: str) -> str | None:
    value = number(text)
    if value is None:
        return None
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator) * 3}}}{{{value.denominator * 3}}}"


def as_slash(text: str) -> str | None:
    value = number(text)
    if value is None:
        return None
    return f"{value.numerator * 2}/{value.denominator * 2}"


def as_mixed_number(text: str) -> str | None:
    value = number(text)
    if value is None or value.denominator == 1 or abs(value) < 1:
        return None
    whole, rest = divmod(abs(value), 1)
    sign = "-" if value < 0 else ""
    return rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"


def with_separators(text: str) -> str | None:
    value = whole(text)
    written = f"{value:,}" if value is not None and abs(value) >= 1000 else None
    return written if written != text else f"{value}"


def with_tex_separators(text: str) -> str | None:
    value = whole(text)
    return f"{value:,}".replace(",", "{,}") if value is not None and abs(value) >= 1000 else None


def with_unit(text: str) -> str | None:
    return rf"{text} \text{{ units}}" if number(text) is not None else None


def with_currency(text: str) -> str | None:
    value = whole(text)
    return rf"\${text}" if value is not None and value >= 0 and "$" not in text else None


def as_equation(text: str) -> str | None:
    return f"y = {text}" if number(text) is not None or is_formula(text) else None


# Rewritings of formulas.


def with_display_fractions(text: str) -> str | None:
    return text.replace(r"\frac", r"\dfrac") if r"\frac" in text else None


def with_sized_brackets(text: str) -> str | None:
    if r"\left" in text or "(" not in text or "\\text" in text:
        return None
    sized = re.sub(r"([(\[])", r"\\left\1 ", text)
    return re.sub(r"([)\]])", r" \\right\1", sized)


def spaced(text: str) -> str | None:
    if r"\text" in text or number(text) is not None:
        return None
    return re.sub(r"(?<!\\)([-+=(),])", r" \1 ", text).strip()


def unspaced(text: str) -> str | None:
    if r"\text" in text:
        return None
    bare = re.sub(r"\s+(?![A-Za-z])", "", text)
    return bare if bare != text else None


def with_braces(text: str) -> str | None:
    changed = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    changed = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", changed)
    changed = re.sub(r"([_^])(\d)(?!\d)", r"\1{\2}", changed)
    return changed if changed != text else None


def with_a_dot(text: str) -> str | None:
    changed = re.sub(r"(\d) ?(?=\\sqrt|\\pi|[a-z](?![a-z]))", r"\1 \\cdot ", text)
    return changed if changed != text and is_formula(text) else None


def reordered(text: str) -> str | None:
    """The terms of a sum from the last to the first."""
    if not re.fullmatch(r"[-+\sA-Za-z0-9^]+", text):
        return None
    terms = re.findall(r"[-+]?[^-+]+", text.replace(" ", ""))
    if len(terms) < 2:
        return None
    signed = [term if term[0] in "-+" else f"+{term}" for term in terms]
    return " ".join(reversed(signed)).removeprefix("+").strip()


def times_two_halves(text: str) -> str | None:
    return rf"\frac{{2({text})}}{{2}}" if is_formula(text) else None


def plus_one_less_one(text: str) -> str | None:
    return f"{text} + 1 - 1" if is_formula(text) else None


def as_a_set(text: str) -> str | None:
    if not re.fullmatch(r"-?\d+(, ?-?\d+)+", text) or number(text) is not None:
        return None
    return rf"\{{{', '.join(reversed([part.strip() for part in text.split(',')]))}\}}"


def both_signs(text: str) -> str | None:
    match = re.fullmatch(r"(.+?) *\\pm *(.+)", text)
    return f"{match[1]} - {match[2]}, {match[1]} + {match[2]}" if match else None


def plain_words(text: str) -> str | None:
    match = re.fullmatch(r"\\text\{(.+)\}", text)
    return match[1].strip("()") if match else None


def upper_case_words(text: str) -> str | None:
    match = re.fullmatch(r"\\text\{([a-zA-Z]{2,})\}", text)
    return rf"\text{{{match[1].upper()}}}" if match else None


def other_matrix(text: str) -> str | None:
    return text.replace("pmatrix", "bmatrix") if "pmatrix" in text else None


def equation_doubled(text: str) -> str | None:
    match = re.fullmatch(r"(.*[+-].*)= *0", text)
    return f"0 = 2({match[1].strip()})" if match else None


# Rewritings that few answers allow come first.
REWRITINGS: tuple[list[Rewriting], ...] = (
    [
        with_separators, with_tex_separators, as_mixed_number, with_display_fractions,
        with_sized_brackets, with_braces, with_a_dot, reordered, as_a_set, both_signs,
        plain_words, upper_case_words, other_matrix, equation_doubled,
    ],
    [
        times_two_halves, plus_one_less_one, as_decimal, as_larger_fraction, as_slash, with_unit,
        with_currency, as_equation, spaced, unspaced, *ANYWHERE, with_thin_spaces,
    ],
)  # fmt: skip
# The result is a number only once it has been worked out.
BY_ALGEBRA = (times_two_halves, plus_one_less_one)


def several(
    text: str, groups: Sequence[Sequence[Rewriting]], count: int, draw: random.Random
) -> list[tuple[str, str]]:
    """Texts made of an answer that differ from it and from each other.

    Args:
      text: The answer.
      groups: `REWRITINGS` or `NEAR_MISSES`; of the first group at most three are taken.
      count: Texts wanted.
      draw: Draws among the functions of a group.

    Returns:
      (function name, text) pairs; fewer than `count` where fewer functions apply.
    """
    found = {}
    for most, group in zip((3, count, count), groups, strict=False):
        for function in draw.sample(group, len(group)):
            result = function(text)
            if result is not None and result != text and len(found) < most:
                found.setdefault(result, function.__name__)
    return [(name, result) for result, name in found.items()]
