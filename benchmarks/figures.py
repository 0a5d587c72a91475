"""The one way to write figures: JSON files, Markdown tables, and the flags that ask for them.

A figure compares with another one only where both say what made them. So every JSON file holds,
beside the figures of its script, their origin:

    {..., "origin": {"command": [...], "commit": "1a2b3c4", "date": "2025-01-31", "machine": {...}}}

Only the standard library is imported here: programs of other frameworks load this file too.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORIGIN = "origin"


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a script, whose `__doc__` is its help."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def flags(doc: str | None, *, needs_json: bool = False) -> argparse.ArgumentParser:
    """Returns the parser of a script that writes figures: `parser_of` with `--json`.

    Args:
      doc: The script's `__doc__`.
      needs_json: Whether the script cannot do without `--json`.
    """
    parser = parser_of(doc)
    parser.add_argument(
        "--json", type=pathlib.Path, metavar="FILE", required=needs_json,
        help="write the figures to this file",
    )  # fmt: skip
    return parser


def write(file: pathlib.Path | None, figures: Mapping[str, Any]) -> None:
    """Writes the figures of a script with their origin; without a file, does nothing."""
    if file is not None:
        write_json(file, {**figures, ORIGIN: origin()})


def read(file: pathlib.Path) -> dict[str, Any]:
    """Reads what `write` wrote, without the origin; {} where there is no such file."""
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures.pop(ORIGIN, None)
    return figures


def write_json(file: pathlib.Path, value: object) -> None:
    """Writes indented JSON atomically: a reader finds the old file or the new one."""
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(file)


def origin() -> dict[str, Any]:
    """Says what made a figure: command, commit, date and machine."""
    return {
        "command": [_script(), *sys.argv[1:]],
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg(),
            "python": platform.python_version(),
        },
    }


def commit() -> str:
    """The commit of the source, "-dirty" where files have changed since; "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _script() -> str:
    """The script under way, as `python -m` names it."""
    file = pathlib.Path(sys.argv[0]).resolve()
    if not file.is_relative_to(ROOT):
        return str(file)
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def _processor() -> str:
    """The processor's name as Linux gives it, or what Python knows of it."""
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    r"""Formats a Markdown table.

    Example: table(["a", "b"], [[1, 2]]) -> "| a | b |\n|---|---|\n| 1 | 2 |".
    """
    lines = [_line(header), "|" + "---|" * len(header), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of repeats, and the smallest and largest of them.

    Formats as "median [smallest, largest]", each number as the format says:
    f"{Spread(2.0, 1.0, 3.0):.1f}" -> "2.0 [1.0, 3.0]".
    """

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of some values, at least one."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))

    @classmethod
    def of_ratios(cls, over: Iterable[float], under: Iterable[float]) -> Spread:
        """The spread of ratios, each taken within a repeat, so that load falls on both sides."""
        return cls.of(a / b for a, b in zip(over, under, strict=True))

    @classmethod
    def from_entries(cls, record: Mapping[str, Any], name: str) -> Spread:
        """The spread that `entries` put into a record."""
        return cls(record[name], *record[f"{name}_spread"])

    def __format__(self, spec: str) -> str:
        median, smallest, largest = (
            format(value, spec) for value in (self.median, self.smallest, self.largest)
        )
        return f"{median} [{smallest}, {largest}]"

    def entries(self, name: str) -> dict[str, float | list[float]]:
        """Two entries of a JSON object: the median as NAME, the range as NAME_spread."""
        return {name: self.median, f"{name}_spread": [self.smallest, self.largest]}


class Notebook:
    """What a long benchmark has measured so far, on disk, so that the same command goes on.

    Attributes:
      record: The measurements; change it, then `save`.
    """

    def __init__(self, file: pathlib.Path | None, empty: dict[str, Any]):
        """Reads the file if it is there.

        Args:
          file: Where the record is kept; None keeps it in memory alone.
          empty: The record to start from where there is no file.
        """
        self._file = file
        self.record = empty
        if file is not None and file.exists():
            self.record = json.loads(file.read_text())

    def save(self) -> None:
        """Writes the record atomically."""
        if self._file is not None:
            write_json(self._file, self.record)
