"""The solution steps of a response: where each ends."""

from __future__ import annotations


def step_ends(text: str, separator: str, marker: str) -> list[int]:
    """Finds the ends of the solution steps of a response, in characters.

    A separator ends a step and belongs to it. The marker of the answer and the text after it are
    the last step. Steps of only spaces do not count.

    Example: "8 - 3 = 5 . 5 + 4 = 9 . # 9", separator ".", marker "#" -> [11, 23, 27].

    Args:
      text: The response.
      separator: The text that ends a step, such as a line break.
      marker: The text before the answer; "" if answers have no marker.
    """
    start = text.find(marker) if marker else -1
    reasoning = text if start < 0 else text[:start]
    ends, begin = [], 0
    while begin < len(reasoning):
        found = reasoning.find(separator, begin)
        end = len(reasoning) if found < 0 else found + len(separator)
        if reasoning[begin:end].strip():
            ends.append(end if found >= 0 else len(reasoning.rstrip()))
        begin = end
    if start >= 0:
        ends.append(len(text))
    return ends


def split_steps(text: str, separator: str, marker: str) -> list[str]:
    """Splits a response into its solution steps, see `step_ends`; the conclusion is the last."""
    ends = step_ends(text, separator, marker)
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
