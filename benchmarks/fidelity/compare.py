"""Compares the results of two revisions, or of one revision run twice, case by case.

    python -m benchmarks.fidelity.compare DIR_A DIR_B
    python -m benchmarks.fidelity.compare DIR_A DIR_B --cases=tiny,prm --json=FILE

DIR_A and DIR_B are outputs of `cases`. Compared are

    balance.json, safetensors, tokenizers and every other file   byte for byte
    Parquet files            schema and every row, all columns, exactly; not the file's `seconds`
    checkpoints              paths, types and bits of every array, optimizer state included
    metrics.jsonl            the last row of every (iteration, phase, step), less times and rates
    config.json              settings in their order, versions and devices; not the git revision
    graded lines, plans      less seconds
    exit codes               of every step, and of the commands that cannot work

Not compared are logs, compiled programs, TensorBoard files, and checkpoint files as files. Where a
text names a folder of its own DIR, that name is left out of the comparison. Prints a line a case:
alike, or how many differences there are, and the first of them. Exit code 3 if something differs.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import figures


def codes(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    """Steps that ended otherwise, and whether as many cores were there."""
    if left["cores"] != right["cores"]:
        yield f"run on {left['cores']} and {right['cores']} cores, so sums may differ by rounding"
    for step in sorted(left["codes"].keys() | right["codes"].keys()):
        if left["codes"].get(step) != right["codes"].get(step):
            yield f"step {step}: exit codes {left['codes'].get(step)} | {right['codes'].get(step)}"


def reworded(left: pathlib.Path, right: pathlib.Path) -> list[str]:
    """Error lines of bad commands that read otherwise: to look at, not a fault."""
    both = [folder / "words.json" for folder in (left, right)]
    if not all(file.exists() for file in both):
        return []
    mine, other = (json.loads(file.read_text()) for file in both)
    return [
        f"{command}\n      {mine[command]}\n      {other[command]}"
        for command in mine.keys() & other.keys()
        if mine[command] != other[command]
    ]


def report(name: str, left: pathlib.Path, right: pathlib.Path, show: int) -> dict[str, Any]:
    """Compares one case and prints its line."""
    records = [folder / "done.json" for folder in (left, right)]
    unfinished = [str(file.parent) for file in records if not file.exists()]
    if unfinished:
        print(f"{name:16} NOT COMPARED: unfinished in {', '.join(unfinished)}", flush=True)
        return {"differences": [], "compared": {}, "unfinished": unfinished}
    from benchmarks.fidelity import results  # and with it JAX, which --help need not wait for

    found, counts = results.compare(left, right)
    found = [*codes(*(json.loads(file.read_text()) for file in records)), *found]
    amounts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    if not found:
        print(f"{name:16} alike: {amounts}", flush=True)
    else:
        print(f"{name:16} DIFFERS in {len(found)}: {found[0]}", flush=True)
        for line in found[1:show]:
            print(f"{'':16} and {line}", flush=True)
    words = reworded(left, right)
    if words:
        print(f"{'':16} {len(words)} error messages read otherwise, which is not counted:")
        print("\n".join(f"    {line}" for line in words[:show]), flush=True)
    return {"differences": found, "compared": counts, "reworded": words}


def main() -> None:
    """Compares what both folders hold; the exit code says whether it is alike."""
    parser = figures.flags(__doc__)
    parser.add_argument("left", type=pathlib.Path, metavar="DIR_A")
    parser.add_argument("right", type=pathlib.Path, metavar="DIR_B")
    parser.add_argument("--cases", default="", help="names, with commas; all that both hold")
    parser.add_argument("--show", type=int, default=5, help="differences shown a case")
    arguments = parser.parse_args()
    left, right = arguments.left.absolute(), arguments.right.absolute()
    stand = [path.parent.name for path in sorted(left.glob("*/done.json"), key=_age)]
    names = arguments.cases.split(",") if arguments.cases else [
        name for name in stand if (right / name).is_dir()
    ]  # fmt: skip
    if not names:
        raise SystemExit(f"{left} and {right} hold no finished case in common")
    reports = {name: report(name, left / name, right / name, arguments.show) for name in names}
    figures.write(arguments.json, reports)
    if any(one["differences"] or one.get("unfinished") for one in reports.values()):
        sys.exit(3)


def _age(file: pathlib.Path) -> float:
    return file.stat().st_mtime


if __name__ == "__main__":
    main()
