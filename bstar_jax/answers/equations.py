"""Reads the equations of a response, by which diversity is measured."""

from __future__ import annotations

import itertools
import re

from bstar_jax.answers.text import canonical_answer

ANNOTATION = re.compile(r"<<([^<>=]*=[^<>]*)>>")
_STORY = re.compile(r"(?<!\S)\d+ [-+*] \d+ = \d+(?!\S)")
# A formula ends before the next opening bracket: otherwise a text of openings alone would be
# read again from each of them.
_LATEX = re.compile(
    r"\$\$(.+?)\$\$|\$([^$]+?)\$|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]", re.DOTALL
)
_SIDES = re.compile(r"(?<![<>!:=])=(?!=)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")


def in_annotations(response: str) -> list[str]:
    """Reads the equations of calculator annotations, `<<48/2=24>>`.

    Returns:
      Equations in their order, repeats included, without spaces, currency signs and thousands
      separators, with canonical numbers.

    Example: "so <<1,000 * 0.50 = $500>>500" -> ["1000*1/2=500"]
    """
    return [_normal(match) for match in ANNOTATION.findall(response)]


def in_stories(response: str) -> list[str]:
    """Reads the equations of stories, `8 - 3 = 5 .`, and writes them as `in_annotations` does.

    They are read from left to right, and a number belongs to one of them.

    Example: "8 - 3 = 5 + 4 = 9" -> ["8-3=5"]
    """
    return [_normal(match) for match in _STORY.findall(response)]


def in_latex(response: str) -> list[str]:
    """Reads the equations of formulas, `$x = 2 + 1$`.

    A chain `a = b = c` is two equations, a = b and b = c.

    Returns:
      Equations in their order, repeats included, without spaces.

    Example: "thus $x = 2 + 1 = 3$" -> ["x=2+1", "2+1=3"]
    """
    found = []
    for groups in _LATEX.findall(response):
        for line in re.split(r"\\\\|\n\n", "".join(groups)):
            sides = [re.sub(r"[\s&]|\\[,;!]", "", side) for side in _SIDES.split(line)]
            found += [f"{one}={two}" for one, two in itertools.pairwise(sides) if one and two]
    return found


def _normal(equation: str) -> str:
    text = re.sub(r"[\s$€£¥]", "", equation)
    return _NUMBER.sub(lambda match: canonical_answer("number", match[0]) or match[0], text)
