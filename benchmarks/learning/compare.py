r"""Runs variants of a config over seeds at equal budgets, and tabulates them by iteration.

    python -m benchmarks.learning.compare --output=runs/compare --json=runs/compare.json
    python -m benchmarks.learning.compare --seeds=5,6 --variants=bstar,online_rft \
        --overrides='--config.loop.iterations=2'

Variants are those of the config file (`--config=FILE:VARIANT`), and one that is made here:

    online_rft_filter    online_rft with the process reward; threshold and process weight are held
                         at the values that the bstar runs chose most often

so that the gain of balancing stands beside that of filtering alone. Every process is pinned to one
core, `--parallel` at a time. Finished runs are kept and unfinished ones resumed, so the same
command goes on where it stopped. Budgets (optimizer steps, generated responses) must be equal;
calibration samples come on top and are shown. Prints, as Markdown: the mean over seeds with the
smallest and largest by iteration, the choices, the gain of each seed, wall time and memory.

The default five seeds and three variants are 15 runs, each some minutes on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import figures, launching
from benchmarks.learning import comparison
from benchmarks.learning.comparison import CHOICE, Results

FILTER = "online_rft_filter"


@dataclasses.dataclass(frozen=True)
class Runs:
    """Where the runs are, and how they are made.

    Attributes:
      config: Config file, without a variant.
      overrides: Further flags of every run.
      seeds: Seeds of every variant.
      output: Folder of all run directories.
      cpus: Cores to pin to; as many runs at a time.
      environment: Environment variables that every run gets.
    """

    config: str
    overrides: Sequence[str]
    seeds: Sequence[int]
    output: pathlib.Path
    cpus: Sequence[str]
    environment: Mapping[str, str]

    def directory(self, variant: str, seed: int) -> pathlib.Path:
        """The run directory of a variant and seed."""
        return self.output / f"{variant}-{seed}"

    def chosen_filter(self) -> tuple[float, float]:
        """The threshold and process weight that most iterations of the bstar runs chose.

        Raises:
          SystemExit: If no bstar run has chosen anything.
        """
        runs = [self.directory("bstar", seed) for seed in self.seeds]
        files = [file for run in runs for file in sorted(run.glob("iterations/*/balance.json"))]
        if not files:
            raise SystemExit(f"{FILTER} takes its filter from bstar runs, and there is none")
        chosen = [json.loads(file.read_text())["chosen"] for file in files]
        counts = Counter((each["threshold"], each["process_weight"]) for each in chosen)
        return counts.most_common(1)[0][0]

    def command(self, variant: str, seed: int) -> list[str]:
        """The command of one run."""
        overrides = [f"--config.seed={seed}", *self.overrides]
        name = variant
        if variant == FILTER:
            name = "online_rft"
            threshold, weight = self.chosen_filter()
            fixed = {
                "--config.calibrate.thresholds": f"({threshold},)",
                "--config.calibrate.process_weights": f"({weight},)",
            }
            overrides = [flag for flag in overrides if flag.partition("=")[0] not in fixed]
            overrides += [f"{flag}={value}" for flag, value in fixed.items()]
        run = self.directory(variant, seed)
        return launching.main_command(f"{self.config}:{name}", run, overrides)


@dataclasses.dataclass(frozen=True)
class _Started:
    """A run under way, its core, and when it began on the monotonic clock."""

    process: subprocess.Popen[bytes]
    run: pathlib.Path
    cpu: str
    began: float


def run_all(jobs: Sequence[tuple[str, int]], runs: Runs) -> None:
    """Makes the runs of (variant, seed) pairs, each on a core of its own.

    Raises:
      SystemExit: If a run fails. The others save their state first; the same command resumes them.
    """
    waiting = [job for job in jobs if not launching.is_finished(runs.directory(*job))]
    free, running = list(runs.cpus), dict[int, _Started]()
    while waiting or running:
        while waiting and free:
            variant, seed = waiting.pop(0)
            started = _start(runs, variant, seed, free.pop(0))
            running[started.process.pid] = started
        pid, status, usage = os.wait3(0)
        ended = running.pop(pid)
        code = ended.process.returncode = os.waitstatus_to_exitcode(status)
        free.append(ended.cpu)
        note_process(ended.run, time.monotonic() - ended.began, usage.ru_maxrss * 1024, code)
        if code:
            for other in running.values():
                other.process.terminate()
            for other in running.values():
                other.process.wait()
            raise SystemExit(f"{ended.run} ended with exit code {code}, see {ended.run}.log")


def _start(runs: Runs, variant: str, seed: int, cpu: str) -> _Started:
    run = runs.directory(variant, seed)
    command = launching.pinned(runs.command(variant, seed), cpu)
    process = launching.start(command, run.with_name(f"{run.name}.log"), runs.environment)
    print(f"{time.strftime('%H:%M:%S')} core {cpu}: {variant} seed {seed}", flush=True)
    return _Started(process, run, cpu, time.monotonic())


def note_process(run: pathlib.Path, wall_seconds: float, peak_bytes: int, code: int) -> None:
    """Adds a process to RUN.processes.json: what a resumed run cost is the sum of several."""
    processes = comparison.read_processes(run)
    process = {"wall_seconds": wall_seconds, "peak_bytes": peak_bytes, "exit_code": code}
    figures.write_json(comparison.processes_file(run), [*processes, process])


def check_budgets(results: Results) -> None:
    """Stops unless all runs took as many optimizer steps and generated as many responses.

    Raises:
      SystemExit: If they did not.
    """
    budgets = {(run["steps"], run["responses"]) for runs in results.values() for run in runs}
    if len(budgets) > 1:
        raise SystemExit(f"budgets differ: (optimizer steps, generated responses) {budgets}")


def caveats(
    results: Results, seeds: Sequence[int], directory: Callable[[str, int], pathlib.Path]
) -> list[str]:
    """What makes the runs less comparable than they look."""
    notes = []
    for index, seed in enumerate(seeds):
        starts = {variant: runs[index]["monitor"][0] for variant, runs in results.items()}
        first, *others = starts
        odd = [variant for variant in others if starts[variant] != starts[first]]
        if odd:
            notes.append(f"seed {seed}: after warm-up {', '.join(odd)} differ from {first}")
    files = [directory(variant, seed) / "config.json" for variant in results for seed in seeds]
    revisions = {json.loads(file.read_text())["revision"] for file in files}
    if len(revisions) > 1:
        notes.append(f"the runs are of {len(revisions)} revisions: {', '.join(sorted(revisions))}")
    return notes


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    launching.add_run_flags(parser, workdir=False)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="separated by commas")
    parser.add_argument(
        "--variants", default=f"bstar,online_rft,{FILTER}", help="separated by commas"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs/compare"), help="holds all runs"
    )
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--cpus", default="", help="cores to pin to, separated by commas; by default the first free"
    )
    parser.add_argument(
        "--any-device", dest="cpu_only", action="store_false", help="let runs use accelerators"
    )
    parser.add_argument("--any-budget", action="store_true", help="let budgets differ")
    arguments = parser.parse_args()
    arguments.seeds = [int(seed) for seed in arguments.seeds.split(",")]
    arguments.variants = arguments.variants.split(",")
    usable = [str(core) for core in sorted(os.sched_getaffinity(0))]
    arguments.cpus = (arguments.cpus.split(",") if arguments.cpus else usable)[: arguments.parallel]
    if FILTER in arguments.variants and "bstar" not in arguments.variants:
        parser.error(f"{FILTER} takes its filter from the bstar runs: add bstar to --variants")
    return arguments


def main() -> None:
    """Makes the runs that are missing, prints the tables and writes the figures."""
    arguments = parse()
    seeds: list[int] = arguments.seeds
    runs = Runs(
        config=arguments.config,
        overrides=shlex.split(arguments.overrides),
        seeds=seeds,
        output=arguments.output.absolute(),
        cpus=arguments.cpus,
        environment={"JAX_PLATFORMS": "cpu"} if arguments.cpu_only else {},
    )
    jobs = [(variant, seed) for seed in seeds for variant in arguments.variants]
    run_all([job for job in jobs if job[0] != FILTER], runs)
    run_all([job for job in jobs if job[0] == FILTER], runs)  # its filter is what the others chose
    results = {
        variant: [comparison.read_run(runs.directory(variant, seed)) for seed in seeds]
        for variant in arguments.variants
    }
    if not arguments.any_budget:
        check_budgets(results)
    notes = caveats(results, seeds, runs.directory)
    record: dict[str, Any] = {"seeds": seeds, "runs": results, "caveats": notes}
    if FILTER in results:
        record["filter"] = dict(zip(CHOICE[2:], runs.chosen_filter(), strict=True))
        notes = [f"filter of {FILTER}: {record['filter']}", *notes]
    comparison.show(results, seeds, notes)
    figures.write(arguments.json, record)


if __name__ == "__main__":
    main()
