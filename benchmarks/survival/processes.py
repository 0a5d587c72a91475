"""Compares runs of several processes on this machine with a run of one process.

    python -m benchmarks.survival.processes --workdir=runs/processes --json=runs/processes.json

All runs but the last have eight virtual CPU devices in all, on one mesh (data, fsdp, tensor):

    same      the run in 1, 2 and 4 processes: tokens and discrete columns of all rows, the bytes
              of balance.json, and ||a - b|| / ||b|| of every tensor after warm-up; then the
              iteration again from the parameters that the one process had after warm-up, so that
              differences do not add up: all of this, and float columns
    elastic   a run of one process is killed in the middle of generate, and goes on from copies of
              what it left: as it was, in 2 processes, and on one device
    kills     a run of `--killed` processes, of which one, drawn at random, is killed with SIGKILL
              at `--kills` times drawn over the undisturbed run; the seconds until the others have
              ended, and what they say; all are started again, and the end must have the bytes of
              the undisturbed run of as many processes

What is in `--workdir` is not made again. The exit code is 1 where a limit is passed. The default
takes a small run of the embedded task, about half an hour in all on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import figures, launching
from benchmarks.survival.kill_times import Kill, kill_at
from benchmarks.survival.watching import CLAIMED, POLL_SECONDS, START, Watch, watch_to_end

MOST_NORM, MOST_SECONDS = 1e-6, 60.0
ONE_DEVICE_NORM = 1e-5
SMALL = (
    "--config.loop.iterations=1 --config.sft.steps=20 --config.sft.warmup_steps=5 "
    "--config.improve.steps=20 --config.monitor.queries=64 --config.generate.queries=512 "
    "--config.calibrate.queries=64 --config.calibrate.temperatures=0.7,1.1 "
    "--config.calibrate.thresholds=-1.5,0.75 --config.generate.batch=512 --config.log.every=5 "
    "--config.checkpoint.minutes=0.05"
)
Figures = dict[str, Any]  # what two runs differ in


class ProcessRuns:
    """Where the runs are, and how they are made."""

    def __init__(self, arguments: argparse.Namespace):
        """Takes the flags of the script."""
        self.workdir: pathlib.Path = arguments.workdir.absolute()
        self.config: str = arguments.config
        self.overrides = shlex.split(arguments.overrides)
        self.mesh: tuple[int, ...] = arguments.mesh

    def start(
        self, name: str, count: int, mesh: Sequence[int] = ()
    ) -> list[subprocess.Popen[bytes]]:
        """Starts all processes of a run."""
        mesh = mesh or self.mesh
        flags = [*self.overrides, *launching.mesh_flags(mesh)]
        devices = f"--xla_force_host_platform_device_count={math.prod(mesh) // count}"
        environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{devices} {launching.PATIENT}"}
        command = launching.main_command(self.config, self.workdir / name, flags)
        address = f"--coordinator=127.0.0.1:{launching.free_port()}"
        started = []
        for index in range(count):
            own = [address, f"--processes={count}", f"--process={index}"] if count > 1 else []
            log = self.log(name, index)
            started.append(launching.start([*command, *own], log, environment))
        return started

    def log(self, name: str, index: int) -> pathlib.Path:
        """Where the output of a process goes."""
        return self.workdir / f"{name}.{index}.log"

    def warmed_up(self, name: str, run: pathlib.Path) -> None:
        """Makes a run directory that holds what another one has after warm-up."""
        for file in ("tokenizer", "checkpoints/params/0"):
            copy = self.workdir / name / file
            if not copy.exists():
                shutil.copytree(run / file, copy)

    def run(self, name: str, count: int, mesh: Sequence[int] = ()) -> pathlib.Path:
        """Runs, or resumes, to the end; does nothing where the run is over.

        Raises:
          SystemExit: If a process fails.
        """
        run, record = self.workdir / name, self.workdir / f"{name}.json"
        if launching.is_finished(run):
            return run
        began, watch = time.monotonic(), Watch(run)
        processes = self.start(name, count, mesh)
        watch_to_end(processes, watch)
        codes = [process.returncode for process in processes]
        if any(codes):
            raise SystemExit(f"{name} ended with {codes}, see {run}.*.log")
        seconds = time.monotonic() - began
        figures.write_json(record, {"seconds": seconds, "timeline": watch.timeline(began)})
        print(f"made {name} in {seconds:.0f} s", flush=True)
        return run


def compare(one: pathlib.Path, other: pathlib.Path) -> Figures:
    """What two finished runs of the same settings differ in.

    Raises:
      SystemExit: If they do not hold the same checkpoints.
    """
    from benchmarks.fidelity import flips, stored
    from bstar_jax import tokenizer

    shared, differences = tokenizer.load(one / "tokenizer"), flips.RowDifferences()
    for file in sorted(path.relative_to(one) for path in one.glob("iterations/*/*.parquet")):
        found, _ = flips.compare_rows(one / file, other / file, shared)
        differences.add(found, str(file))
    surfaces = [
        [path.read_bytes() for path in sorted(run.glob("iterations/*/balance.json"))]
        for run in (one, other)
    ]
    mine, theirs = stored.checkpoints(one), stored.checkpoints(other)
    if mine.keys() != theirs.keys():
        raise SystemExit(f"{one} and {other} hold other checkpoints")
    norms = {
        name: max(stored.relative_norms(folder, theirs[name]).values())
        for name, folder in mine.items()
        if "/params/" in name
    }
    return {
        "rows": vars(differences),
        "norms": norms,
        "balance_bytes_alike": surfaces[0] == surfaces[1],
    }


def beyond_limits(found: Figures, most_norm: float) -> list[str]:
    """What passed a limit."""
    from benchmarks.fidelity import flips

    wrong = flips.RowDifferences(**found["rows"]).beyond_limits()
    return wrong + [f"{k}: {norm:.1e}" for k, norm in found["norms"].items() if norm > most_norm]


def same(runs: ProcessRuns) -> tuple[dict[int, dict[str, Figures]], list[str]]:
    """2 and 4 processes against one: what they differ in, and what passed a limit."""
    whole = {count: runs.run(f"processes-{count}", count) for count in (1, 2, 4)}
    results, wrong = {}, []
    for count in (2, 4):
        found = compare(whole[1], whole[count])
        # After warm-up the two have different parameters, by rounding.
        found["rows"]["largest_float_difference"] = {}
        found["norms"] = {"warm-up": found["norms"]["./params/0"]}
        runs.warmed_up(f"iteration-{count}", whole[1])
        iteration = compare(whole[1], runs.run(f"iteration-{count}", count))
        results[count] = {"whole": found, "iteration": iteration}
        for what, each in results[count].items():
            name = f"{count} processes against one, {what}"
            wrong += [f"{name}: {line}" for line in beyond_limits(each, MOST_NORM)]
            print(f"{name}: {each}", flush=True)
    return results, wrong


def elastic(runs: ProcessRuns) -> tuple[dict[str, Figures], list[str]]:
    """Kills a run in the middle of generate and goes on in three ways: what they differ in."""
    begun = runs.workdir / "begun"
    if not begun.exists():
        kill_in_generate(runs, begun)
    cases = {"as it was": (1, ()), "2 processes": (2, ()), "one device": (1, (1, 1, 1))}
    ended = {}
    for case, (count, mesh) in cases.items():
        name = f"elastic-{case.replace(' ', '-')}"
        if not (runs.workdir / name).exists():
            shutil.copytree(begun, runs.workdir / name)
        ended[case] = runs.run(name, count, mesh)
    results, wrong = {}, []
    for case, run in ended.items():
        results[case] = compare(ended["as it was"], run)
        most = ONE_DEVICE_NORM if case == "one device" else MOST_NORM
        wrong += [f"elastic, {case}: {line}" for line in beyond_limits(results[case], most)]
        print(f"went on, {case}: {results[case]}", flush=True)
    return results, wrong


def kill_in_generate(runs: ProcessRuns, begun: pathlib.Path) -> None:
    """Makes a run directory as a kill leaves it that comes when three units are stored."""
    now = begun.with_name("begun-now")
    (process,) = runs.start(now.name, 1)
    while process.poll() is None and len(_units(now)) < 3:
        time.sleep(POLL_SECONDS)
    process.send_signal(signal.SIGKILL)
    process.wait()
    print(f"killed with {len(_units(now))} units of generate stored", flush=True)
    os.replace(now, begun)


def _units(run: pathlib.Path) -> list[pathlib.Path]:
    return list(run.glob("iterations/0001/partial/generate-*.parquet"))


def kill_again_and_again(
    runs: ProcessRuns, whole: pathlib.Path, count: int, kills: int, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Kills one process at every time, and lets the run end: the figures, what is wrong."""
    from benchmarks.fidelity.results import compare as compare_bytes

    rng = random.Random(seed)
    notebook = figures.Notebook(runs.workdir / f"kills-{count}.json", {"kills": []})
    results: list[dict[str, Any]] = notebook.record["kills"]
    known = json.loads((runs.workdir / f"{whole.name}.json").read_text())
    kill_times = sorted(rng.uniform(0, known["seconds"]) for _ in range(kills))
    plan = [(kill_at("uniform", at, known["timeline"]), rng.randrange(count)) for at in kill_times]
    name = f"killed-{count}"
    for kill, victim in plan[len(results) :]:
        results.append(strike(runs, name, count, kill, victim))
        notebook.save()
        print(f"{len(results)} of {kills}: {results[-1]}", flush=True)
    differing, counts = compare_bytes(whole, runs.run(name, count))
    wrong = [*differing]
    wrong += [f"too slow: {one}" for one in results if one["others_ended_after"] > MOST_SECONDS]
    wrong += [f"unnamed: {one}" for one in results if not one["all_name_it"]]
    return {"kills": results, "differing": differing, "compared": counts}, wrong


def strike(runs: ProcessRuns, name: str, count: int, kill: Kill, victim: int) -> dict[str, Any]:
    """Starts all processes, kills one when its time has come, and sees how the others end."""
    logs = [runs.log(name, index) for index in range(count)]
    before = [log.stat().st_size if log.exists() else 0 for log in logs]
    began, watch, due = time.monotonic(), Watch(runs.workdir / name), None
    processes = runs.start(name, count)
    while all(process.poll() is None for process in processes):
        watch.look()
        now = time.monotonic()
        if due is None and kill.after == START:
            due = began + kill.delay
        elif due is None and kill.after in watch.seen and CLAIMED in watch.seen:
            due = now + kill.delay
        if due is not None and now >= due:
            break
        time.sleep(POLL_SECONDS)
    was_alive = processes[victim].poll() is None
    processes[victim].kill()
    struck = time.monotonic()
    codes = [process.wait(5 * MOST_SECONDS) for process in processes]
    ended = time.monotonic() - struck
    said = [log.read_bytes()[start:].decode() for log, start in zip(logs, before, strict=True)]
    errors = [[line for line in text.splitlines() if line.startswith("error:")] for text in said]
    return {
        "after": kill.after,
        "seconds": kill.seconds,
        "victim": victim,
        "was_alive": was_alive,
        "alive_seconds": struck - began,
        "others_ended_after": ended,
        "codes": codes,
        "all_name_it": all(
            len(lines) == 1 and f"process {victim} of {count}" in lines[0]
            for index, lines in enumerate(errors)
            if index != victim
        ),
    }


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    launching.add_run_flags(parser, overrides=SMALL)
    parser.add_argument(
        "--mesh", type=launching.mesh_sizes, default="2,2,2", help="data,fsdp,tensor"
    )
    parser.add_argument("--kills", type=int, default=10, help="times drawn over the whole run")
    parser.add_argument("--killed", type=int, default=2, help="processes of the run that is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    return parser.parse_args()


def main() -> None:
    """Makes and compares all runs; the exit code says whether all limits hold."""
    arguments = parse()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    runs = ProcessRuns(arguments)
    with launching.SameSource():
        alike, wrong = same(runs)
        gone_on, more = elastic(runs)
        wrong += more
        count = arguments.killed
        whole = runs.run(f"processes-{count}", count)
        kills, more = kill_again_and_again(runs, whole, count, arguments.kills, arguments.seed)
        wrong += more
    launching.show_limits(wrong)
    figures.write(arguments.json, {"same": alike, "elastic": gone_on, **kills, "wrong": wrong})
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
