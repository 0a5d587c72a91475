r"""Ways to write an answer otherwise, and ways to get it nearly right; used by `grading.py`.

Every function takes an answer, as a data set writes it, and returns another text, or None where it
does not apply. It knows nothing of the record but the text. A rewriting keeps the value and a near
miss changes it: by how each is made, whatever a grader thinks.
"""

from __future__ import annotations

import re
from fractions import Fraction

PAIR = re.compile(r"(\\left)?\s*([(\[])([^()\[\]]+),([^()\[\],]+?)(\\right)?\s*([)\]])")


def number(text):
    """The number that a plain text is, or None: integers, decimals, \\frac{a}{b}."""
    bare = re.sub(r"(?<=\d),(?:\\!\s*)?(?=\d{3}(?!\d))", "", text)
    bare = re.sub(r"^(-?)\\?\$", r"\1", bare).replace(r"\frac ", r"\frac")
    if re.fullmatch(r"-?\d*\.?\d+", bare):
        return Fraction(bare)
    match = re.fullmatch(r"(-?)\\d?frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))", bare)
    if match:
        over, under = (match[2] or match[4]), (match[3] or match[5])
        return Fraction(int(f"{match[1]}{over}"), int(under))
    return None


def _whole(text):
    value = number(text)
    return int(value) if value is not None and value.denominator == 1 else None


def _is_formula(text):
    """Neither a bare number, nor words, nor something with a bracket or comma around it."""
    return number(text) is None and not re.search(
        r"\\text|\\begin|[,=_]|\\pm|\\infty|\\circ|\\\$", text
    )


# Rewritings that any answer allows.


def in_dollars(text):
    return f"${text}$"


def in_brackets(text):
    return rf"\( {text} \)"


def displayed(text):
    return f"$$ {text} $$"


def boxed(text):
    return rf"\boxed{{{text}}}"


def boxed_in_a_sentence(text):
    return rf"so it is $\boxed{{ {text} }}$, as was to be shown."


def with_a_full_stop(text):
    return f"${text}$."


def emphasized(text):
    return f"**{text}**"


def with_thin_spaces(text):
    return rf"\,{text}\," if "\\text" not in text else None


# Rewritings of numbers.


def as_decimal(text):
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


def as_larger_fraction(text):
    value = number(text)
    if value is None:
        return None
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator) * 3}}}{{{value.denominator * 3}}}"


def as_slash(text):
    value = number(text)
    if value is None:
        return None
    return f"{value.numerator * 2}/{value.denominator * 2}"


def as_mixed_number(text):
    value = number(text)
    if value is None or value.denominator == 1 or abs(value) < 1:
        return None
    whole, rest = divmod(abs(value), 1)
    sign = "-" if value < 0 else ""
    return rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}"


def with_separators(text):
    value = _whole(text)
    written = f"{value:,}" if value is not None and abs(value) >= 1000 else None
    return written if written != text else f"{value}"


def with_tex_separators(text):
    value = _whole(text)
    return f"{value:,}".replace(",", "{,}") if value is not None and abs(value) >= 1000 else None


def with_unit(text):
    return rf"{text} \text{{ units}}" if number(text) is not None else None


def with_currency(text):
    value = _whole(text)
    return rf"\${text}" if value is not None and value >= 0 and "$" not in text else None


def as_equation(text):
    return f"y = {text}" if number(text) is not None or _is_formula(text) else None


# Rewritings of formulas.


def with_display_fractions(text):
    return text.replace(r"\frac", r"\dfrac") if r"\frac" in text else None


def with_sized_brackets(text):
    if r"\left" in text or "(" not in text or "\\text" in text:
        return None
    sized = re.sub(r"([(\[])", r"\\left\1 ", text)
    return re.sub(r"([)\]])", r" \\right\1", sized)


def spaced(text):
    if r"\text" in text or number(text) is not None:
        return None
    return re.sub(r"(?<!\\)([-+=(),])", r" \1 ", text).strip()


def unspaced(text):
    if r"\text" in text:
        return None
    bare = re.sub(r"\s+(?![A-Za-z])", "", text)
    return bare if bare != text else None


def with_braces(text):
    changed = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    changed = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", changed)
    changed = re.sub(r"([_^])(\d)(?!\d)", r"\1{\2}", changed)
    return changed if changed != text else None


def with_a_dot(text):
    changed = re.sub(r"(\d) ?(?=\\sqrt|\\pi|[a-z](?![a-z]))", r"\1 \\cdot ", text)
    return changed if changed != text and _is_formula(text) else None


def reordered(text):
    """The terms of a sum from the last to the first."""
    if not re.fullmatch(r"[-+\sA-Za-z0-9^]+", text):
        return None
    terms = re.findall(r"[-+]?[^-+]+", text.replace(" ", ""))
    if len(terms) < 2:
        return None
    signed = [term if term[0] in "-+" else f"+{term}" for term in terms]
    return " ".join(reversed(signed)).removeprefix("+").strip()


def times_two_halves(text):
    return rf"\frac{{2({text})}}{{2}}" if _is_formula(text) else None


def plus_one_less_one(text):
    return f"{text} + 1 - 1" if _is_formula(text) else None


def as_a_set(text):
    if not re.fullmatch(r"-?\d+(, ?-?\d+)+", text) or number(text) is not None:
        return None
    return rf"\{{{', '.join(reversed([part.strip() for part in text.split(',')]))}\}}"


def both_signs(text):
    match = re.fullmatch(r"(.+?) *\\pm *(.+)", text)
    return f"{match[1]} - {match[2]}, {match[1]} + {match[2]}" if match else None


def plain_words(text):
    match = re.fullmatch(r"\\text\{(.+)\}", text)
    return match[1].strip("()") if match else None


def upper_case_words(text):
    match = re.fullmatch(r"\\text\{([a-zA-Z]{2,})\}", text)
    return rf"\text{{{match[1].upper()}}}" if match else None


def other_matrix(text):
    return text.replace("pmatrix", "bmatrix") if "pmatrix" in text else None


def equation_doubled(text):
    match = re.fullmatch(r"(.*[+-].*)= *0", text)
    return f"0 = 2({match[1].strip()})" if match else None


# Those that few answers allow, those that many do, and those that are a last resort.
REWRITINGS = (
    [
        with_separators, with_tex_separators, as_mixed_number, with_display_fractions,
        with_sized_brackets, with_braces, with_a_dot, reordered, as_a_set, both_signs,
        plain_words, upper_case_words, other_matrix, equation_doubled,
    ],
    [
        times_two_halves, plus_one_less_one, as_decimal, as_larger_fraction, as_slash, with_unit,
        with_currency, as_equation, spaced, unspaced, in_dollars, in_brackets, displayed, boxed,
        boxed_in_a_sentence, with_a_full_stop, emphasized, with_thin_spaces,
    ],
)  # fmt: skip
# What is a number only once it has been worked out.
BY_ALGEBRA = (times_two_halves, plus_one_less_one)


# Near misses.


def other_sign(text):
    if re.search(r"[,=]|\\pm|\\text|\\begin", text) and number(text) is None or number(text) == 0:
        return None
    if re.search(r"(?<!^)[-+]", text.strip()):
        return f"-({text})"
    return text.strip()[1:].strip() if text.strip().startswith("-") else f"-{text}"


def other_sign_inside(text):
    """The sign of the last term or coordinate."""
    places = [match.start() for match in re.finditer(r"(?<=.)[-+](?=\s*[\w\\])", text)]
    if not places or r"\text" in text:
        return None
    at = places[-1]
    flipped = "+" if text[at] == "-" else "-"
    flipped = "" if flipped == "+" and re.search(r"[,(\[&\\]\s*$|^$", text[:at]) else flipped
    return text[:at] + flipped + text[at + 1 :]


def last_digit(text):
    match = re.search(r"\d(?=\D*$)", text)
    if not match or text.startswith(r"\text"):
        return None
    return text[: match.start()] + str((int(match[0]) + 1) % 10) + text[match.end() :]


def first_digit(text):
    match = re.search(r"\d", text)
    if not match or text.startswith(r"\text"):
        return None
    digit = int(match[0]) % 9 + 1
    return text[: match.start()] + str(digit) + text[match.end() :]


def one_more(text):
    value = number(text)
    if value is not None:
        changed = value + 1
        over, under = changed.numerator, changed.denominator
        return f"{over}" if under == 1 else rf"\frac{{{over}}}{{{under}}}"
    return f"{text} + 1" if _is_formula(text) else None


def one_less(text):
    value = _whole(text)
    return f"{value - 1}" if value is not None else None


def ten_times(text):
    value = _whole(text)
    return f"{value * 10}" if value else None


def a_tenth(text):
    value = _whole(text)
    return f"{value // 10}.{value % 10}" if value and value > 0 else None


def nearly(text):
    """A decimal that is rounded to it, or that it is rounded to."""
    value = number(text)
    if value is None:
        return None
    if value.denominator == 1:
        return f"{value}.0000001"
    return None if as_decimal(text) else f"{float(value):.7f}"


def with_a_variable(text):
    return f"{text}x" if _whole(text) else None


def factorial(text):
    value = _whole(text)
    return f"{value}!" if value is not None and 2 < value < 1000 else None


def flipped(text):
    value = number(text)
    if value is None or abs(value) in (0, 1):
        return None
    return f"{value.denominator}/{value.numerator}" if value > 0 else None


def doubled(text):
    return f"2({text})" if _is_formula(text) else None


def swapped(text):
    """The first two coordinates, or entries, exchanged."""
    match = re.search(r"([(\[])([^,()\[\]]+),([^,()\[\]]+)", text)
    if match:
        first, second = match[2].strip(), match[3].strip()
        return None if first == second else text.replace(match[0], f"{match[1]}{second}, {first}")
    match = re.search(r"(matrix\})([^\\&]+?)(\\\\|&)([^\\&]+?)(?=\\\\|&|\\end)", text)
    if not match or match[2].strip() == match[4].strip():
        return None
    return text.replace(match[0], f"{match[1]}{match[4]}{match[3]}{match[2]}")


def other_left_end(text):
    match = PAIR.fullmatch(text.strip())
    if not match:
        return None
    at = text.index(match[2])
    return text[:at] + ("[" if match[2] == "(" else "(") + text[at + 1 :]


def other_right_end(text):
    match = PAIR.fullmatch(text.strip())
    if not match:
        return None
    at = text.rindex(match[6])
    return text[:at] + ("]" if match[6] == ")" else ")") + text[at + 1 :]


def as_braces(text):
    match = PAIR.fullmatch(text.strip())
    return rf"\{{{match[3]},{match[4]}\}}" if match else None


def without_the_last(text):
    if "(" in text or not re.search(r"\d\s*,\s*(?!\\!)-?\d", text) or number(text) is not None:
        return None
    return text.rpartition(",")[0]


def without_the_base(text):
    match = re.fullmatch(r"(\d+)_\{?\d\}?", text)
    return match[1] if match else None


def one_root_only(text):
    return text.replace(r"\pm", "+") if r"\pm" in text else None


def not_so(text):
    match = re.fullmatch(r"\\text\{(\w{2,})\}", text)
    return rf"\text{{not {match[1]}}}" if match else None


def other_word(text):
    match = re.fullmatch(r"\\text\{\(?(\w+)\)?\}", text)
    if not match:
        return None
    return rf"\text{{{match[1][:-1]}{chr(ord(match[1][-1]) + 1)}}}"


def reversed_word(text):
    match = re.fullmatch(r"\\text\{(\w{2,})\}", text)
    return rf"\text{{{match[1][::-1]}}}" if match else None


def empty_statement(text):
    return "0" if number(text) != 0 else "1"


def more_of_it(text):
    """The answer, and another one."""
    return f"{text}, 77" if "," not in text else None


def in_a_pair(text):
    return f"({text}, 0)"


def a_word(text):
    return r"\text{unknown}"


def squared(text):
    return f"({text})^2" if _is_formula(text) else None


NEAR_MISSES = (
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


def several(text, groups, count, random):
    """Texts made of an answer that differ from it and from each other.

    Args:
        text: The answer.
        groups: `REWRITINGS` or `NEAR_MISSES`; of the first group at most three are taken.
        count: Texts wanted.
        random: A `random.Random`, which draws among the functions of a group.

    Returns:
        (function name, text) pairs; fewer than `count` where fewer functions apply.
    """
    found = {}
    for most, group in zip((3, count, count), groups, strict=False):
        for function in random.sample(group, len(group)):
            result = function(text)
            if result is not None and result != text and len(found) < most:
                found.setdefault(result, function.__name__)
    return [(name, result) for result, name in found.items()]
