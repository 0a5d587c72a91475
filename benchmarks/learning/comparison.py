"""What `compare` reads of its runs, and the tables that it prints."""

from __future__ import annotations

import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import figures, launching

CHOICE = ("temperature", "top_k", "threshold", "process_weight")
Results = dict[str, list[dict[str, Any]]]  # of every variant the runs, a seed each


def metric_names(run: pathlib.Path) -> list[str]:
    """The metrics shown: pass@1, greedy, and those at the run's largest K."""
    settings = launching.read_config(run)["monitor"]
    k, s = max(settings["ks"]), settings["s"]
    return ["pass@1", "greedy", f"pass@{k}", f"pass@{k}-{s}", f"reward@{k}-{s}", "diversity"]


def processes_file(run: pathlib.Path) -> pathlib.Path:
    """Where the cost of a run's processes is noted, beside the run directory."""
    return run.with_name(f"{run.name}.processes.json")


def read_processes(run: pathlib.Path) -> list[dict[str, Any]]:
    """What the processes of a run cost: wall seconds, peak bytes, exit code."""
    file = processes_file(run)
    return json.loads(file.read_text()) if file.exists() else []


def read_run(run: pathlib.Path) -> dict[str, Any]:
    """What the tables need of one run."""
    rows = launching.metrics_rows(run)
    by_phase = {
        phase: [row for (_, name, _), row in sorted(rows.items(), key=_order) if name == phase]
        for phase in ("monitor", "calibrate", "generate", "improve")
    }
    config, processes = launching.read_config(run), read_processes(run)
    improved = {row["iteration"]: row["step"] for row in by_phase["improve"]}
    section = config["calibrate"]
    cells = len(section["temperatures"]) * len(section["top_ks"])
    searched = len(list(run.glob("iterations/*/balance.json")))
    return {
        "monitor": [
            {name: row.get(name) for name in metric_names(run)} for row in by_phase["monitor"]
        ],
        "choices": [{name: row[name] for name in CHOICE} for row in by_phase["calibrate"]],
        "steps": config["sft"]["steps"] + sum(improved.values()),
        "responses": sum(row["responses"] for row in by_phase["generate"]),
        "calibration_responses": cells * section["queries"] * section["responses"] * searched,
        "wall_seconds": sum(process["wall_seconds"] for process in processes) or None,
        "peak_bytes": max((process["peak_bytes"] for process in processes), default=None),
        "processes": len(processes),
    }


def _order(item: tuple[tuple[int, str, int | None], object]) -> tuple[int, str, int]:
    (iteration, phase, step), _ = item
    return iteration, phase, -1 if step is None else step


def show(results: Results, seeds: Sequence[int], notes: Sequence[str]) -> None:
    """Prints all tables; `notes` stand before the gains, which they bear on."""
    print("\n## By iteration: mean over seeds (smallest to largest)\n")
    print(metrics_table(results), "\n")
    for variant, runs in results.items():
        if runs[0]["calibration_responses"]:
            print(f"## Cells chosen by {variant}\n")
            print(choices_table(runs, seeds), "\n")
    print("".join(f"NOTE: {note}\n" for note in notes))
    print("## Gain from warm-up to the last iteration\n")
    print(gains_table(results, seeds), "\n")
    print("## Cost\n")
    print(cost_table(results, seeds))


def mean_and_range(values: Sequence[float | None]) -> str:
    """The mean of what is known, with the smallest and the largest."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})"


def metrics_table(results: Results) -> str:
    """Every variant and iteration: mean over seeds, smallest to largest."""
    names = _names(results)
    rows = [
        [
            variant,
            iteration,
            *(mean_and_range([run["monitor"][iteration][name] for run in runs]) for name in names),
        ]
        for variant, runs in results.items()
        for iteration in range(len(runs[0]["monitor"]))
    ]
    return figures.table(["variant", "iteration", *names], rows)


def choices_table(runs: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """The cell that each seed chose, by iteration."""
    cells = [
        [
            f"T {choice['temperature']:g} k {choice['top_k']} > {choice['threshold']:g} "
            f"w {choice['process_weight']:g}"
            for choice in run["choices"]
        ]
        for run in runs
    ]
    rows = [[iteration, *chosen] for iteration, chosen in enumerate(zip(*cells, strict=True), 1)]
    return figures.table(["iteration", *_columns(seeds)], rows)


def gains_table(results: Results, seeds: Sequence[int]) -> str:
    """Last iteration less warm-up, in percentage points, for each seed."""
    rows = []
    for variant, runs in results.items():
        for name in _names(results):
            ends = [(run["monitor"][0][name], run["monitor"][-1][name]) for run in runs]
            gains = [None if None in pair else 100 * (pair[1] - pair[0]) for pair in ends]
            known = [gain for gain in gains if gain is not None]
            mean = f"{statistics.mean(known):+.1f}" if known else "-"
            cells = ["-" if gain is None else f"{gain:+.1f}" for gain in gains]
            rows.append([variant, name, *cells, mean])
    return figures.table(["variant", "gain in points", *_columns(seeds), "mean"], rows)


def cost_table(results: Results, seeds: Sequence[int]) -> str:
    """What every run cost."""
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
        "variant,seed,optimizer steps,generated responses,calibration responses,"
        "wall s,peak MiB,processes"
    )
    return figures.table(header.split(","), rows)


def _names(results: Results) -> list[str]:
    return list(next(iter(results.values()))[0]["monitor"][0])


def _columns(seeds: Sequence[int]) -> list[str]:
    return [f"seed {seed}" for seed in seeds]
