"""The equations of a response, by which diversity is measured."""

from __future__ import annotations

import itertools
import re

from bstar_jax.answers.text import canonical_answer

CALCULATOR = re.compile(r"<<([^<>=]*=[^<>]*)>>")
_STORY = re.compile(r"(?<!\S)\d+ [-+*] \d+ = \d+(?!\S)")
# What a bracket opens ends before the next: else a text of openings alone is read again from each.
_LATEX = re.compile(
    r"\$\$(.+?)\$\$|\$([^$]+?)\$|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]", re.DOTALL
)
_SIDES = re.compile(r"(?<![<>!:=])=(?!=)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")


def equations(task, response: str) -> list[str]:
    """The equations of a response in their order, repeats included, written one way.

    They are read from left to right, and a number belongs to one of them: in `8 - 3 = 5 + 4 = 9`
    only the first is read. But a chain in LaTeX, `a = b = c`, is a = b and b = c.

    Args:
      task: Its `equations` says how they are written: "calculator" for `<<48/2=24>>`,
        "stories" for `8 - 3 = 5 .`, "latex" for what stands in mathematics, `$x = 2 + 1$`, ""
        where there are none to read.
      response: The response.

    Returns:
      Equations without spaces; those of calculators and stories also without currency signs and
      thousands separators, numbers canonical.

    Examples: "so <<1,000 * 0.50 = $500>>500" -> ["1000*1/2=500"]
      "thus $x = 2 + 1 = 3$" -> ["x=2+1", "2+1=3"]
    """
    if not task.equations:
        return []
    if task.equations == "latex":
        return _in_latex(response)
    found = CALCULATOR if task.equations == "calculator" else _STORY
    return [_normal(match) for match in found.findall(response)]


def _in_latex(response: str) -> list[str]:
    found = []
    for parts in _LATEX.findall(response):
        for line in re.split(r"\\\\|\n\n", "".join(parts)):
            sides = [re.sub(r"[\s&]|\\[,;!]", "", side) for side in _SIDES.split(line)]
            found += [f"{one}={two}" for one, two in itertools.pairwise(sides) if one and two]
    return found


def _normal(equation: str) -> str:
    text = re.sub(r"[\s$€£¥]", "", equation)
    return _NUMBER.sub(lambda match: canonical_answer("number", match[0]) or match[0], text)
