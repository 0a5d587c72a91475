"""The part `speed`: agreement and pairs a second beside math-verify as it comes.

The pairs are distinct: all of MATH, and of GSM8K as many as are missing. Both sides work on a block
in turn; starting workers, and one warm-up of math-verify, are not in the times.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections import Counter
from typing import Any

from benchmarks.figures import Spread
from benchmarks.grading.references import MARKER, cases, references, response
from bstar_jax.answers.mathematics import verifier as mathematics

Pair = tuple[str, str]  # answer, reference


def draw_pairs(arguments: argparse.Namespace) -> dict[Pair, bool]:
    """Distinct pairs in random order, and whether each is equal by construction."""
    found, pairs = references(arguments.data), dict[Pair, bool]()
    draw = random.Random(arguments.seed)
    for data_set in ("math500", "gsm8k"):
        rows = cases(data_set, found[data_set], arguments.seed)
        draw.shuffle(rows)
        for row in rows:
            answer = mathematics.read(response(row.answer), MARKER)
            if len(pairs) < arguments.pairs and answer is not None:
                pairs.setdefault((answer, row.reference), row.equal)
    order = list(pairs)
    draw.shuffle(order)
    return {pair: pairs[pair] for pair in order}


def by_math_verify(answer: str, reference: str) -> bool:
    """math-verify as it comes: both texts boxed, parsed and verified, all by its defaults."""
    import math_verify

    logging.disable(logging.WARNING)
    gold, target = (math_verify.parse(rf"\boxed{{{text}}}") for text in (reference, answer))
    return math_verify.verify(gold, target)


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Agreement and speed; the listing has every pair on which the two differ."""
    truth = draw_pairs(arguments)
    pairs = list(truth)
    ours, theirs, seconds = list[str](), list[bool](), {"ours": [], "theirs": []}
    by_math_verify(*pairs[0])
    size = -(-len(pairs) // arguments.blocks)
    with mathematics.MathVerifier(arguments.workers, arguments.limit) as verifier:
        verifier.verify([(f"x+{i}", f"{i}+x") for i in range(32)])
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            begun = time.perf_counter()
            ours += [verdict.reason for verdict in verifier.verify(block)]
            between = time.perf_counter()
            theirs += [by_math_verify(*pair) for pair in block]
            seconds["ours"].append(between - begun)
            seconds["theirs"].append(time.perf_counter() - between)
    lines, wrong = [], Counter[str]()
    for pair, reason, says in zip(pairs, ours, theirs, strict=True):
        if (reason == "correct") != says:
            what = "equal" if truth[pair] else "not equal"
            wrong["theirs" if (reason == "correct") == truth[pair] else "ours"] += 1
            lines.append(f"ours {reason}, theirs {says}, by construction {what}: {pair}")
    ratio = Spread.of_ratios(seconds["theirs"], seconds["ours"])
    return {
        "pairs": len(pairs),
        "agreement": round(1 - len(lines) / len(pairs), 4),
        "of those that differ, wrong by construction": dict(wrong),
        "pairs a second": {
            side: round(len(pairs) / sum(each), 1) for side, each in seconds.items()
        },
        "ratio, by blocks": f"{ratio:.1f}",
    }, lines
