"""The estimators by counting K-subsets in whole numbers; used by `recompute`.

Slow and exact: every result is a fraction. Nothing here comes from the package, so that
agreement means something.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction
from math import comb


def pass_at(samples: int, correct: int, k: int) -> Fraction:
    """Share of the K-subsets that hold a correct response.

    Example: pass_at(4, 1, 2) -> 1/2.
    """
    return 1 - Fraction(comb(samples - correct, k), comb(samples, k))


def pass_at_distinct(samples: int, copies: Collection[int], k: int, s: int) -> Fraction:
    """Share of the K-subsets that hold at least S distinct correct texts.

    `copies` says how often each correct text occurs among the samples. ways[d, j] counts the
    ways to take j correct responses of d distinct texts; the rest of the subset is wrong.

    Example: pass_at_distinct(4, [2, 2], 2, 2) -> 2/3.
    """
    ways = {(0, 0): 1}
    for count in copies:
        after = Counter[tuple[int, int]]()
        for (distinct, taken), number in ways.items():
            for more in range(min(count, k - taken) + 1):
                after[distinct + (more > 0), taken + more] += number * comb(count, more)
        ways = after
    wrong = samples - sum(copies)
    enough = sum(
        number * comb(wrong, k - taken)
        for (distinct, taken), number in ways.items()
        if distinct >= s
    )
    return Fraction(enough, comb(samples, k))


def top_correct(rewards: Sequence[int], correct: Sequence[bool], k: int, s: int) -> Fraction:
    """The probability that the S highest rewards of a random K-subset are all correct.

    Equal rewards are ordered at random. The sum goes over the reward of the S-th rank: `a` of the
    subset are above it and all correct; `b` have it, and the first s - a of these in random order
    are a uniform draw from all that have it; the others are below.

    Example: top_correct([3, 2, 2], [False, True, False], 2, 1) -> 1/6.
    """
    total = Fraction(0)
    for reward in set(rewards):
        above = sum(c for r, c in zip(rewards, correct, strict=True) if r > reward)
        equal = rewards.count(reward)
        right = sum(c for r, c in zip(rewards, correct, strict=True) if r == reward)
        below = sum(r < reward for r in rewards)
        for a in range(s):
            wanted = s - a
            subsets = sum(comb(equal, b) * comb(below, k - a - b) for b in range(wanted, k - a + 1))
            if subsets:
                chance = Fraction(comb(right, wanted), comb(equal, wanted))
                total += comb(above, a) * subsets * chance
    return total / comb(len(rewards), k)


def majority(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> Fraction:
    """Share of the blocks of K consecutive responses whose most frequent answer is correct.

    None does not vote; among equally frequent answers the one seen first wins.
    """
    blocks = len(answers) // k
    won = 0
    for block in range(blocks):
        voters = [index for index in range(block * k, block * k + k) if answers[index] is not None]
        votes = Counter(answers[index] for index in voters)
        ranked = sorted(voters, key=lambda index: -votes[answers[index]])  # keeps the first first
        won += bool(ranked) and correct[ranked[0]]
    return Fraction(won, blocks)


def _story_equations(words: Sequence[str]) -> list[str]:
    """Equations from left to right; a number belongs to one of them."""
    found, at = [], 0
    while at + 5 <= len(words):
        a, op, b, equals, c = words[at : at + 5]
        if op in ("+", "-", "*") and equals == "=" and all(map(str.isdecimal, (a, b, c))):
            found.append("".join(normal(word) for word in (a, op, b, equals, c)))
            at += 5
        else:
            at += 1
    return found


def equations(task: str, text: str) -> list[str]:
    """The equations in a response, each in its one normal form.

    Examples: "8 - 3 = 5 . # 5" of arithmetic -> ["8-3=5"]; of other tasks
    "<<1,000 * 0.50 = $500>>" -> ["1000*1/2=500"].
    """
    if task == "arithmetic":
        return _story_equations(text.split())
    written = []
    for piece in text.split("<<")[1:]:
        inside, closed, _ = piece.partition(">>")
        if closed and "=" in inside and "<" not in inside and ">" not in inside:
            bare = re.sub(r"[\s$€£¥]", "", inside)
            written.append(re.sub(r"[\d.,]*\d[\d.,]*", _normal_match, bare))
    return written


def _normal_match(match: re.Match[str]) -> str:
    return normal(match[0])


def normal(word: str) -> str:
    """The normal form of a number: no separators, in lowest terms; other words as they are."""
    try:
        return str(Fraction(word.replace(",", "")))
    except ValueError:
        return word
