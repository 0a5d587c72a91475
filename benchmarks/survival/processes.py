"""Several processes on this machine against one: the same files, through kills, and elastic.

    python -m benchmarks.survival.processes --workdir=runs/processes --json=runs/processes.json

All runs but the last have eight virtual CPU devices in all, on one mesh (data, fsdp, tensor):

    same      the run in 1, 2 and 4 processes: tokens and discrete columns of all rows, the bytes
              of balance.json, and ||a - b|| / ||b|| of every tensor after warm-up; then the
              iteration again from the parameters that the one process had after warm-up, so that
              differences do not pile up: all of this, and float columns
    kills     a run of --killed processes, of which one, drawn at random, is killed with SIGKILL at
              --kills moments drawn over the undisturbed run; the seconds until the others have
              ended, and what they say; all are started again, and the end must have the bytes of
              the undisturbed run of as many processes
    elastic   a run of one process is killed in the middle of generate, and goes on from copies of
              what it left: as it was, in 2 processes, and on one device

What stands in --workdir is not made again. Exit code 1 where a limit is passed. The default takes
a small run of the embedded task, about half an hour in all on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import socket
import sys
import time

from benchmarks import launching
from benchmarks.survival.kill_times import CLAIMED, POLL_SECONDS, START, Progress, moment

MOST_NORM, MOST_FLIPS, MOST_FLOAT, MOST_SECONDS = 1e-6, 1e-4, 1e-4, 60.0
ONE_DEVICE_NORM = 1e-5
SMALL = (
    "--config.loop.iterations=1 --config.sft.steps=20 --config.sft.warmup_steps=5 "
    "--config.improve.steps=20 --config.monitor.queries=64 --config.generate.queries=512 "
    "--config.calibrate.queries=64 --config.calibrate.temperatures=0.7,1.1 "
    "--config.calibrate.thresholds=-1.5,0.75 --config.generate.batch=512 --config.log.every=5 "
    "--config.checkpoint.minutes=0.05"
)


class Bench:
    """Where the runs are, and how they are made."""

    def __init__(self, arguments):
        self.workdir, self.config = arguments.workdir.absolute(), arguments.config
        self.overrides, self.mesh = shlex.split(arguments.overrides), arguments.mesh

    def start(self, name, count, mesh=None):
        """Starts all processes of a run."""
        mesh = mesh or self.mesh
        size = mesh[0] * mesh[1] * mesh[2]
        axes = zip(("data", "fsdp", "tensor"), mesh, strict=True)
        flags = [*self.overrides, *(f"--config.mesh.{axis}={each}" for axis, each in axes)]
        devices = f"--xla_force_host_platform_device_count={size // count} {launching.PATIENT}"
        environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}
        command = launching.main_command(self.config, self.workdir / name, flags)
        address = f"--coordinator=127.0.0.1:{free_port()}"
        started = []
        for index in range(count):
            own = [address, f"--processes={count}", f"--process={index}"] if count > 1 else []
            log = self.workdir / f"{name}.{index}.log"
            started.append(launching.start([*command, *own], log, environment))
        return started

    def warmed_up(self, name, run):
        """A run directory that holds what another one has after warm-up."""
        for file in ("tokenizer", "checkpoints/params/0"):
            place = self.workdir / name / file
            if not place.exists():
                shutil.copytree(run / file, place)

    def run(self, name, count, mesh=None):
        """Runs, or resumes, to the end, unless it stands already."""
        run, record = self.workdir / name, self.workdir / f"{name}.json"
        if launching.is_finished(run):
            return run
        began, progress = time.monotonic(), Progress(run)
        processes = self.start(name, count, mesh)
        while any(process.poll() is None for process in processes):
            progress.look()
            time.sleep(POLL_SECONDS)
        codes = [process.returncode for process in processes]
        if any(codes):
            raise SystemExit(f"{name} ended with {codes}, see {run}.*.log")
        progress.look()
        timeline = sorted((at - began, event) for event, at in progress.seen.items())
        seconds = time.monotonic() - began
        launching.write_json(record, {"seconds": seconds, "timeline": [(0.0, START), *timeline]})
        print(f"made {name} in {seconds:.0f} s", flush=True)
        return run


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def compare(one, other):
    """What two finished runs of the same settings differ in."""
    import numpy as np

    from benchmarks.fidelity import flips, stored
    from bstar_jax import tokenizer

    words = tokenizer.load(one / "tokenizer")
    figures = {"rows": 0, "tokens": 0, "flips": 0, "discrete": [], "floats": {}, "norms": {}}
    for file in sorted(path.relative_to(one) for path in one.glob("iterations/*/*.parquet")):
        found, _ = flips.compare_rows(one / file, other / file, words)
        for name in ("rows", "tokens", "flips"):
            figures[name] += found[name]
        figures["discrete"] += [f"{file}: {each}" for each in found["discrete_differences"]]
        for name, value in found["largest_float_difference"].items():
            figures["floats"][name] = max(figures["floats"].get(name, 0.0), value)
    surfaces = [
        [path.read_bytes() for path in sorted(run.glob("iterations/*/balance.json"))]
        for run in (one, other)
    ]
    figures["balance_bytes_alike"] = surfaces[0] == surfaces[1]
    mine, theirs = stored.checkpoints(one), stored.checkpoints(other)
    if mine.keys() != theirs.keys():
        raise SystemExit(f"{one} and {other} hold other checkpoints")
    for name in mine:
        if "/params/" in name:
            pairs = stored.arrays(mine[name]), stored.arrays(theirs[name])
            figures["norms"][name] = max(
                float(np.linalg.norm(pairs[1][path] - value) / np.linalg.norm(value))
                for path, value in pairs[0].items()
            )
    return figures


def verdict(figures, most_norm):
    """What passed a limit."""
    wrong = list(figures["discrete"])
    wrong += [f"{name}: {norm:.1e}" for name, norm in figures["norms"].items() if norm > most_norm]
    wrong += [f"{k}: {v:.1e}" for k, v in figures["floats"].items() if v > MOST_FLOAT]
    if figures["flips"] > MOST_FLIPS * figures["tokens"]:
        wrong.append(f"{figures['flips']} flips in {figures['tokens']} tokens")
    return wrong


def kill_again_and_again(bench, whole, count, kills, seed):
    """Kills one process at every moment, and lets the run end: [{...}], what differs."""
    from benchmarks.fidelity import stored

    rng, record = random.Random(seed), bench.workdir / f"kills-{count}.json"
    results = json.loads(record.read_text()) if record.exists() else []
    known = json.loads((bench.workdir / f"{whole.name}.json").read_text())
    moments = sorted(rng.uniform(0, known["seconds"]) for _ in range(kills))
    plan = [(moment("uniform", at, known["timeline"]), rng.randrange(count)) for at in moments]
    name = f"killed-{count}"
    for kill, victim in plan[len(results) :]:
        results.append(strike(bench, name, count, kill, victim))
        launching.write_json(record, results)
        print(f"{len(results)} of {kills}: {results[-1]}", flush=True)
    differing, counts = stored.compare(whole, bench.run(name, count))
    return results, differing, counts


def strike(bench, name, count, kill, victim):
    """Starts all processes, kills one when its moment has come, and sees how the others end."""
    logs = [bench.workdir / f"{name}.{index}.log" for index in range(count)]
    before = [log.stat().st_size if log.exists() else 0 for log in logs]
    began, progress, due = time.monotonic(), Progress(bench.workdir / name), None
    processes = bench.start(name, count)
    while all(process.poll() is None for process in processes):
        progress.look()
        now = time.monotonic()
        if due is None and kill.after == START:
            due = began + kill.delay
        elif due is None and kill.after in progress.seen and CLAIMED in progress.seen:
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


def elastic(bench):
    """{how it went on: figures} after a kill in the middle of generate."""
    begun = bench.workdir / "begun"
    if not begun.exists():
        (process,) = bench.start("begun-now", 1)
        now = bench.workdir / "begun-now"
        while process.poll() is None:
            if len(list(now.glob("iterations/0001/partial/generate-*.parquet"))) >= 3:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = len(list(now.glob("iterations/0001/partial/generate-*.parquet")))
        print(f"killed with {parts} units of generate stored", flush=True)
        os.replace(now, begun)
    cases = {"as it was": (1, None), "2 processes": (2, None), "one device": (1, (1, 1, 1))}
    runs = {}
    for case, (count, mesh) in cases.items():
        name = f"elastic-{case.replace(' ', '-')}"
        if not (bench.workdir / name).exists():
            shutil.copytree(begun, bench.workdir / name)
        runs[case] = bench.run(name, count, mesh)
    return {case: compare(runs["as it was"], run) for case, run in runs.items() if case in cases}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/arithmetic.py")
    parser.add_argument("--overrides", default=SMALL, help="further flags of main, in one string")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="holds all runs")
    parser.add_argument("--mesh", default="2,2,2", help="data,fsdp,tensor")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--killed", type=int, default=2, help="processes of the run that is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.mesh = tuple(int(size) for size in arguments.mesh.split(","))
    return arguments


def main():
    arguments = parse()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    bench, source = Bench(arguments), launching.source_digest()
    runs = {count: bench.run(f"processes-{count}", count) for count in (1, 2, 4)}
    result = {"same": {}, "wrong": []}
    for count in (2, 4):
        whole = compare(runs[1], runs[count])
        # After warm-up the two have different parameters, by rounding.
        whole = {**whole, "floats": {}, "norms": {"warm-up": whole["norms"]["./params/0"]}}
        bench.warmed_up(f"iteration-{count}", runs[1])
        iteration = compare(runs[1], bench.run(f"iteration-{count}", count))
        result["same"][count] = {"whole": whole, "iteration": iteration}
        for what, figures in result["same"][count].items():
            found = verdict(figures, MOST_NORM)
            result["wrong"] += [f"{count} processes, {what}: {each}" for each in found]
            print(f"{count} processes against one, {what}: {figures}", flush=True)
    result["elastic"] = elastic(bench)
    for case, figures in result["elastic"].items():
        most = ONE_DEVICE_NORM if case == "one device" else MOST_NORM
        result["wrong"] += [f"elastic, {case}: {each}" for each in verdict(figures, most)]
        print(f"went on, {case}: {figures}", flush=True)
    count = arguments.killed
    kills, differing, counts = kill_again_and_again(
        bench, runs[count], count, arguments.kills, arguments.seed
    )
    slow = [one for one in kills if one["others_ended_after"] > MOST_SECONDS]
    result |= {"kills": kills, "differing": differing, "compared": counts}
    result["wrong"] += differing + [f"too slow: {one}" for one in slow]
    result["wrong"] += [f"unnamed: {one}" for one in kills if not one["all_name_it"]]
    if launching.source_digest() != source:
        raise SystemExit("the source changed meanwhile: these runs are not of one program")
    print("\n".join(f"ABOVE ITS LIMIT: {line}" for line in result["wrong"]) or "all within limits")
    if arguments.json:
        launching.write_json(arguments.json, result)
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
