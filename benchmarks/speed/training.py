"""Our optimizer step, Transformers' under torch, and Tunix's: same weights, same batch, one run.

    python -m benchmarks.speed.training --transformers-python=... --tunix-python=...
    python -m benchmarks.speed.training --repeats=1                  # to see that all works

Model and batch stand in `workloads`: 16 texts of 256 tokens, f32. Every side is a program of its
own that stays up and times itself; they take turns, so that a load on the machine falls on all.
A side computes the rows of a step at once or some after another, whichever is faster for it.

    tokens/s     tokens of the batch by seconds of a step: the median [smallest, largest]
    ratio        ours to a peer's, taken within a repeat: median [smallest, largest]
    share        operations of a step (`workloads.train_operations`) by its seconds, of the rate
                 that a large f32 product had in the same repeat, the best of all sides
    CPU share    the same by processor seconds, which other work on the machine changes less

The losses of the first two steps must agree. `memory` holds the bytes that our step needs beside
its state with 151,936 words, with the fused loss and without it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

from benchmarks.speed import workloads
from benchmarks.speed.sampling import started

MICRO_ROWS = (16, 4)
MOST_LOSS_DIFFERENCE = 1e-3


def spread(values: list[float]) -> tuple[float, list[float]]:
    """Median, and [smallest, largest]."""
    return statistics.median(values), [min(values), max(values)]


def calibrated(sides: dict) -> dict:
    """Rows at once that each side is fastest with, after a step that compiles.

    Raises:
      SystemExit: If the sides do not learn alike.
    """
    chosen, losses = {}, {}
    for name, peer in sides.items():
        seconds = {}
        for rows in MICRO_ROWS:
            first = peer.ask(do="train", micro_rows=rows)
            second = peer.ask(do="train", micro_rows=rows)
            losses[name, rows] = first["loss"], second["loss"]
            seconds[rows] = second["seconds"]
        chosen[name] = min(seconds, key=seconds.get)
        print(f"{name}: seconds by rows at once {seconds}", file=sys.stderr)
    ours = losses["ours", MICRO_ROWS[0]]
    for (name, rows), values in losses.items():
        difference = max(abs(a - b) for a, b in zip(values, ours, strict=True))
        if not difference <= MOST_LOSS_DIFFERENCE:
            raise SystemExit(f"{name}, {rows} rows at once: losses {values} are not ours, {ours}")
    return chosen


def measure(sides: dict, micro_rows: dict, repeats: int) -> list[dict]:
    """Repeats of: a step of every side, and what the machine can do just then."""
    turns = []
    for _ in range(repeats):
        rates = [peer.ask(do="rates") for peer in sides.values()]
        turn = {
            name: peer.ask(do="train", micro_rows=micro_rows[name]) for name, peer in sides.items()
        }
        machine = {key: max(rate[key] for rate in rates) for key in ("matmul", "matmul_cpu")}
        turns.append({"sides": turn, "machine": machine})
        print(
            {name: round(each["seconds"], 2) for name, each in turn.items()}, machine,
            file=sys.stderr,
        )  # fmt: skip
    return turns


def summary(turns: list[dict]) -> dict:
    """The figures of every side."""
    tokens = workloads.TRAIN_ROWS * workloads.TRAIN_TOKENS
    operations = workloads.train_operations()
    record = {"operations_a_step": operations, "tokens_a_step": tokens}
    for name in turns[0]["sides"]:
        steps = [turn["sides"][name] for turn in turns]
        machines = [turn["machine"] for turn in turns]
        rates = [tokens / step["seconds"] for step in steps]
        shares = [
            operations / step["seconds"] / machine["matmul"]
            for step, machine in zip(steps, machines, strict=True)
        ]
        by_cpu = [
            operations / step["cpu_seconds"] / machine["matmul_cpu"]
            for step, machine in zip(steps, machines, strict=True)
        ]
        ratios = [
            step["seconds"] / turn["sides"]["ours"]["seconds"]
            for step, turn in zip(steps, turns, strict=True)
        ]
        figures = {"tokens_per_second": rates, "share": shares, "cpu_share": by_cpu}
        if name != "ours":
            figures["ours_is"] = ratios
        record[name] = {"peak_bytes": max(step["peak_bytes"] for step in steps)}
        for key, values in figures.items():
            record[name][key], record[name][f"{key}_spread"] = spread(values)
    return record


def table(record: dict, micro_rows: dict) -> str:
    """The sides beside each other."""
    lines = [
        "| side | rows at once | tokens/s | ours is | share | CPU share | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in micro_rows.items():
        side = record[name]
        low, high = side["tokens_per_second_spread"]
        ratio = ""
        if name != "ours":
            ratio = "{:.2f} x [{:.2f}, {:.2f}]".format(side["ours_is"], *side["ours_is_spread"])
        lines.append(
            f"| {name} | {rows} | {side['tokens_per_second']:,.0f} [{low:,.0f}, {high:,.0f}] "
            f"| {ratio} | {side['share']:.0%} | {side['cpu_share']:.0%} "
            f"| {side['peak_bytes'] / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tunix-python", default="", help="interpreter that has google-tunix")
    parser.add_argument("--transformers-python", default=sys.executable)
    parser.add_argument("--json", type=pathlib.Path, help="write the record to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = started(arguments, pathlib.Path(folder))
        micro_rows = calibrated(sides)
        turns = measure(sides, micro_rows, arguments.repeats)
        memory = sides["ours"].ask(do="memory")
        facts = {name: peer.facts for name, peer in sides.items()}
        for peer in sides.values():
            peer.close()
    record = summary(turns)
    print(f"\n{table(record, micro_rows)}\n")
    fused, plain = (memory[name] / 2**20 for name in ("fused", "plain"))
    print(
        f"{memory['words']:,} words, {memory['tokens']:,} tokens: {fused:,.0f} MiB beside "
        f"the state with the fused loss, {plain:,.0f} MiB without"
    )
    if arguments.json:
        machine = {"cores": len(os.sched_getaffinity(0)), "sides": facts}
        record |= {"micro_rows": micro_rows, "memory": memory, "machine": machine, "turns": turns}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
