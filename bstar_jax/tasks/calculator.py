"""The exact check of steps with calculator annotations: is `<<48/2=24>>` true?

GSM8K's solutions write such annotations beside their text. A true equation need not be the right
one to write, so this check is weaker than that of stories; but a false equation is certainly wrong.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

from bstar_jax.answers.equations import ANNOTATION
from bstar_jax.answers.text import parse_number
from bstar_jax.records import Query

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_LEADING_ZEROS = re.compile(r"(?<![\w.])0+(?=\d)")
_LONGEST = 200  # characters of an equation


def check_steps(query: Query, response: str) -> list[float]:
    r"""Checks the lines of a response that hold annotations.

    With v such lines before the first that has a false equation, of m in all,

        step reward = 1          of a line before that one,
                      2v/m - 1   of that line and of all after it.

    Example: "8-3=<<8-3=5>>5\n5+4=<<5+4=8>>8\n#### 8" -> [1, 0]

    Args:
      query: Not used: an equation is true or false by itself.
      response: The response.

    Returns:
      Rewards in [-1, 1], one for each such line; none where nothing is annotated.
    """
    del query
    found = [ANNOTATION.findall(line) for line in response.split("\n")]
    steps = [all(map(is_true, equations)) for equations in found if equations]
    if all(steps):
        return [1.0] * len(steps)
    valid = steps.index(False)
    return [1.0] * valid + [2.0 * valid / len(steps) - 1.0] * (len(steps) - valid)


def is_true(equation: str) -> bool:
    """Tells whether both sides are equal, exactly or to the decimals of the right side.

    Examples: "48/2=24", "$1,000*5%=50", "10/3=3.33" -> True     "3+4=8", "3+=3", "a=a" -> False
    """
    sides = equation.split("=")
    if len(equation) > _LONGEST or len(sides) != 2:
        return False
    left, right = map(_value, sides)
    if left is None or right is None:
        return False
    decimals = sides[1].strip().rstrip("%").partition(".")[2].strip()
    if left == right:
        return True
    # A result is off by less than one unit of its last digit, whether it was cut or rounded.
    return bool(decimals) and abs(left - right) < Fraction(1, 10 ** len(decimals))


def _value(text: str) -> Fraction | None:
    """Computes a text of numbers and operators; None if it is something else."""
    text = re.sub(r"[$€£¥\s]", "", text).replace("×", "*").replace("x", "*")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(\d+\.?\d*|\.\d+)%", r"(\1/100)", text)
    text = _LEADING_ZEROS.sub("", text)  # which Python refuses
    try:
        return _evaluate(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr, text: str) -> Fraction | None:
    if isinstance(node, ast.Constant):
        return parse_number(ast.get_source_segment(text, node) or "")
    if isinstance(node, ast.UnaryOp):
        arguments = [node.operand]
    elif isinstance(node, ast.BinOp):
        arguments = [node.left, node.right]
    else:
        return None
    values = [_evaluate(argument, text) for argument in arguments]
    apply = _OPERATORS.get(type(node.op))
    return None if apply is None or None in values else apply(*values)
