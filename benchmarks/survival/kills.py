"""Kills a run again and again, and checks that it ends where an undisturbed one does.

    python -m benchmarks.survival.kills --workdir=runs/kills --cpus=0 --json=runs/kills.json
    python -m benchmarks.survival.kills --workdir=DIR --overrides=... --kills=5

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
import pathlib
import random
import shlex
import signal
import sys
import time

from benchmarks import launching
from benchmarks.survival.kill_times import (
    CLAIMED,
    POLL_SECONDS,
    START,
    TORN,
    Progress,
    in_order,
    kinds_of,
    phase_before,
    plan,
    watch_undisturbed,
)

NO_HIT = ENDED, PAST, ABSENT = (
    "the run ended before",
    "it had come already",
    "it did not come; killed all the same",
)


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
        return f"{phase_before(event, progress.seen)}, before {event}"


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


def main_command(flags):
    return [sys.executable, "-m", "bstar_jax.main", *flags, "--quiet"]


def dying_command(flags, mode, path):
    script = "benchmarks.survival.dying"
    return [sys.executable, "-m", script, mode, str(path), "--", *flags, "--quiet"]


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
    from benchmarks.fidelity import stored  # and with it JAX, which --help need not wait for

    differing, counts = stored.compare(whole, killed)
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
