"""How well, and how fast, mathematics and choices are graded.

    python benchmarks/grading.py --data=FOLDER --json=grading.json --listing=grading.txt

FOLDER has the published `gsm8k_train.jsonl`, `math500_part.jsonl` (lines with an `answer`) and
`arc_challenge_train.jsonl`; each may be left out. Parts:

  references  every reference answer against itself, five rewritings that keep its value and five
              near misses that do not
  speed       agreement and speed beside math-verify as it comes, on one mixture of such pairs
  hostile     answers made to hang, crash or bloat a grader
  choices     every label of ARC in twelve phrasings

The listing names every disagreement, for reading.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import random
import statistics
import time
from collections import Counter

import hostile
import phrasings
import rewritings

from bstar_jax.rewards import choices, mathematics

MARKER = "# Answer"
PARTS = ("references", "speed", "hostile", "choices")


def main():
    """Runs the parts that are asked for; prints and writes their figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--listing", type=pathlib.Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds, first try")
    parser.add_argument("--pairs", type=int, default=10_000, help="of the part speed")
    parser.add_argument("--blocks", type=int, default=10, help="alternating repeats")
    parser.add_argument("--hostile", type=int, default=2000)
    parser.add_argument("--hostile-limit", type=float, default=1.0)
    args = parser.parse_args()
    figures, listing = {}, []
    for name in args.parts:
        figures[name], lines = globals()[f"measure_{name}"](args)
        listing += [f"== {name}", *lines]
        print(name, json.dumps(figures[name], indent=1), flush=True)
    args.json.write_text(json.dumps(figures, indent=1) + "\n")
    text = "\n".join(listing) + "\n"
    args.listing.write_text(text, encoding="utf-8", errors="backslashreplace")


def records(data, name):
    """The records of a file, none where it is not there."""
    path = data / name
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def references(data):
    """Reference answers by data set."""
    gsm8k = [row["answer"].split("####")[1].strip() for row in records(data, "gsm8k_train.jsonl")]
    math = [row["answer"] for row in records(data, "math500_part.jsonl")]
    return {"gsm8k": gsm8k, "math500": math}


def as_read(text):
    """The answer that a response states which writes it so."""
    return mathematics.read(text if "boxed" in text else f"{MARKER}\n\n{text}", MARKER)


def cases(answers, seed):
    """(kind, answer as read, reference, whether they are equal) of references of one data set."""
    found = []
    for number, reference in enumerate(answers):
        draw = random.Random(f"{seed}/{number}")
        found.append(("itself", as_read(reference), reference, True))
        for groups, equal in ((rewritings.REWRITINGS, True), (rewritings.NEAR_MISSES, False)):
            for name, text in rewritings.several(reference, groups, 5, draw):
                found.append((name, as_read(text), reference, equal))
    return found


def measure_references(args):
    """Shares of rewritings accepted and of near misses rejected, by data set."""
    figures, lines = {}, []
    for data_set, answers in references(args.data).items():
        rows = cases(answers, args.seed)
        with mathematics.Grader(args.workers, args.limit) as grader:
            unreadable = grader.unreadable(answers)
            grades = grader.grade([(answer or "", reference) for _, answer, reference, _ in rows])
        counts, reasons = Counter(), Counter()
        for (kind, answer, reference, equal), grade in zip(rows, grades, strict=True):
            group = "itself" if kind == "itself" else "rewritings" if equal else "near misses"
            right = (grade.reason == "correct") == equal
            counts[group] += 1
            counts[group, "right"] += right
            reasons[f"{group}: {grade.reason}"] += 1
            if not right or grade.reason in ("timeout", "error"):
                lines.append(f"{data_set} {grade.reason} {kind}: {answer!r} beside {reference!r}")
        figures[data_set] = {
            "references": len(answers),
            "unreadable": unreadable,
            "decided without algebra": _share(mathematics.quick(r[1] or "", r[2]) for r in rows),
            **{
                f"{group}, {'accepted' if group != 'near misses' else 'rejected'}": (
                    f"{counts[group, 'right']} of {counts[group]}"
                )
                for group in ("itself", "rewritings", "near misses")
            },
            "reasons": dict(sorted(reasons.items())),
        }
    return figures, lines


def _share(decided):
    decided = [equal is not None for equal in decided]
    return round(sum(decided) / max(len(decided), 1), 4)


def measure_speed(args):
    """Pairs a second beside math-verify in one process with its defaults, and who disagrees.

    The pairs are distinct: all of MATH, and of GSM8K as many as are missing. Both sides work on a
    block in turns; starting workers, and one warm-up of math-verify, are not in the times.
    """
    found = references(args.data)
    rows = {(a, r): e for _, a, r, e in cases(found["math500"], args.seed) if a is not None}
    draw = random.Random(args.seed)
    extra = cases(found["gsm8k"], args.seed)
    draw.shuffle(extra)
    for _, answer, reference, equal in extra:
        if len(rows) < args.pairs:
            rows.setdefault((answer, reference), equal)
    pairs = list(rows)
    draw.shuffle(pairs)
    ours, theirs, seconds = [], [], {"ours": [], "theirs": []}
    plain(*pairs[0])
    size = -(-len(pairs) // args.blocks)
    with mathematics.Grader(args.workers, args.limit) as grader:
        grader.grade([(f"x+{i}", f"{i}+x") for i in range(32)])
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            begun = time.perf_counter()
            ours += [grade.reason for grade in grader.grade(block)]
            between = time.perf_counter()
            theirs += [plain(*pair) for pair in block]
            seconds["ours"].append(between - begun)
            seconds["theirs"].append(time.perf_counter() - between)
    lines, wrong = [], Counter()
    for pair, reason, says in zip(pairs, ours, theirs, strict=True):
        if (reason == "correct") != says:
            truth = "equal" if rows[pair] else "not equal"
            wrong["theirs" if (reason == "correct") == rows[pair] else "ours"] += 1
            lines.append(f"ours {reason}, theirs {says}, by construction {truth}: {pair}")
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "pairs": len(pairs),
        "agreement": round(1 - len(lines) / len(pairs), 4),
        "of those that differ, wrong by construction": dict(wrong),
        "pairs a second": {k: round(len(pairs) / sum(v), 1) for k, v in seconds.items()},
        "ratio, median of blocks": round(statistics.median(ratios), 1),
        "ratio, smallest and largest": [round(min(ratios), 1), round(max(ratios), 1)],
        "load of the machine": os.getloadavg(),
    }, lines


def plain(answer, reference):
    """math-verify as it comes: both texts boxed, parsed and verified, all by its defaults."""
    import math_verify

    logging.disable(logging.WARNING)
    read = [math_verify.parse(rf"\boxed{{{text}}}") for text in (reference, answer)]
    return math_verify.verify(*read)


def measure_hostile(args):
    """Whether hostile answers all end in time with a reason, and workers are left at the end.

    An answer has the limit at the first try and twice of it at the second, so three limits.
    """
    rows = hostile.pairs(args.hostile, random.Random(args.seed))
    allowed = 3 * args.hostile_limit
    with mathematics.Grader(args.workers, args.hostile_limit) as grader:
        begun = time.perf_counter()
        grades = grader.grade([(answer, reference) for _, answer, reference in rows])
        wall = time.perf_counter() - begun
        after = grader.grade([(f"x+{i}", f"{i}+x") for i in range(100)])
        left = grader.workers_alive
    reasons = Counter(grade.reason for grade in grades)
    lines = [
        f"{grade.reason} {grade.seconds:.2f} s {kind}: {answer[:200]!r} beside {reference!r}"
        for (kind, answer, reference), grade in zip(rows, grades, strict=True)
        if grade.reason in ("correct", "error") or grade.seconds > allowed
    ]
    return {
        "answers": len(rows),
        "reasons": dict(sorted(reasons.items())),
        "allowed seconds": allowed,
        "longest seconds": round(max(grade.seconds for grade in grades), 3),
        "beyond allowed + 1 s": sum(grade.seconds > allowed + 1 for grade in grades),
        "correct afterwards": f"{sum(grade.reason == 'correct' for grade in after)} of 100",
        "workers afterwards": f"{left} of {args.workers}",
        "wall seconds": round(wall, 1),
    }, lines


def measure_choices(args):
    """Whether every label comes back from every phrasing, and near misses do not."""
    rows = records(args.data, "arc_challenge_train.jsonl")
    lines, right, rejected = [], Counter(), Counter()
    for row in rows:
        labels, options = row["choices"]["label"], row["choices"]["text"]
        for label, option in zip(labels, options, strict=True):
            for phrase in phrasings.PHRASINGS:
                text = phrase.format(label=label, option=option)
                read = choices.read(text, labels, options)
                right["all labels", read == label] += 1
                if label == row["answerKey"]:
                    right["reference", read == label] += 1
                if read != label:
                    lines.append(f"{row['id']} {label}: {text!r} read as {read}; {options}")
        other = next(label for label in labels if label != row["answerKey"])
        for phrase in phrasings.NEAR_MISSES:
            text = phrase.format(label=row["answerKey"], other=other)
            read = choices.read(text, labels, options)
            rejected[read is None] += 1
            if read is not None:
                lines.append(f"{row['id']}: {text!r} read as {read}")
    asked = len(rows) * len(phrasings.PHRASINGS)
    return {
        "questions": len(rows),
        "reference labels, read right": f"{right['reference', True]} of {asked}",
        "all labels, read right": f"{right['all labels', True]} of {right.total() - asked}",
        "near misses, not read": f"{rejected[True]} of {rejected.total()}",
    }, lines


if __name__ == "__main__":
    main()
