"""Kills a run again and again, and checks that it ends where an undisturbed one does.

    python benchmarks/kills.py --workdir=runs/kills --cpus=0 --json=runs/kills.json
    python benchmarks/kills.py --workdir=DIR --overrides='--config.loop.iterations=2' --kills=5

One run is left alone and watched. A second one, of the same command and on the same cores, is
killed with SIGKILL and started again

    --kills times      at moments drawn uniformly over the undisturbed run's duration,
    twice              within each phase: sft, calibrate, generate, grade, select, improve, monitor,
    once a kind        between the writing and the renaming of each kind of file that the
                       undisturbed run was seen to rename, and before `partial/` is removed,
    once               with the last line of metrics.jsonl torn, as a kill within a write does,

and then left to end. A moment is kept as what stood in the run directory by then and the time
since, so that it means the same to a run that has been killed before; it comes early where the
resumed run gets to the next file sooner. Compared at the end: the bytes of balance.json, the
rows of all Parquet files, the arrays of all checkpoints, the last metrics row of every
(iteration, phase, step) without wall times, and that nothing is left over in iterations/.
Exit code 1 if anything differs. Takes the run's duration twice and some twenty seconds a kill:
about half an hour for the default run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import random
import re
import shlex
import signal
import sys
import time
from collections import defaultdict

import launching

PHASES = ("sft", "calibrate", "generate", "grade", "select", "improve", "monitor")
POLL_SECONDS = 0.002
START, CLAIMED = "start", "run directory claimed"
TORN = "torn line"
NO_HIT = ENDED, PAST, ABSENT = (
    "the run ended before",
    "it had come already",
    "it did not come; killed all the same",
)


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


class Victim:
    """The run that is killed."""

    def __init__(self, run, flags, cpus, timeline, timeout):
        self.run, self.flags, self.cpus, self.timeout = run, flags, cpus, timeout
        self.timeline = timeline
        self.place = {event: place for place, (_, event) in enumerate(timeline)}
        self.log = f"{run}.log"

    def position(self, progress):
        """How far along the undisturbed run's events this one is."""
        return max((self.place.get(event, 0) for event in progress.seen), default=0)

    def is_past(self, kill):
        """Whether the file or row that a kill waits for has come already."""
        progress = Progress(self.run)
        progress.look()
        if kill.kind == TORN:
            return kill.after in progress.seen
        if not kill.path or kill.path == "config.json":  # which every start writes
            return False
        stands = kill.kind.startswith("rename") and (self.run / kill.path).exists()
        return stands or self.timeline[self.position(progress)][0] > kill.seconds

    def strike(self, kill):
        """Starts the run and kills it at that moment.

        Returns:
            {"hit": the phase under way, or "ended" where the run ended first, "alive_seconds"}.
        """
        began = time.monotonic()
        if kill.path:
            command = dying_command(self.flags, "--die-at", self.run / kill.path)
        else:
            command = main_command(self.flags)
        trigger, progress = Trigger(self, kill, began), Progress(self.run)
        process, is_ours = launching.start(launching.pinned(command, self.cpus), self.log), False
        while process.poll() is None:
            progress.look()
            if trigger.is_due(progress):
                process.kill()
                is_ours = True
                break
            if time.monotonic() - began > self.timeout:
                process.kill()
                raise SystemExit(f"no moment for {kill} in {self.timeout:.0f} s, see {self.log}")
            time.sleep(POLL_SECONDS)
        code = process.wait()
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"the run ended with exit code {code} by itself, see {self.log}")
        progress.look()
        hit = self.phase(progress) if code else ENDED
        if (is_ours and kill.path) or (kill.kind == TORN and code and not self.tear(kill)):
            hit = ABSENT
        return {"hit": hit, "alive_seconds": time.monotonic() - began}

    def tear(self, kill):
        """Cuts the last line of metrics.jsonl in half, if it is the one that the kill follows."""
        file = self.run / "metrics.jsonl"
        *before, last = file.read_bytes().splitlines(keepends=True)
        row = json.loads(last)
        if kill.after != f"row {row['iteration']} {row['phase']}":
            return False
        file.write_bytes(b"".join(before) + last[: len(last) // 2])
        return True

    def phase(self, progress):
        """The phase under way, and the next event of the undisturbed run."""
        following = self.timeline[self.position(progress) + 1 :]
        event = following[0][1] if following else "the end"
        return f"{_phase_before(event, progress.seen)}, before {event}"


def _phase_before(event, seen):
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


class Trigger:
    """Decides when a kill's moment has come."""

    def __init__(self, victim, kill, began):
        self.victim, self.kill, self.began = victim, kill, began
        self.wanted = victim.place.get(kill.after, 0)
        self.due = None
        self.stop_at = None  # position at which to kill however little time has passed
        if kill.path:
            before = [place for place, (at, _) in enumerate(victim.timeline) if at <= kill.seconds]
            self.stop_at = before[-1] + 4  # the process was to kill itself before: too late
        elif kill.after == START:
            self.due = began + kill.delay

    def is_due(self, progress):
        position, now = self.victim.position(progress), time.monotonic()
        if self.due is None and not self.kill.path:
            self._arm(progress, position, now)
        too_far = self.stop_at is not None and position >= self.stop_at
        return too_far or (self.due is not None and now >= self.due)

    def _arm(self, progress, position, now):
        """Fixes the moment once what it follows stands and this process has gone on from it."""
        if position < self.wanted or CLAIMED not in progress.seen:
            return
        self.due = now + self.kill.delay
        if position == self.wanted:
            self.stop_at = self.wanted + 1


def kill_all(victim, kills, kinds):
    """Kills the run at every moment in turn; where a file has come already, at the next like it."""
    waiting, results = list(kills), []
    while waiting:
        kill = waiting.pop(0)
        if victim.is_past(kill):
            later = [other for other in kinds[kill.kind] if not victim.is_past(other)]
            if later:
                waiting = in_order([later[0], *waiting])
                continue
            result = {"hit": PAST, "alive_seconds": 0.0}
        else:
            result = victim.strike(kill)
        results.append({**dataclasses.asdict(kill), **result})
        print(
            f"{len(results):3} of {len(kills)} at {kill.seconds:7.2f} s  {kill.kind:48} "
            f"alive {result['alive_seconds']:6.1f} s  {result['hit']}",
            flush=True,
        )
    return results


def _identity(file):
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_mtime_ns


def main_command(flags):
    return [sys.executable, "-m", "bstar_jax.main", *flags, "--quiet"]


def dying_command(flags, mode, path):
    script = pathlib.Path(__file__).with_name("dying.py")
    return [sys.executable, str(script), mode, str(path), "--", *flags, "--quiet"]


def compare(left, right):
    """What two finished runs differ in, and how much was compared."""
    import stored  # imports JAX, which takes a second that --help need not wait for

    differing, counts = [], defaultdict(int)
    mine, other = stored.files(left), stored.files(right)
    differing += [f"only in one run: {name}" for name in sorted(mine.keys() ^ other.keys())]
    for name in sorted(mine.keys() & other.keys()):
        if name.endswith(".parquet"):
            ours, theirs = stored.rows(mine[name]), stored.rows(other[name])
            counts["parquet rows"] += ours.num_rows
            if not ours.equals(theirs):
                columns = [c for c in ours.column_names if not ours[c].equals(theirs[c])]
                differing.append(f"{name}: columns {columns}")
        elif mine[name].is_file():
            counts[f"{pathlib.Path(name).name} bytes"] += mine[name].stat().st_size
            if mine[name].read_bytes() != other[name].read_bytes():
                differing.append(f"{name}: bytes")
    mine, other = stored.checkpoints(left), stored.checkpoints(right)
    differing += [f"only in one run: {name}" for name in sorted(mine.keys() ^ other.keys())]
    for name in sorted(mine.keys() & other.keys()):
        ours, theirs = stored.arrays(mine[name]), stored.arrays(other[name])
        counts["checkpoint arrays"] += len(ours)
        for path in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(path), theirs.get(path)
            if a is None or b is None or (a.dtype, a.tobytes()) != (b.dtype, b.tobytes()):
                differing.append(f"{name}{path}: values")
    rows = [untimed(run) for run in (left, right)]
    counts["metrics rows"] = len(rows[0])
    for key in sorted(rows[0].keys() | rows[1].keys(), key=str):
        if rows[0].get(key) != rows[1].get(key):
            differing.append(f"metrics row {key}: {rows[0].get(key)} | {rows[1].get(key)}")
    return differing, dict(counts)


def untimed(run):
    """Metrics rows without wall times and rates.

    A checkpoint that falls due by the clock writes a row of its own; those are left out.
    """
    rows = launching.metrics_rows(run)
    config = launching.read_config(run)
    every = config["log"]["every"]
    lasts = {"sft": config["sft"]["steps"], "improve": config["improve"]["steps"]}
    return {
        key: {name: value for name, value in row.items() if name not in launching.TIMINGS}
        for key, row in rows.items()
        if key[2] is None or key[2] % every == 0 or key[2] == lasts[key[1]]
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/arithmetic.py")
    parser.add_argument("--overrides", default="", help="further flags of main, in one string")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="holds both runs")
    parser.add_argument("--kills", type=int, default=20, help="moments drawn over the whole run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--cpus", default="", help="cores of both runs, such as 0 or 0-1")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.workdir.exists() and any(arguments.workdir.iterdir()):
        parser.error(f"{arguments.workdir} is not empty: kills starts from nothing")
    return arguments


def main():
    arguments = parse()
    workdir = arguments.workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    whole, killed = workdir / "undisturbed", workdir / "killed"
    source = launching.source_digest()

    def flags(run):
        given = shlex.split(arguments.overrides)
        return [f"--config={arguments.config}", f"--workdir={run}", *given]

    record = workdir / "renames.txt"
    record.touch()
    command = launching.pinned(dying_command(flags(whole), "--record", record), arguments.cpus)
    timeline, renames, duration = watch_undisturbed(command, record, whole, f"{whole}.log")
    kinds = kinds_of(renames, timeline)
    print(f"undisturbed run: {duration:.1f} s, {len(timeline)} events, {len(kinds)} kinds of file")
    kills = plan(timeline, kinds, duration, arguments.kills, random.Random(arguments.seed))
    victim = Victim(killed, flags(killed), arguments.cpus, timeline, 3 * duration + 300)
    results = kill_all(victim, kills, kinds)
    launching.run_to_end(launching.pinned(main_command(flags(killed)), arguments.cpus), victim.log)
    if launching.source_digest() != source:
        raise SystemExit("the source changed meanwhile: these runs are not of one program")
    differing, counts = compare(whole, killed)
    missed = [f"{one['kind']} at {one['seconds']:.2f}" for one in results if one["hit"] in NO_HIT]
    killed_times = len(results) - len(missed)
    print(f"killed {killed_times} times, moments that did not come: {missed}; compared {counts}")
    print("\n".join(f"DIFFERS: {line}" for line in differing) or "the two runs are alike")
    if arguments.json:
        launching.write_json(
            arguments.json,
            {
                "undisturbed_seconds": duration,
                "kills": results,
                "killed": killed_times,
                "missed": missed,
                "compared": counts,
                "differing": differing,
            },
        )
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
