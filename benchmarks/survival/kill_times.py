"""Moments to kill a run at, drawn from watching an undisturbed one; used by kills."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import time
from collections import defaultdict

from benchmarks import launching

PHASES = ("sft", "calibrate", "generate", "grade", "select", "improve", "monitor")
POLL_SECONDS = 0.002
START, CLAIMED = "start", "run directory claimed"
TORN = "torn line"


@dataclasses.dataclass(frozen=True)
class Kill:
    """A moment to kill at.

    Attributes:
        kind: "uniform", "phase <name>", "rename <kind of file>", "remove ..." or "torn line".
        seconds: When that moment was in the undisturbed run, since its start.
        after: Event of the undisturbed run that the moment follows; "" for a rename.
        delay: Seconds from that event to the moment.
        path: What must not be renamed onto, or removed, relative to the run; "" for the others.
    """

    kind: str
    seconds: float
    after: str = ""
    delay: float = 0.0
    path: str = ""


class Progress:
    """What stands in a run directory by now, as a set of events that only grows."""

    def __init__(self, run):
        self.run = pathlib.Path(run)
        self.seen = {}  # event -> monotonic time
        self.offset = 0
        self.before = _identity(self.run / "config.json")  # every start writes it anew

    def look(self):
        """Notes what is new, with the time."""
        now = time.monotonic()
        if _identity(self.run / "config.json") != self.before:
            self.seen.setdefault(CLAIMED, now)
        for event in (*self._rows(), *self._files()):
            self.seen.setdefault(event, now)

    def _files(self):
        for folder in ("checkpoints/params", *self._iterations()):
            for name in _listing(self.run / folder):
                if name == "partial":
                    for unit in _listing(self.run / folder / name):
                        if unit.endswith(".parquet"):
                            yield f"{folder}/partial/{unit}"
                elif name.isdecimal() or name.endswith((".parquet", ".json")):
                    yield f"{folder}/{name}"

    def _iterations(self):
        return [f"iterations/{name}" for name in _listing(self.run / "iterations")]

    def _rows(self):
        try:
            with open(self.run / "metrics.jsonl", "rb") as file:
                file.seek(self.offset)
                new = file.read()
        except FileNotFoundError:
            return
        new = new[: new.rfind(b"\n") + 1]
        self.offset += len(new)
        for line in new.splitlines():
            found = re.search(rb'"iteration": (\d+), "phase": "(\w+)"', line)
            if found and found[2] not in (b"sft", b"improve"):  # they come again after a kill
                yield f"row {int(found[1])} {found[2].decode()}"


def _listing(folder):
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def watch_undisturbed(command, record, run, log):
    """Runs to the end.

    Returns:
        [(seconds, event)] and [(seconds, "rename" or "remove", path)] in order, the duration.
    """
    started = time.monotonic()
    process = launching.start(command, log)
    progress = Progress(run)
    while process.poll() is None:
        progress.look()
        time.sleep(POLL_SECONDS)
    duration = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"the undisturbed run ended with {process.returncode}, see {log}")
    progress.look()
    timeline = sorted((at - started, event) for event, at in progress.seen.items())
    renames = []
    for line in record.read_text().splitlines():
        at, what, path = line.split(" ", 2)
        if path.startswith(f"{run}/"):
            word = "rename" if what == "os.rename" else "remove"
            renames.append((float(at) - started, word, path.removeprefix(f"{run}/")))
    return [(0.0, START), *timeline], renames, duration


def moment(kind, seconds, timeline):
    """A kill at a time of the undisturbed run."""
    at, event = [entry for entry in timeline if entry[0] <= seconds][-1]
    return Kill(kind, seconds, after=event, delay=seconds - at)


def phase_spans(timeline):
    """{phase: [(begin, end)]} in seconds."""
    times = {event: at for at, event in timeline}
    spans = defaultdict(list)
    begin = times[CLAIMED]
    for iteration in range(sum(event.endswith(" monitor") for event in times)):
        sampled = f"iterations/{iteration:04d}/partial/monitor-"
        trained = [times[event] for event in times if event.startswith(sampled)]
        trained.append(times[f"checkpoints/params/{iteration}"])
        for phase in PHASES[1:] if iteration else ("sft", "monitor"):
            is_training = phase in ("sft", "improve")
            end = min(trained) if is_training else times[f"row {iteration} {phase}"]
            spans[phase].append((begin, end))
            begin = end
    return spans


def kinds_of(renames, timeline):
    """{kind: [kills]}, one for every rename, removal and row of the undisturbed run.

    Numbers do not make a kind, so that all units of a phase are one.
    """
    kinds = defaultdict(list)
    for seconds, word, path in renames:
        if not path.startswith(("cache/", "tensorboard/")):
            kind = f"{word} " + re.sub(r"\d+", "N", path)
            kinds[kind].append(Kill(kind, seconds, path=path))
    for seconds, event in timeline:
        if event.endswith((" calibrate", " select", " monitor")):  # work follows, not a row
            kinds[TORN].append(Kill(TORN, seconds, after=event))
    return kinds


def plan(timeline, kinds, duration, kills, rng):
    """All kills, in the order of time."""
    planned = [moment("uniform", rng.uniform(0, duration), timeline) for _ in range(kills)]
    for phase, spans in phase_spans(timeline).items():
        for begin, end in rng.sample(spans, 2) if len(spans) > 1 else 2 * spans:
            planned.append(moment(f"phase {phase}", rng.uniform(begin, end), timeline))
    for likes in kinds.values():
        planned.append(rng.choice(likes[:-1] or likes))  # should it not come, there is a next
    return in_order(planned)


def in_order(kills):
    """By time; the tokenizer, which the first start alone writes, before all."""
    return sorted(kills, key=lambda kill: (kill.path != "tokenizer", kill.seconds))


def phase_before(event, seen):
    """The phase that ends in an event; what precedes it decides between training and monitor."""
    if event in (CLAIMED, "the end"):
        return "start" if event == CLAIMED else "monitor"
    if event.startswith("row "):
        _, iteration, phase = event.split()
    elif event.startswith("checkpoints/"):
        iteration, phase = event.rpartition("/")[2], "monitor"
    else:
        _, iteration, *_, name = event.split("/")
        phase = re.match("[a-z]+", name)[0]
        if "partial" not in event:
            phase = {"balance": "calibrate", "generate": "select"}.get(phase, phase)
    if phase == "monitor":
        number = int(iteration)
        marks = (f"iterations/{number:04d}/partial/monitor-", f"checkpoints/params/{number}")
        if not any(one.startswith(marks) for one in seen):
            return "improve" if number else "sft"
    return phase


def _identity(file):
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns
