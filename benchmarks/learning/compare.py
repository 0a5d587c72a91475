"""Runs variants of a config over seeds at equal budgets, and tabulates them by iteration.

    python -m benchmarks.learning.compare --output=runs/compare --json=runs/compare.json
    python -m benchmarks.learning.compare --seeds=5,6 --variants=bstar,online_rft \\
        --overrides='--config.loop.iterations=2'

Variants are those of the config file (`--config=FILE:VARIANT`), and one that is made here:

    online_rft_filter    online_rft with the process reward and, held fixed, the threshold and
                         process weight that the bstar runs chose most often

so that the gain of balancing stands beside that of filtering alone. Every process is pinned to
one core, `--parallel` at a time; finished runs are kept and half-finished ones resumed, so the
same command goes on where it stopped. Equal budgets (optimizer steps, generated responses) are
checked, calibration samples come on top and are shown. Prints Markdown: the mean over seeds and
(smallest to largest) by iteration, the choices, the gain of each seed, wall time and memory.

With the default five seeds and three variants: 15 runs of some minutes on a core each.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import statistics
import time
from collections import Counter

from benchmarks import launching

FILTER = "online_rft_filter"
CHOICE = ("temperature", "top_k", "threshold", "process_weight")


def figures_of(run):
    """Names of the figures shown: pass@1, greedy, and those at the run's largest K."""
    settings = launching.read_config(run)["monitor"]
    k, s = max(settings["ks"]), settings["s"]
    return ["pass@1", "greedy", f"pass@{k}", f"pass@{k}-{s}", f"reward@{k}-{s}", "diversity"]


def chosen_filter(runs):
    """The (threshold, process weight) that most iterations of these runs chose."""
    files = [file for run in runs for file in sorted(run.glob("iterations/*/balance.json"))]
    if not files:
        raise SystemExit(f"{FILTER} takes its filter from bstar runs, and there is none")
    chosen = [json.loads(file.read_text())["chosen"] for file in files]
    counts = Counter((each["threshold"], each["process_weight"]) for each in chosen)
    return counts.most_common(1)[0][0]


def flags_of(variant, seed, arguments, directory):
    """(--config, overrides) of one run."""
    overrides = [f"--config.seed={seed}", *shlex.split(arguments.overrides)]
    if variant != FILTER:
        return f"{arguments.config}:{variant}", overrides
    threshold, weight = chosen_filter([directory("bstar", one) for one in arguments.seeds])
    fixed = {
        "--config.calibrate.thresholds": f"({threshold},)",
        "--config.calibrate.process_weights": f"({weight},)",
    }
    overrides = [flag for flag in overrides if flag.partition("=")[0] not in fixed]
    overrides += [f"{name}={value}" for name, value in fixed.items()]
    return f"{arguments.config}:online_rft", overrides


def run_all(jobs, arguments, directory):
    """Runs (variant, seed) pairs, each on a core of its own, as many as there are cores given."""
    waiting = [job for job in jobs if not launching.is_finished(directory(*job))]
    free, running = list(arguments.cpus), {}
    while waiting or running:
        while waiting and free:
            variant, seed = waiting.pop(0)
            run, cpu = directory(variant, seed), free.pop(0)
            config, overrides = flags_of(variant, seed, arguments, directory)
            command = launching.main_command(config, run, overrides)
            environment = {"JAX_PLATFORMS": "cpu"} if arguments.cpu_only else {}
            process = launching.start(launching.pinned(command, cpu), f"{run}.log", environment)
            print(f"{time.strftime('%H:%M:%S')} core {cpu}: {variant} seed {seed}", flush=True)
            running[process.pid] = (process, run, cpu, time.monotonic())
        pid, status, usage = os.wait3(0)
        process, run, cpu, started = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        free.append(cpu)
        note_process(run, time.monotonic() - started, usage.ru_maxrss * 1024, process.returncode)
        if process.returncode:
            for other, *_ in running.values():
                other.terminate()  # saves its state; the same command goes on from there
            for other, *_ in running.values():
                other.wait()
            raise SystemExit(f"{run} ended with exit code {process.returncode}, see {run}.log")


def note_process(run, wall_seconds, peak_bytes, code):
    """Adds a process to RUN.processes.json: a resumed run is the sum of several."""
    file = pathlib.Path(f"{run}.processes.json")
    processes = json.loads(file.read_text()) if file.exists() else []
    process = {"wall_seconds": wall_seconds, "peak_bytes": peak_bytes, "exit_code": code}
    launching.write_json(file, [*processes, process])


def read_run(run):
    """What the tables need of one run."""
    rows = launching.metrics_rows(run)
    by_phase = {
        phase: [row for (_, name, _), row in sorted(rows.items(), key=_order) if name == phase]
        for phase in ("monitor", "calibrate", "generate", "improve")
    }
    config = launching.read_config(run)
    file = pathlib.Path(f"{run}.processes.json")
    processes = json.loads(file.read_text()) if file.exists() else []
    improved = {row["iteration"]: row["step"] for row in by_phase["improve"]}
    section = config["calibrate"]
    cells = len(section["temperatures"]) * len(section["top_ks"])
    searched = len(list(run.glob("iterations/*/balance.json")))
    return {
        "monitor": [
            {name: row.get(name) for name in figures_of(run)} for row in by_phase["monitor"]
        ],
        "choices": [{name: row[name] for name in CHOICE} for row in by_phase["calibrate"]],
        "steps": config["sft"]["steps"] + sum(improved.values()),
        "responses": sum(row["responses"] for row in by_phase["generate"]),
        "calibration_responses": cells * section["queries"] * section["responses"] * searched,
        "wall_seconds": sum(process["wall_seconds"] for process in processes) or None,
        "peak_bytes": max((process["peak_bytes"] for process in processes), default=None),
        "processes": len(processes),
    }


def _order(item):
    (iteration, phase, step), _ = item
    return iteration, phase, -1 if step is None else step


def table(header, rows):
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def spread(values):
    """Mean, and smallest to largest."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})"


def metrics_table(results):
    """Every variant and iteration: mean over seeds, smallest to largest."""
    names = list(next(iter(results.values()))[0]["monitor"][0])
    rows = []
    for variant, runs in results.items():
        for iteration in range(len(runs[0]["monitor"])):
            columns = [spread([run["monitor"][iteration][name] for run in runs]) for name in names]
            rows.append([variant, iteration, *columns])
    return table(["variant", "iteration", *names], rows)


def choices_table(runs, seeds):
    """The cell that each seed chose, by iteration."""
    written = [
        [
            f"T {choice['temperature']:g} k {choice['top_k']} > {choice['threshold']:g} "
            f"w {choice['process_weight']:g}"
            for choice in run["choices"]
        ]
        for run in runs
    ]
    rows = [[iteration, *cells] for iteration, cells in enumerate(zip(*written, strict=True), 1)]
    return table(["iteration", *(f"seed {seed}" for seed in seeds)], rows)


def gains_table(results, seeds):
    """Last iteration less warm-up, in percentage points, for each seed."""
    names = list(next(iter(results.values()))[0]["monitor"][0])
    rows = []
    for variant, runs in results.items():
        for name in names:
            ends = [(run["monitor"][0][name], run["monitor"][-1][name]) for run in runs]
            gains = [None if None in pair else 100 * (pair[1] - pair[0]) for pair in ends]
            known = [gain for gain in gains if gain is not None]
            mean = f"{statistics.mean(known):+.1f}" if known else "-"
            rows.append([variant, name, *("-" if g is None else f"{g:+.1f}" for g in gains), mean])
    return table(["variant", "gain in points", *(f"seed {seed}" for seed in seeds), "mean"], rows)


def cost_table(results, seeds):
    """What every run spent."""
    rows = [
        [
            variant,
            seed,
            run["steps"],
            run["responses"],
            run["calibration_responses"],
            f"{run['wall_seconds']:.0f}" if run["wall_seconds"] else "-",
            f"{run['peak_bytes'] / 2**20:.0f}" if run["peak_bytes"] else "-",
            run["processes"],
        ]
        for variant, runs in results.items()
        for seed, run in zip(seeds, runs, strict=True)
    ]
    header = (
        "variant,seed,optimizer steps,generated responses,calibration responses,wall s,peak MiB"
    )
    return table([*header.split(","), "processes"], rows)


def check_budgets(results):
    """Stops unless all runs took as many steps and generated as many responses."""
    budgets = {(run["steps"], run["responses"]) for runs in results.values() for run in runs}
    if len(budgets) > 1:
        raise SystemExit(f"budgets differ: (optimizer steps, generated responses) {budgets}")


def caveats(results, seeds, directory):
    """What makes the runs less comparable than they look."""
    notes = []
    for place, seed in enumerate(seeds):
        starts = {variant: runs[place]["monitor"][0] for variant, runs in results.items()}
        first, *others = starts
        odd = [variant for variant in others if starts[variant] != starts[first]]
        if odd:
            notes.append(f"seed {seed}: after warm-up {', '.join(odd)} differ from {first}")
    files = [directory(variant, seed) / "config.json" for variant in results for seed in seeds]
    revisions = {json.loads(file.read_text())["revision"] for file in files}
    if len(revisions) > 1:
        notes.append(f"the runs are of {len(revisions)} revisions: {', '.join(sorted(revisions))}")
    return notes


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/arithmetic.py")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="separated by commas")
    parser.add_argument("--variants", default=f"bstar,online_rft,{FILTER}")
    parser.add_argument("--overrides", default="", help="further flags of main, in one string")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/compare"))
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--cpus", default="", help="cores to pin to; default the first free ones")
    parser.add_argument("--any-device", dest="cpu_only", action="store_false", help="not CPU alone")
    parser.add_argument("--any-budget", action="store_true", help="let budgets differ")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.seeds = [int(seed) for seed in arguments.seeds.split(",")]
    arguments.variants = arguments.variants.split(",")
    usable = [str(core) for core in sorted(os.sched_getaffinity(0))]
    arguments.cpus = (arguments.cpus.split(",") if arguments.cpus else usable)[: arguments.parallel]
    if FILTER in arguments.variants and "bstar" not in arguments.variants:
        parser.error(f"{FILTER} takes its filter from the bstar runs: add bstar to --variants")
    return arguments


def main():
    arguments = parse()
    output = arguments.output.absolute()

    def directory(variant, seed):
        return output / f"{variant}-{seed}"

    jobs = [(variant, seed) for seed in arguments.seeds for variant in arguments.variants]
    run_all([job for job in jobs if job[0] != FILTER], arguments, directory)
    run_all([job for job in jobs if job[0] == FILTER], arguments, directory)
    results = {
        variant: [read_run(directory(variant, seed)) for seed in arguments.seeds]
        for variant in arguments.variants
    }
    if not arguments.any_budget:
        check_budgets(results)
    print("\n## By iteration: mean over seeds (smallest to largest)\n")
    print(metrics_table(results))
    for variant in arguments.variants:
        if results[variant][0]["calibration_responses"]:
            print(f"## Cells chosen by {variant}\n")
            print(choices_table(results[variant], arguments.seeds))
    notes = caveats(results, arguments.seeds, directory)
    record = {"seeds": arguments.seeds, "runs": results, "caveats": notes}
    if FILTER in arguments.variants:
        runs = [directory("bstar", seed) for seed in arguments.seeds]
        record["filter"] = dict(zip(CHOICE[2:], chosen_filter(runs), strict=True))
        print(f"Filter of {FILTER}: {record['filter']}\n")
    print("".join(f"CAVEAT: {note}\n" for note in notes))
    print("## Gain from warm-up to the last iteration\n")
    print(gains_table(results, arguments.seeds))
    print("## Cost\n")
    print(cost_table(results, arguments.seeds))
    if arguments.json:
        launching.write_json(arguments.json, record)


if __name__ == "__main__":
    main()
