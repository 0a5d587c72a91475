r"""Kills a run again and again, and checks that it ends where an undisturbed one does.

    python -m benchmarks.survival.kills --workdir=runs/kills --cpus=0 --json=runs/kills.json
    python -m benchmarks.survival.kills --workdir=DIR --kills=5 \
        --overrides='--config.loop.iterations=2'

One run is left alone and watched. A second one, of the same command and on the same cores, is
killed with SIGKILL and started again

    --kills times      at times drawn uniformly over the undisturbed run's duration,
    twice              within each phase: sft, calibrate, generate, grade, select, improve, monitor,
    once a kind        between the writing and the renaming of each kind of file that the
                       undisturbed run renamed, and before `partial/` is removed,
    once               with the last line of metrics.jsonl torn, as by a kill within a write,

and then left to end. A kill time is kept as the newest event in the run directory and the seconds
since, so that it means the same to a run that has been killed before; it comes early where the
resumed run gets to the next file sooner. Compared at the end: the bytes of balance.json, the rows
of all Parquet files, the arrays of all checkpoints, the last metrics row of every (iteration,
phase, step) without wall times, and that nothing is left over in iterations/.

The exit code is 1 if anything differs. It takes twice the run's duration and some twenty seconds a
kill: about half an hour for the default run.
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
from collections.abc import Sequence
from typing import Any

from benchmarks import figures, launching
from benchmarks.survival.kill_times import TORN, Kill, Kinds, in_order, kinds, plan
from benchmarks.survival.watching import (
    CLAIMED,
    POLL_SECONDS,
    START,
    Timeline,
    Watch,
    phase_before,
    watch_undisturbed,
)

NO_HIT = ENDED, PAST, ABSENT = (
    "the run ended before",
    "it had come already",
    "it did not come; killed all the same",
)


@dataclasses.dataclass(frozen=True)
class Commands:
    """How the runs are started.

    Attributes:
      config: Config of both runs.
      overrides: Further flags of both.
      cpus: Cores of both; "" for any.
    """

    config: str
    overrides: Sequence[str]
    cpus: str

    def main(self, run: pathlib.Path, door: Sequence[str] = launching.MAIN) -> list[str]:
        """The command of a run."""
        command = launching.main_command(self.config, run, self.overrides, door=door)
        return launching.pinned(command, self.cpus)

    def dying(self, run: pathlib.Path, mode: str, path: pathlib.Path) -> list[str]:
        """The same by `dying`, which records the renames to a file or dies at one of a path."""
        return self.main(run, ["benchmarks.survival.dying", mode, str(path), "--"])


class Victim:
    """The run that is killed.

    Attributes:
      timeline: Events of the undisturbed run.
      order: The number of each event in the timeline.
      log: Where the output goes.
    """

    def __init__(self, run: pathlib.Path, commands: Commands, timeline: Timeline, timeout: float):
        """Starts nothing yet; `timeout` is in seconds, of one start."""
        self.run, self.commands, self.timeout = run, commands, timeout
        self.timeline = timeline
        self.order = {event: number for number, (_, event) in enumerate(timeline)}
        self.log = run.with_name(f"{run.name}.log")

    def position(self, watch: Watch) -> int:
        """How far along the undisturbed run's events this one is."""
        return max((self.order.get(event, 0) for event in watch.seen), default=0)

    def is_past(self, kill: Kill) -> bool:
        """Whether the file or row that a kill waits for has come already."""
        watch = Watch(self.run)
        watch.look()
        if kill.kind == TORN:
            return kill.after in watch.seen
        if not kill.path or kill.path == "config.json":  # which every start writes
            return False
        is_there = kill.kind.startswith("rename") and (self.run / kill.path).exists()
        return is_there or self.timeline[self.position(watch)][0] > kill.seconds

    def strike(self, kill: Kill) -> dict[str, Any]:
        """Starts the run and kills it when the time has come.

        Returns:
          {"hit": the phase under way, or one of `NO_HIT`, "alive_seconds"}.

        Raises:
          SystemExit: If the run fails by itself, or the time does not come.
        """
        began = time.monotonic()
        if kill.path:
            command = self.commands.dying(self.run, "--die-at", self.run / kill.path)
        else:
            command = self.commands.main(self.run)
        trigger, watch, is_ours = Trigger(self, kill, began), Watch(self.run), False
        process = launching.start(command, self.log)
        while process.poll() is None:
            watch.look()
            if trigger.is_due(watch):
                process.kill()
                is_ours = True
                break
            if time.monotonic() - began > self.timeout:
                process.kill()
                raise SystemExit(f"no time for {kill} in {self.timeout:.0f} s, see {self.log}")
            time.sleep(POLL_SECONDS)
        code = process.wait()
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"the run ended with exit code {code} by itself, see {self.log}")
        watch.look()
        hit = self.phase(watch) if code else ENDED
        if (is_ours and kill.path) or (kill.kind == TORN and code and not self.tear(kill)):
            hit = ABSENT
        return {"hit": hit, "alive_seconds": time.monotonic() - began}

    def tear(self, kill: Kill) -> bool:
        """Cuts the last line of metrics.jsonl in half, if it is the one that the kill follows."""
        file = self.run / "metrics.jsonl"
        *before, last = file.read_bytes().splitlines(keepends=True)
        row = json.loads(last)
        if kill.after != f"row {row['iteration']} {row['phase']}":
            return False
        file.write_bytes(b"".join(before) + last[: len(last) // 2])
        return True

    def phase(self, watch: Watch) -> str:
        """The phase under way, and the next event of the undisturbed run."""
        following = self.timeline[self.position(watch) + 1 :]
        event = following[0][1] if following else "the end"
        return f"{phase_before(event, watch.seen)}, before {event}"


class Trigger:
    """Decides when the time of a kill has come."""

    def __init__(self, victim: Victim, kill: Kill, began: float):
        """Takes the start of the process on the monotonic clock."""
        self.victim, self.kill = victim, kill
        self.wanted = victim.order.get(kill.after, 0)
        self.due: float | None = None
        self.stop_at: int | None = None  # position at which to kill however little time has passed
        if kill.path:
            before = sum(at <= kill.seconds for at, _ in victim.timeline)
            self.stop_at = before + 3  # by then the process should have killed itself
        elif kill.after == START:
            self.due = began + kill.delay

    def is_due(self, watch: Watch) -> bool:
        """Whether to kill now."""
        position, now = self.victim.position(watch), time.monotonic()
        if self.due is None and not self.kill.path:
            self._arm(watch, position, now)
        too_far = self.stop_at is not None and position >= self.stop_at
        return too_far or (self.due is not None and now >= self.due)

    def _arm(self, watch: Watch, position: int, now: float) -> None:
        """Fixes the time once the event before it is there and this process has gone on from it."""
        if position < self.wanted or CLAIMED not in watch.seen:
            return
        self.due = now + self.kill.delay
        if position == self.wanted:
            self.stop_at = self.wanted + 1


def kill_all(victim: Victim, kills: Sequence[Kill], by_kind: Kinds) -> list[dict[str, Any]]:
    """Kills the run at every time in turn; where a file has come already, at the next like it."""
    waiting, results = list(kills), []
    while waiting:
        kill = waiting.pop(0)
        if victim.is_past(kill):
            later = [other for other in by_kind.get(kill.kind, ()) if not victim.is_past(other)]
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


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    launching.add_run_flags(parser)
    parser.add_argument("--kills", type=int, default=20, help="times drawn over the whole run")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--cpus", default="", help="cores of both runs, such as 0 or 0-1")
    arguments = parser.parse_args()
    launching.require_empty(parser, arguments.workdir)
    return arguments


def measure(arguments: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path, dict[str, Any]]:
    """Makes both runs: the undisturbed one, the killed one, and the figures of the kills."""
    workdir = arguments.workdir.absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    whole, killed = workdir / "undisturbed", workdir / "killed"
    commands = Commands(arguments.config, shlex.split(arguments.overrides), arguments.cpus)
    record = workdir / "renames.txt"
    record.touch()
    command = commands.dying(whole, "--record", record)
    log = workdir / "undisturbed.log"
    timeline, renames, duration = watch_undisturbed(command, record, whole, log)
    by_kind = kinds(renames, timeline)
    counts = f"{len(timeline)} events, {len(by_kind)} kinds of file"
    print(f"undisturbed run: {duration:.1f} s, {counts}")
    kills = plan(timeline, by_kind, duration, arguments.kills, random.Random(arguments.seed))
    victim = Victim(killed, commands, timeline, timeout=3 * duration + 300)
    results = kill_all(victim, kills, by_kind)
    launching.run_to_end(commands.main(killed), victim.log)
    missed = [f"{one['kind']} at {one['seconds']:.2f}" for one in results if one["hit"] in NO_HIT]
    return (
        whole,
        killed,
        {
            "undisturbed_seconds": duration,
            "kills": results,
            "killed": len(results) - len(missed),
            "missed": missed,
        },
    )


def main() -> None:
    """Makes and compares the runs; the exit code says whether they are alike."""
    arguments = parse()
    with launching.SameSource():
        whole, killed, found = measure(arguments)
    from benchmarks.fidelity import results  # and with it JAX, which --help need not wait for

    differing, counts = results.compare(whole, killed)
    print(
        f"killed {found['killed']} times, times that did not come: {found['missed']}; "
        f"compared {counts}"
    )
    print("\n".join(f"DIFFERS: {line}" for line in differing) or "the two runs are alike")
    figures.write(arguments.json, {**found, "compared": counts, "differing": differing})
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
