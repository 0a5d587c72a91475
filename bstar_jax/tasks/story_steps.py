"""The exact process reward of stories: is every solution step one that the story allows?

The checker follows the quantities of the story through the steps. A number may stand for
several quantities (a gain of 3 and a loss of 3, or two ways to make 5), so it keeps the set of
all pools that the steps so far may have led to; a step is valid if it is a legal move from one
of them, and the story is concluded if in one of them the answer alone is left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bstar_jax.tasks.arithmetic import MARKER, Pool, legal_moves

_SENTENCE = re.compile(r"[^.]*\.|[^.]+")
_STEP = re.compile(r"(\d{1,6}) ([-+*]) (\d{1,6}) = (\d{1,6}) \.")
_ANSWER = re.compile(r"\d{1,6}")


def step_rewards(fields: Mapping[str, object], response: str) -> list[float]:
    """Grades the solution steps of a story, the conclusion last.

    With v steps valid before the first that is not, of the m that the story needs,

        step reward = 1          of a valid step,
                      2v/m - 1   of the first that is not and of all after it.

    The conclusion (`# 9`) counts as the last of the m steps, also where it is missing. It is
    valid if one quantity is left and it is the one stated. So the process reward, the minimum
    over the steps, is 1 for a valid and complete solution and else the lower the earlier it
    fails; a response that shows no steps gets -1.

    Example: `Eve has 8 . finds 4 . loses 3 . How many now?` has m = 3, and
      "8 - 3 = 5 . 5 + 4 = 9 . # 9" -> [1, 1, 1]
      "8 - 3 = 5 . 5 + 4 = 9 . # 8" -> [1, 1, 1/3]
      "8 - 3 = 5 . # 9"             -> [1, -1/3]
      "# 9"                         -> [-1]

    Args:
      fields: The story's `gains`, `losses` and `bags`.
      response: The response.

    Returns:
      Rewards in [-1, 1], one a step of the response and one of the conclusion.
    """
    start = Pool(*(tuple(fields[name]) for name in Pool._fields))
    needed = len(start.gains) + len(start.losses) + 2 * len(start.bags)
    steps, conclusion = _split(response)
    pools, valid = {start}, 0
    for step in steps:
        pools = _after(pools, step)
        if not pools:
            break
        valid += 1
    if valid == len(steps) and _concludes(pools, conclusion):
        return [1.0] * (valid + 1)
    failed = 2.0 * valid / needed - 1.0
    return [1.0] * valid + [failed] * (len(steps) + 1 - valid)


def _split(response: str) -> tuple[list[str], str | None]:
    """The steps of a response, and what stands after the marker."""
    text, found, conclusion = " ".join(response.split()).partition(MARKER)
    steps = [step.strip() for step in _SENTENCE.findall(text)]
    return [step for step in steps if step], conclusion.strip() if found else None


def _after(pools: set[Pool], step: str) -> set[Pool]:
    """The pools that a step may lead to; none if it is not legal in any."""
    match = _STEP.fullmatch(step)
    if match is None:
        return set()
    left, right, result = (int(match[group]) for group in (1, 3, 4))
    operator = match[2]
    orders = {(left, right)} if operator == "-" else {(left, right), (right, left)}
    return {
        move.pool
        for pool in pools
        for move in legal_moves(pool)
        if move.operator == operator and (move.left, move.right) in orders and move.result == result
    }


def _concludes(pools: set[Pool], conclusion: str | None) -> bool:
    if conclusion is None or not _ANSWER.fullmatch(conclusion):
        return False
    return Pool((int(conclusion),), (), ()) in pools
