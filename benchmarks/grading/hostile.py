"""The part `hostile`: do hostile answers end in time with a reason, and are workers left?

An answer has the limit at the first try and twice the limit at the second, so three limits. Tasks
whose answers need no worker are graded one response at a time, each by the clock here.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.grading import hostile_answers
from benchmarks.grading.references import MARKER
from bstar_jax import grading
from bstar_jax.answers.mathematics.verifier import MathVerifier
from bstar_jax.config import RewardsConfig
from bstar_jax.records import SPLITS, Query, Response
from bstar_jax.tasks import LoadedTask
from bstar_jax.tasks.loading import FORMATS

MARKERS = {"math": MARKER, "gsm8k": "####", "arc": "Final answer:"}  # by task
Answers = Sequence[tuple[str, str, str]]  # (kind, answer, reference)


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What became of the answers, by task; the listing has those correct, slow or in error."""
    answers = hostile_answers.make(arguments.hostile, random.Random(arguments.seed))
    allowed = 3 * arguments.hostile_limit
    found, lines = {"answers": len(answers), "allowed seconds": allowed}, []
    for name in MARKERS:
        begun = time.perf_counter()
        grades, seconds, after = _grade(name, answers, arguments)
        reasons = Counter(grade.reason for grade in grades)
        found[name] = {
            "reasons": dict(sorted(reasons.items())),
            "longest seconds": round(max(seconds), 3),
            "beyond allowed + 1 s": sum(each > allowed + 1 for each in seconds),
            "wall seconds": round(time.perf_counter() - begun, 1),
        }
        if name == "math":
            found["correct afterwards"] = after
        lines += [
            f"{name} {grade.reason} {taken:.2f} s {kind}: {answer[:200]!r} beside {reference!r}"
            for (kind, answer, reference), grade, taken in zip(
                answers, grades, seconds, strict=True
            )
            if grade.reason in ("correct", "error") or taken > allowed
        ]
    return found | _workers_afterwards(answers, arguments), lines


def _grade(
    name: str, answers: Answers, arguments: argparse.Namespace
) -> tuple[list[grading.GradedResponse], list[float], int]:
    """Grades and seconds of the answers; of 100 references how many are right afterwards."""
    task, queries = _task(name, [reference for *_, reference in answers])
    texts = [f"{MARKERS[name]}\n\n{answer}" for _, answer, _ in answers]
    responses = list(map(Response, queries, texts))
    settings = RewardsConfig(workers=arguments.workers, seconds=arguments.hostile_limit)
    grades, seconds = list[grading.GradedResponse](), list[float]()
    with grading.open_grader(queries, task.sources, settings, task.places) as grader:
        if name == "math":
            grades = list(grader.grade(responses))
            plain = [Response(query, f"{MARKER}\n\n{query.reference}") for query in queries[:100]]
            after = sum(bool(grade.correct) for grade in grader.grade(plain))
            return grades, [grade.seconds for grade in grades], after
        for one in responses:
            start = time.perf_counter()
            grades += grader.grade([one])
            seconds.append(time.perf_counter() - start)
    return grades, seconds, 0


def _task(name: str, references: Sequence[str]) -> tuple[LoadedTask, list[Query]]:
    """A task with a query for each reference; numbers and options where the task has such."""
    fields: dict[str, Any] = {"question": "?"}
    if name == "gsm8k":
        references = ["7"] * len(references)
    if name == "arc":
        references = ["A"] * len(references)
        fields |= {"labels": ["A", "B"], "options": ["7", "the moon"]}
    queries = [
        Query(f"q{number}", "train", "?", reference, fields=fields, source=name)
        for number, reference in enumerate(references)
    ]
    splits = {split: tuple(queries) if split == "train" else () for split in SPLITS}
    return FORMATS[name].task(splits), queries


def _workers_afterwards(answers: Answers, arguments: argparse.Namespace) -> dict[str, Any]:
    """Whether workers that met hostile answers are there afterwards, and still right."""
    with MathVerifier(arguments.workers, arguments.hostile_limit) as verifier:
        verifier.verify([(answer, reference) for _, answer, reference in answers[:200]])
        after = verifier.verify([(f"x+{i}", f"{i}+x") for i in range(100)])
        return {
            "by algebra right afterwards": sum(verdict.reason == "correct" for verdict in after),
            "workers afterwards": f"{verifier.workers_alive} of {arguments.workers}",
        }
