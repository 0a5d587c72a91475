"""The part `choices`: does every label come back from every phrasing, and no near miss?"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from benchmarks.grading import phrasings
from benchmarks.grading.references import records
from bstar_jax.answers import choices


def measure(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Labels read right and near misses not read; the listing has the others."""
    rows = records(arguments.data, "arc_challenge_train.jsonl")
    lines, right, rejected = [], Counter[tuple[str, bool]](), Counter[bool]()
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
