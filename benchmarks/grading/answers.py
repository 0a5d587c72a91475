"""Measures how well, and how fast, answers in mathematics and choices are graded.

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
import pathlib

from benchmarks import figures
from benchmarks.grading import agreement, hostile, labels, references

PARTS = {
    "references": references.measure,
    "speed": agreement.measure,
    "hostile": hostile.measure,
    "choices": labels.measure,
}


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the data sets")
    parser.add_argument("--listing", type=pathlib.Path, help="write the disagreements to this file")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="of rewritings and hostile answers")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the grader")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of the first try")
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs of the part speed")
    parser.add_argument("--blocks", type=int, default=10, help="alternating repeats of speed")
    parser.add_argument("--hostile", type=int, default=2000, help="answers of the part hostile")
    parser.add_argument(
        "--hostile-limit", type=float, default=1.0, help="seconds of the first try in hostile"
    )
    return parser.parse_args()


def main() -> None:
    """Runs the parts that are asked for; prints and writes their figures."""
    arguments = parse()
    found, listing = {}, []
    for name in arguments.parts:
        found[name], lines = PARTS[name](arguments)
        listing += [f"== {name}", *lines]
        print(name, json.dumps(found[name], indent=1), flush=True)
    figures.write(arguments.json, found)
    if arguments.listing:
        text = "\n".join(listing) + "\n"
        arguments.listing.write_text(text, encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    main()
