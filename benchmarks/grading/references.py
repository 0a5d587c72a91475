"""The part `references`: reference answers, rewritten and nearly right, as responses to their task.

Answers to GSM8K are compared as numbers, so a text that is a number only by algebra is none of
theirs.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.grading import near_misses, rewritings
from bstar_jax import grading, tasks
from bstar_jax.answers.mathematics import verifier as mathematics
from bstar_jax.config import RewardsConfig, TaskConfig

MARKER = "# Answer"
TASKS = {"gsm8k": "gsm8k", "math500": "math"}  # by data set
GROUPS = {"itself": "accepted", "rewritings": "accepted", "near misses": "rejected"}


class Case(NamedTuple):
    """An answer beside a reference.

    Attributes:
      kind: What made it: "itself", or the name of a rewriting or near miss.
      answer: The answer.
      reference: The reference.
      equal: Whether the two are equal, by construction.
    """

    kind: str
    answer: str
    reference: str
    equal: bool

    @property
    def group(self) -> str:
        """One of `GROUPS`."""
        if self.kind == "itself":
            return "itself"
        return "rewritings" if self.equal else "near misses"


def records(data: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """The records of a file; none where it is not there."""
    path = data / name
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def references(data: pathlib.Path) -> dict[str, list[str]]:
    """Reference answers by data set."""
    gsm8k = [row["answer"].split("####")[1].strip() for row in records(data, "gsm8k_train.jsonl")]
    math = [row["answer"] for row in records(data, "math500_part.jsonl")]
    return {"gsm8k": gsm8k, "math500": math}


def response(text: str) -> str:
    """A response in mathematics that states the answer so."""
    return text if "boxed" in text else f"{MARKER}\n\n{text}"


def cases(data_set: str, answers: Sequence[str], seed: int) -> list[Case]:
    """The references of one data set beside themselves, rewritings and near misses."""
    kept = rewritings.REWRITINGS
    if data_set == "gsm8k":
        kept = tuple(
            [each for each in group if each not in rewritings.BY_ALGEBRA] for group in kept
        )
    found = []
    for number, reference in enumerate(answers):
        draw = random.Random(f"{seed}/{number}")
        found.append(Case("itself", reference, reference, True))
        for groups, equal in ((kept, True), (near_misses.NEAR_MISSES, False)):
            for name, text in rewritings.several(reference, groups, 5, draw):
                found.append(Case(name, text, reference, equal))
    return found


def grade_as_responses(
    data_set: str, rows: Sequence[Case], workers: int, seconds: float
) -> Sequence[grading.GradedResponse]:
    """The grades of answers as responses to the task of a data set, read from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "responses.jsonl")
        with open(file, "w", encoding="utf-8") as lines:
            for row in rows:
                lines.write(json.dumps(_record(data_set, row)) + "\n")
        task, responses, _ = tasks.load_responses(file, TaskConfig(name=TASKS[data_set]))
    settings = RewardsConfig(workers=workers, seconds=seconds)
    queries, sources = task.query_by_id.values(), task.sources
    with grading.open_grader(queries, sources, settings, task.places) as grader:
        return grader.grade(responses)


def _record(data_set: str, row: Case) -> dict[str, str]:
    if data_set == "gsm8k":
        reference = f"#### {row.reference}"
        return {"question": "?", "answer": reference, "response": f"so\n#### {row.answer}"}
    return {"problem": "?", "answer": row.reference, "response": response(row.answer)}


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Rewritings accepted and near misses rejected, by data set; the listing names the others."""
    found, lines = {}, []
    for data_set, answers in references(arguments.data).items():
        rows = cases(data_set, answers, arguments.seed)
        grades = grade_as_responses(data_set, rows, arguments.workers, arguments.limit)
        counts, right, reasons = Counter[str](), Counter[str](), Counter[str]()
        for row, grade in zip(rows, grades, strict=True):
            is_right = (grade.reason == "correct") == row.equal
            counts[row.group] += 1
            right[row.group] += is_right
            reasons[f"{row.group}: {grade.reason}"] += 1
            if not is_right or grade.reason in ("timeout", "error"):
                says = f"{row.answer!r} beside {row.reference!r}"
                lines.append(f"{data_set} {grade.reason} {row.kind}: {says}")
        found[data_set] = {
            "references": len(answers),
            "decided without algebra": _quick_share(rows),
            **{
                f"{group}, {verb}": f"{right[group]} of {counts[group]}"
                for group, verb in GROUPS.items()
            },
            "reasons": dict(sorted(reasons.items())),
        }
    return found, lines


def _quick_share(rows: Sequence[Case]) -> float:
    decided = [
        mathematics.quick(mathematics.read(response(row.answer), MARKER) or "", row.reference)
        is not None
        for row in rows
    ]
    return round(sum(decided) / max(len(decided), 1), 4)
