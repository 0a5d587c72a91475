"""Watches a run directory from outside: which files and rows are there, and since when."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence

from benchmarks import launching

POLL_SECONDS = 0.002
START, CLAIMED = "start", "run directory claimed"
Timeline = list[tuple[float, str]]  # (seconds since the start, event), in order


class Watch:
    """What is in a run directory by now, as a set of events that only grows.

    Attributes:
      seen: Every event so far, with its time on the monotonic clock.
    """

    def __init__(self, run: pathlib.Path):
        """Looks for the first time."""
        self.run = run
        self.seen: dict[str, float] = {}
        self._offset = 0
        self._config = _identity(run / "config.json")  # every start writes it anew

    def look(self) -> None:
        """Notes what is new, with the time."""
        now = time.monotonic()
        if _identity(self.run / "config.json") != self._config:
            self.seen.setdefault(CLAIMED, now)
        for event in (*self._rows(), *self._files()):
            self.seen.setdefault(event, now)

    def timeline(self, began: float) -> Timeline:
        """Every event by the seconds since `began`, the start before all."""
        return [(0.0, START), *sorted((at - began, event) for event, at in self.seen.items())]

    def _files(self) -> Iterator[str]:
        iterations = [f"iterations/{name}" for name in _listing(self.run / "iterations")]
        for folder in ("checkpoints/params", *iterations):
            for name in _listing(self.run / folder):
                if name == "partial":
                    for unit in _listing(self.run / folder / name):
                        if unit.endswith(".parquet"):
                            yield f"{folder}/partial/{unit}"
                elif name.isdecimal() or name.endswith((".parquet", ".json")):
                    yield f"{folder}/{name}"

    def _rows(self) -> Iterator[str]:
        try:
            with open(self.run / "metrics.jsonl", "rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        new = new[: new.rfind(b"\n") + 1]
        self._offset += len(new)
        for line in new.splitlines():
            found = re.search(rb'"iteration": (\d+), "phase": "(\w+)"', line)
            if found and found[2] not in (b"sft", b"improve"):  # they come again after a kill
                yield f"row {int(found[1])} {found[2].decode()}"


def watch_to_end(processes: Sequence[subprocess.Popen[bytes]], watch: Watch) -> None:
    """Looks again and again until all processes have ended, and once more."""
    while any(process.poll() is None for process in processes):
        watch.look()
        time.sleep(POLL_SECONDS)
    watch.look()


def watch_undisturbed(
    command: Sequence[str], record: pathlib.Path, run: pathlib.Path, log: pathlib.Path
) -> tuple[Timeline, list[tuple[float, str, str]], float]:
    """Runs to the end, watching.

    Args:
      command: Command of the run, by `dying --record`.
      record: The file that `dying` writes.
      run: The run directory.
      log: File for the output.

    Returns:
      The timeline, then (seconds, "rename" or "remove", path) of every file, then the duration.

    Raises:
      SystemExit: If the run fails.
    """
    began, watch = time.monotonic(), Watch(run)
    process = launching.start(command, log)
    watch_to_end([process], watch)
    duration = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"the undisturbed run ended with {process.returncode}, see {log}")
    renames = []
    for line in record.read_text().splitlines():
        at, what, path = line.split(" ", 2)
        if path.startswith(f"{run}/"):
            verb = "rename" if what == "os.rename" else "remove"
            renames.append((float(at) - began, verb, path.removeprefix(f"{run}/")))
    return watch.timeline(began), renames, duration


def phase_before(event: str, seen: dict[str, float]) -> str:
    """The phase that ends in an event; what came before decides between training and monitor."""
    if event in (CLAIMED, "the end"):
        return "start" if event == CLAIMED else "monitor"
    if event.startswith("row "):
        _, iteration, phase = event.split()
    elif event.startswith("checkpoints/"):
        iteration, phase = event.rpartition("/")[2], "monitor"
    else:
        _, iteration, *_, name = event.split("/")
        phase = re.split("[^a-z]", name)[0]
        if "partial" not in event:
            phase = {"balance": "calibrate", "generate": "select"}.get(phase, phase)
    if phase == "monitor":
        number = int(iteration)
        marks = (f"iterations/{number:04d}/partial/monitor-", f"checkpoints/params/{number}")
        if not any(one.startswith(marks) for one in seen):
            return "improve" if number else "sft"
    return phase


def _listing(folder: pathlib.Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _identity(file: pathlib.Path) -> tuple[int, ...]:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns
