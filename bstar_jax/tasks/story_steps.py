"""The solution steps that a story allows, and the exact check of a response's steps.

The quantities of a story are what is still to be put together. A solution step replaces two of
them by one, until only the answer is left. A number may stand for several quantities (a gain of
3 and a loss of 3, or two ways to make 5), so the check keeps the set of all `Quantities` that
the steps so far may have led to. A step is valid if it is a legal move from one of them, and
the conclusion is valid if the answer alone is left in one of them.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

from bstar_jax.records import Query

MARKER = "#"

_SENTENCE = re.compile(r"[^.]*\.|[^.]+")
_STEP = re.compile(r"(\d{1,6}) ([-+*]) (\d{1,6}) = (\d{1,6}) \.")
_ANSWER = re.compile(r"\d{1,6}")


class Quantities(NamedTuple):
    """The quantities of a story that are not yet put together, each group in ascending order."""

    gains: tuple[int, ...]
    losses: tuple[int, ...]
    bags: tuple[tuple[int, int], ...]  # (bags, things in each)


class Move(NamedTuple):
    """One legal solution step, and the quantities after it."""

    left: int
    operator: str  # "+", "-" or "*"
    right: int
    result: int
    after: Quantities


@functools.lru_cache(maxsize=1 << 16)
def legal_moves(quantities: Quantities) -> tuple[Move, ...]:
    """Lists the steps that a solution may take.

    Multiply out a bag, which becomes a gain; add two gains; add two losses; take a loss from a
    gain that is at least as large. Equal quantities make equal moves, and each is listed.

    Example: gains (4, 8), losses (3,) -> 4 + 8 = 12, 4 - 3 = 1, 8 - 3 = 5.
    """
    gains, losses, bags = quantities
    moves = []
    for index, (count, size) in enumerate(bags):
        rest = bags[:index] + bags[index + 1 :]
        after = Quantities(_with(gains, (), count * size), losses, rest)
        moves.append(Move(count, "*", size, count * size, after))
    for i, j in itertools.combinations(range(len(gains)), 2):
        total = gains[i] + gains[j]
        after = Quantities(_with(gains, (i, j), total), losses, bags)
        moves.append(Move(gains[i], "+", gains[j], total, after))
    for i, j in itertools.combinations(range(len(losses)), 2):
        total = losses[i] + losses[j]
        after = Quantities(gains, _with(losses, (i, j), total), bags)
        moves.append(Move(losses[i], "+", losses[j], total, after))
    for (i, gain), (j, loss) in itertools.product(enumerate(gains), enumerate(losses)):
        if gain >= loss:
            left = losses[:j] + losses[j + 1 :]
            after = Quantities(_with(gains, (i,), gain - loss), left, bags)
            moves.append(Move(gain, "-", loss, gain - loss, after))
    return tuple(moves)


def _with(values: tuple[int, ...], dropped: tuple[int, ...], new: int) -> tuple[int, ...]:
    kept = [value for index, value in enumerate(values) if index not in dropped]
    return tuple(sorted([*kept, new]))


def check_steps(query: Query, response: str) -> list[float]:
    """Checks the solution steps of a response to a story.

    With v valid steps before the first invalid one, of the m steps that the story needs,

        step reward = 1          of a valid step,
                      2v/m - 1   of the first invalid step and of all after it.

    The conclusion (`# 9`) counts as the last of the m steps, even where it is missing. It is
    valid if one quantity is left and that quantity is the one stated. So the process reward, the
    minimum over the steps, is 1 for a valid and complete solution, and otherwise the lower the
    earlier the solution fails. A response without steps gets -1.

    Example: `Eve has 8 . finds 4 . loses 3 . How many now?` has m = 3, and
      "8 - 3 = 5 . 5 + 4 = 9 . # 9" -> [1, 1, 1]
      "8 - 3 = 5 . 5 + 4 = 9 . # 8" -> [1, 1, 1/3]
      "8 - 3 = 5 . # 9"             -> [1, -1/3]
      "# 9"                         -> [-1]

    Args:
      query: The story, with `gains`, `losses` and `bags` among its fields.
      response: The response.

    Returns:
      Rewards in [-1, 1]: one for each step of the response, then one for the conclusion.
    """
    start = Quantities(*(tuple(query.fields[name]) for name in Quantities._fields))
    needed = len(start.gains) + len(start.losses) + 2 * len(start.bags)
    steps, conclusion = _split(response)
    reached, valid = {start}, 0
    for step in steps:
        reached = _after(reached, step)
        if not reached:
            break
        valid += 1
    if valid == len(steps) and _concludes(reached, conclusion):
        return [1.0] * (valid + 1)
    failed = 2.0 * valid / needed - 1.0
    return [1.0] * valid + [failed] * (len(steps) + 1 - valid)


def _split(response: str) -> tuple[list[str], str | None]:
    """Splits a response into its steps and what follows the marker."""
    text, found, conclusion = " ".join(response.split()).partition(MARKER)
    steps = [step.strip() for step in _SENTENCE.findall(text)]
    return [step for step in steps if step], conclusion.strip() if found else None


def _after(reached: set[Quantities], step: str) -> set[Quantities]:
    """Returns the quantities that a step may lead to; none if it is legal in none of them."""
    match = _STEP.fullmatch(step)
    if match is None:
        return set()
    left, right, result = (int(match[group]) for group in (1, 3, 4))
    operator = match[2]
    orders = {(left, right)} if operator == "-" else {(left, right), (right, left)}
    return {
        move.after
        for quantities in reached
        for move in legal_moves(quantities)
        if move.operator == operator and (move.left, move.right) in orders and move.result == result
    }


def _concludes(reached: set[Quantities], conclusion: str | None) -> bool:
    if conclusion is None or not _ANSWER.fullmatch(conclusion):
        return False
    return Quantities((int(conclusion),), (), ()) in reached
