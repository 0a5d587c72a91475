"""Compares expressions by algebra: SymPy, through math-verify. Only workers import this.

math-verify (github.com/huggingface/Math-Verify, 0.9) reads LaTeX and decides whether two
expressions are equal. It is asked only about single expressions, never about brackets, numbers or
words, and its defaults are not used. It rounds decimals to six digits: here they are fractions. It
reads 204_5 as 204, 2(3) as the mixed number 5, x' as x, `5 5` as 10, N as n: such texts are
refused, or written so that they cannot be misread. Where it says equal, both sides must also have
the same value at several points; where these differ, it is not asked.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
from typing import Any

import math_verify
import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from bstar_jax.answers.mathematics import equality
from bstar_jax.answers.mathematics.notation import join, tokens
from bstar_jax.answers.mathematics.readings import Reading, read

_DIGITS = 40
_ALIKE = sympy.Float("1e-30")  # relative
_SMALL = sympy.Float("1e-50")  # only algebra tells smaller values apart
_POINTS = ((7, 3), (-5, 4), (31, 8), (2, 9))  # what the first variable is, as a fraction
# What the parser accepts although it drops or changes something.
_REFUSED = re.compile(
    r"\\(?:text|approx|sim|choose|gcd|lcm|operatorname|overline\{\d)|[\d)\]]_|(?:[Iie]|\\pi)_"
    r"|!!|['\"%$]|\^\{(?:T|\\top)\}|\d \d"
    r"|[0-9]\\frac\{\d+\}\{\d+\}|\.\d*\.|\.$"
    # 1/2x, which may be x/2 or 1/(2x)
    r"|/(?:\d++|[A-Za-z]|\\[a-z]++(?:\{[^{}]*\})?)(?=[A-Za-z(\d]|\\(?!cdot|leq|geq|neq|pm|to))"
)
_BINOMIAL = re.compile(r"\\binom\{([^{}]*)\}\{([^{}]*)\}")
_DECIMAL = re.compile(r"(\d*)\.(\d+)")
_MATRICES = (sympy.MatrixBase, sympy.MatrixExpr)
_CONFIG = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)


# It would warn that its time limits are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


class Unreadable(Exception):
    """An expression that algebra cannot read."""


def verify(pair: tuple[str, str]) -> str:
    """Compares an answer with a reference.

    Args:
      pair: The answer and the reference, as they are written.

    Returns:
      "correct", "wrong", or "unparseable" where a part of the answer cannot be read.

    Raises:
      ValueError: If the reference cannot be read.
    """
    answer, reference = map(read, pair)
    if reference is None or not is_readable(pair[1]):
        raise ValueError(f"no mathematics can be read from the reference {pair[1]!r}")
    if answer is None:
        return "unparseable"
    try:
        equal = equality.compare(answer, reference, _equal)
        if not equal:
            for leaf in answer.leaves():  # what was not needed to see that they differ
                _value(leaf)
    except Unreadable:
        return "unparseable"
    except Exception:
        if any(map(_breaks, answer.leaves())):
            return "unparseable"
        raise
    return "correct" if equal else "wrong"


def _breaks(leaf: Reading) -> bool:
    """Tells whether SymPy fails to evaluate what the parser accepted."""
    try:
        value = _value(leaf)
        if isinstance(value, sympy.Expr):
            _alike_at_points(value, value)
    except MemoryError:
        raise
    except Exception:  # a sum of too many terms recurses, a limit may compare what is no number
        return True
    return False


def is_readable(text: str) -> bool:
    r"""Tells whether all parts of an answer can be read.

    Examples: r"(3, \sqrt{x}]", "4 km" -> True     r"\frac{x}{", r"2 \text{ then } x" -> False
    """
    reading = read(text)
    try:
        for leaf in reading.leaves() if reading else ():
            _value(leaf)
    except Unreadable:
        return False
    return reading is not None


def _value(reading: Reading) -> Any:
    """Returns what a reading is in SymPy."""
    if reading.kind == "number":
        return sympy.Rational(reading.value.numerator, reading.value.denominator)
    if reading.kind in ("words", "notation") or (reading.kind == "{}" and not reading.items):
        return None  # these are compared as they are
    return _parse(reading.text)


@functools.lru_cache(maxsize=1 << 12)
def _parse(text: str) -> Any:
    """Parses an expression, equation or set; `text` is in its one form.

    Raises:
      Unreadable: If the parser does not accept it, or would misread it.
    """
    if _REFUSED.search(text):
        raise Unreadable(text)
    found = tokens(text) or []
    is_complex = "i" in found
    try:
        value: Any = latex2sympy(
            _unmistakable(found),
            is_real=None if is_complex else True,
            convert_degrees=True,
            normalization_config=None,
            conversion_config=_CONFIG,
        )
        value = value.subs(sympy.Symbol("i"), sympy.I) if is_complex else value
        if value.has(*_MATRICES):
            value = value.doit()  # shapes that do not fit show here
    except MemoryError:
        raise
    except Exception as error:  # the parser raises Exception itself, and whatever SymPy does
        raise Unreadable(text) from error
    if not isinstance(value, (sympy.Basic, sympy.MatrixBase)) or value.has(sympy.nan, sympy.zoo):
        raise Unreadable(text)
    return value


def _unmistakable(found: list[str]) -> str:
    r"""Writes an expression so that the parser cannot take it for a mixed number.

    The parser adds a whole number and a rational one that follows it, as in 1 1/2. So a
    multiplication sign goes between them; decimals become fractions, and binomials, which are
    whole, get brackets.

    Example: 1.5(2) -> "{\frac{15}{10}}\cdot(2)"

    Raises:
      Unreadable: If a digit follows a letter, as in x2: an index, an exponent or a factor.
    """
    for token, after in itertools.pairwise(found):
        if re.fullmatch("[A-Za-z]", token) and after.isdigit():
            raise Unreadable(f"{token}{after}")
    found = [r"\mathbf{I}" if token == "I" else token for token in found]  # not the unit i
    text = _BINOMIAL.sub(r"(\\binom{\1}{\2})", join(found))
    text = re.sub(r"(?<=[\d)|])(?=\(|\{(?!\})|\\frac|\\begin)|(?<=\))(?=\d)", r"\\cdot", text)
    return _DECIMAL.sub(_as_fraction, text)


def _as_fraction(decimal: re.Match) -> str:
    return rf"{{\frac{{{int(decimal[1] + decimal[2])}}}{{{10 ** len(decimal[2])}}}}}"


def _equal(answer: Reading, reference: Reading) -> bool:
    """Tells whether two readings that are not exact are equal."""
    try:
        one, two = _value(answer), _value(reference)
    except Unreadable:
        if answer.items or reference.items:  # their parts may be readable all the same
            return False
        raise
    if one is None or two is None:
        return False
    if isinstance(one, sympy.And) and isinstance(two, sympy.And):
        return _same_chain(one, two)
    if isinstance(one, Relational) and isinstance(two, Relational):
        return _same_relation(one, two)
    if isinstance(one, sympy.Set) and isinstance(two, sympy.Set):
        return not isinstance(one, sympy.FiniteSet) and _verified(one, two)
    are_matrices = [isinstance(side, _MATRICES) for side in (one, two)]
    if any(are_matrices):
        if not all(are_matrices):
            return False
        one, two = map(sympy.Matrix, (one, two))
        cells = zip(one.flat(), two.flat(), strict=False)
        return one.shape == two.shape and all(itertools.starmap(_same, cells))
    if isinstance(one, sympy.Expr) and isinstance(two, sympy.Expr):
        return _same(one, two)
    return False


def _same(one: Any, two: Any) -> bool:
    """Tells whether two expressions are equal: at points first, which settles most that are not."""
    if one == two:
        return True
    alike = _alike_at_points(one, two)
    if alike is False or not _verified(one, two):
        return False
    proved = (one - two).equals(0)  # None where SymPy can neither prove nor disprove it
    return proved is True or (proved is None and alike is True)


def _verified(one: sympy.Basic, two: sympy.Basic) -> bool:
    """Asks math-verify, without its own time limits, which are signals."""
    return math_verify.verify(
        two, one, numeric_precision=_DIGITS, strict=True, timeout_seconds=None, raise_on_error=True
    )


def _alike_at_points(one: Any, two: Any) -> bool | None:
    """Tells whether two expressions have the same values; None if that cannot be told."""
    one, two = one.doit(), two.doit()
    unknown = sorted(one.atoms(AppliedUndef) | two.atoms(AppliedUndef), key=str)
    names = {function: sympy.Dummy(real=True) for function in unknown}  # f(x) is a variable too
    one, two = one.xreplace(names), two.xreplace(names)
    variables = sorted(one.free_symbols | two.free_symbols, key=lambda v: (v.name, str(v)))
    told = None
    for over, under in _POINTS[: len(_POINTS) if variables else 1]:
        point = {v: sympy.Rational(over + 3 * i, under + i) for i, v in enumerate(variables)}
        values = [side.subs(point).evalf(_DIGITS) for side in (one, two)]
        if not all(value.is_number and value.is_finite for value in values):
            continue
        size = max(map(abs, values))
        if abs(values[0] - values[1]) > _ALIKE * size and size > _SMALL:
            return False
        told = True if size > _SMALL else told
    return told


def _same_relation(one: Relational, two: Relational) -> bool:
    """Tells whether two equations, or two inequalities, say the same.

    They do where one is a multiple of the other: lhs - rhs = c (lhs' - rhs'), for inequalities
    of one direction c > 0.
    """
    if not all(isinstance(side, sympy.Expr) for side in (*one.args, *two.args)):
        return False
    (kind, left), (other_kind, right) = _directed(one), _directed(two)
    variables = sorted(left.free_symbols | right.free_symbols, key=str)
    if kind is not other_kind or not variables:
        return False
    for over, under in _POINTS:
        point = {v: sympy.Rational(over + 3 * i, under + i) for i, v in enumerate(variables)}
        values = [side.subs(point).doit() for side in (left, right)]
        if all(value.is_number and value.is_finite and not value.is_zero for value in values):
            factor = values[0] / values[1]
            directed = kind in (sympy.Ge, sympy.Gt)
            return not (directed and not factor.is_positive) and _same(left, factor * right)
    return False


def _directed(relation: Relational) -> tuple[type, Any]:
    """Returns a relation's kind, never "less", and the difference of its sides."""
    turned = {sympy.Le: sympy.Ge, sympy.Lt: sympy.Gt}
    kind = type(relation)
    sides: Any = relation  # whose two sides are expressions
    difference = sides.lhs - sides.rhs
    return (turned[kind], -difference) if kind in turned else (kind, difference)


def _same_chain(one: Any, two: Any) -> bool:
    """Tells whether two chains a < b < c say the same, link by link, from either end."""
    links, others = _links(one), _links(two)
    if len(links) != len(others) or not all(isinstance(x, Relational) for x in (*links, *others)):
        return False
    return any(
        all(itertools.starmap(_same_relation, zip(links, order, strict=True)))
        for order in (others, others[::-1])
    )


def _links(chain: Any) -> tuple[Any, ...]:
    """Returns the relations of a chain in the order in which they were written."""
    return chain._unsorted_args
