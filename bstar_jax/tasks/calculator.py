"""The exact step check of calculator annotations: is `<<48/2=24>>` true?

It reads what GSM8K's solutions write beside their text. A true equation need not be the right
one to write, so this is a weaker check than that of stories; but a false one is wrong for sure.
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
    """Grades the lines of a response that hold annotations.

    With v such lines before the first with a false equation, of m in all,

        step reward = 1          of a line whose equations are true,
                      2v/m - 1   of the first that has a false one and of all after it.

    Example: "8-3=<<8-3=5>>5\\n5+4=<<5+4=8>>8\\n#### 8" -> [1, 0]

    Args:
      query: Not used: an equation is true or false by itself.
      response: The response.

    Returns:
      Rewards in [-1, 1]; none where nothing is annotated.
    """
    del query
    found = [ANNOTATION.findall(line) for line in response.split("\n")]
    steps = [all(map(is_true, equations)) for equations in found if equations]
    if all(steps):
        return [1.0] * len(steps)
    valid = steps.index(False)
    return [1.0] * valid + [2.0 * valid / len(steps) - 1.0] * (len(steps) - valid)


def is_true(equation: str) -> bool:
    """Whether both sides are equal, exactly, or as far as the decimals of the right one go.

    Examples: "48/2=24", "$1,000*5%=50", "10/3=3.33" -> True     "3+4=8", "3+=3", "a=a" -> False
    """
    sides = equation.split("=")
    if len(equation) > _LONGEST or len(sides) != 2:
        return False
    values = [_value(side) for side in sides]
    if None in values:
        return False
    left, right = values
    decimals = sides[1].strip().rstrip("%").partition(".")[2].strip()
    if left == right:
        return True
    # A rounded result is less than one unit of its last digit off, whether it was cut or rounded.
    return bool(decimals) and abs(left - right) < Fraction(1, 10 ** len(decimals))


def _value(text: str) -> Fraction | None:
    """The value of a sum of numbers; None where it is not one."""
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
