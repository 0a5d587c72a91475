"""How well, and how fast, mathematics and choices are graded.

    python -m benchmarks.grading.answers --data=FOLDER --json=grading.json --listing=grading.txt

FOLDER has the published `gsm8k_train.jsonl`, `math500_part.jsonl` (lines with an `answer`) and
`arc_challenge_train.jsonl`; each may be left out. Parts:

  references  every reference answer against itself, five rewritings that keep its value and five
              near misses that do not, as responses to the data set's own task
  speed       agreement and speed beside math-verify as it comes, on one mixture of such pairs
  hostile     answers made to hang, crash or bloat a grader, as responses to three tasks
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
import tempfile
import time
from collections import Counter

from benchmarks.grading import hostile_answers as hostile
from benchmarks.grading import phrasings, rewritings
from bstar_jax import grading, tasks
from bstar_jax.answers import choices
from bstar_jax.answers.mathematics import verifier as mathematics
from bstar_jax.config import RewardsConfig, TaskConfig
from bstar_jax.records import SPLITS, Query, Response
from bstar_jax.tasks.loading import FORMATS

MARKER = "# Answer"
TASK_OF = {"gsm8k": "gsm8k", "math500": "math"}
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


def response(text):
    """A response in mathematics that states the answer so."""
    return text if "boxed" in text else f"{MARKER}\n\n{text}"


def cases(data_set, answers, seed):
    """(kind, text, reference, whether they are equal) of the references of one data set.

    Answers to GSM8K are compared as numbers: a text that only algebra makes one is none of theirs.
    """
    kept = rewritings.REWRITINGS
    if data_set == "gsm8k":
        kept = [[each for each in group if each not in rewritings.BY_ALGEBRA] for group in kept]
    found = []
    for number, reference in enumerate(answers):
        draw = random.Random(f"{seed}/{number}")
        found.append(("itself", reference, reference, True))
        for groups, equal in ((kept, True), (rewritings.NEAR_MISSES, False)):
            for name, text in rewritings.several(reference, groups, 5, draw):
                found.append((name, text, reference, equal))
    return found


def graded_as_responses(data_set, rows, args):
    """The grades of texts as responses to the task of a data set, read from a file as any are."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "responses.jsonl")
        with open(file, "w", encoding="utf-8") as lines:
            for _, text, reference, _ in rows:
                if data_set == "gsm8k":
                    line = {"question": "?", "answer": f"#### {reference}"}
                    line["response"] = f"so\n#### {text}"
                else:
                    line = {"problem": "?", "answer": reference, "response": response(text)}
                lines.write(json.dumps(line) + "\n")
        task, responses, _ = tasks.load_responses(file, TaskConfig(name=TASK_OF[data_set]))
    settings = RewardsConfig(workers=args.workers, seconds=args.limit)
    with grading.open_grader(
        task.query_by_id.values(), task.sources, settings, task.places
    ) as grader:
        return grader.grade(responses)


def measure_references(args):
    """Shares of rewritings accepted and of near misses rejected, by data set."""
    figures, lines = {}, []
    for data_set, answers in references(args.data).items():
        rows = cases(data_set, answers, args.seed)
        grades = graded_as_responses(data_set, rows, args)
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
            "decided without algebra": _share(
                mathematics.quick(mathematics.read(response(text), MARKER) or "", reference)
                for _, text, reference, _ in rows
            ),
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
    rows, draw = {}, random.Random(args.seed)
    for data_set in ("math500", "gsm8k"):
        extra = cases(data_set, found[data_set], args.seed)
        draw.shuffle(extra)
        for _, text, reference, equal in extra:
            answer = mathematics.read(response(text), MARKER)
            if len(rows) < args.pairs and answer is not None:
                rows.setdefault((answer, reference), equal)
    pairs = list(rows)
    draw.shuffle(pairs)
    ours, theirs, seconds = [], [], {"ours": [], "theirs": []}
    plain(*pairs[0])
    size = -(-len(pairs) // args.blocks)
    with mathematics.MathVerifier(args.workers, args.limit) as verifier:
        verifier.verify([(f"x+{i}", f"{i}+x") for i in range(32)])
        for start in range(0, len(pairs), size):
            block = pairs[start : start + size]
            begun = time.perf_counter()
            ours += [grade.reason for grade in verifier.verify(block)]
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

    An answer has the limit at the first try and twice of it at the second, so three limits. Tasks
    whose answers need no worker are graded one response at a time, each with the clock at hand.
    """
    rows = hostile.pairs(args.hostile, random.Random(args.seed))
    allowed = 3 * args.hostile_limit
    figures, lines = {"answers": len(rows), "allowed seconds": allowed}, []
    for name, marker in (("math", MARKER), ("gsm8k", "####"), ("arc", "Final answer:")):
        task, queries = _task_of(name, [reference for *_, reference in rows])
        texts = [f"{marker}\n\n{answer}" for _, answer, _ in rows]
        responses = list(map(Response, queries, texts))
        settings = RewardsConfig(workers=args.workers, seconds=args.hostile_limit)
        begun = time.perf_counter()
        with grading.open_grader(
            task.query_by_id.values(), task.sources, settings, task.places
        ) as grader:
            if name == "math":
                grades = grader.grade(responses)
                seconds = [grade.seconds for grade in grades]
                plain = [Response(query, f"{marker}\n\n{query.reference}") for query in queries]
                after = grader.grade(plain[:100])
                figures["correct afterwards"] = sum(grade.correct for grade in after)
            else:
                grades, seconds = [], []
                for one in responses:
                    start = time.perf_counter()
                    grades += grader.grade([one])
                    seconds.append(time.perf_counter() - start)
        reasons = Counter(grade.reason for grade in grades)
        figures[name] = {
            "reasons": dict(sorted(reasons.items())),
            "longest seconds": round(max(seconds), 3),
            "beyond allowed + 1 s": sum(each > allowed + 1 for each in seconds),
            "wall seconds": round(time.perf_counter() - begun, 1),
        }
        lines += [
            f"{name} {grade.reason} {taken:.2f} s {kind}: {answer[:200]!r} beside {reference!r}"
            for (kind, answer, reference), grade, taken in zip(rows, grades, seconds, strict=True)
            if grade.reason in ("correct", "error") or taken > allowed
        ]
    return figures | _workers_afterwards(rows, args), lines


def _task_of(name, references):
    """A task with a query for each reference, numbers and options where the task has such."""
    fields = {"question": "?"}
    if name == "gsm8k":
        references = ["7"] * len(references)
    if name == "arc":
        references = ["A"] * len(references)
        fields |= {"labels": ["A", "B"], "options": ["7", "the moon"]}
    queries = [
        Query(f"q{place}", "train", "?", reference, fields=fields, source=name)
        for place, reference in enumerate(references)
    ]
    splits = {split: tuple(queries) if split == "train" else () for split in SPLITS}
    return FORMATS[name].task(splits), queries


def _workers_afterwards(rows, args):
    """Whether workers that met hostile answers are there afterwards, and still right."""
    with mathematics.MathVerifier(args.workers, args.hostile_limit) as verifier:
        verifier.verify([(answer, reference) for _, answer, reference in rows[:200]])
        after = verifier.verify([(f"x+{i}", f"{i}+x") for i in range(100)])
        return {
            "by algebra right afterwards": sum(grade.reason == "correct" for grade in after),
            "workers afterwards": f"{verifier.workers_alive} of {args.workers}",
        }


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
