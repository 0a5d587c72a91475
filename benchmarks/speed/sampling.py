"""Compares our engine with Transformers' `generate` and Tunix's sampler: same weights, same work.

    python -m benchmarks.speed.sampling --tunix-python=VENV/bin/python --json=sampling.json
    python -m benchmarks.speed.sampling --workloads=A --repeats=1 --small
    python -m benchmarks.speed.sampling --workloads=B --progress=B.json ...     # B takes two hours

Tunix needs an environment of its own (`pip install google-tunix`), Transformers needs torch beside
it (`--transformers-python`, by default this interpreter); a side is left out where its flag is
empty. Every side is a program of its own that stays up and times itself; the sides take turns, so
that load on the machine falls on all. `workloads` has the workloads, and what the machine must at
least do for them; `peers` has what a side is asked.

    tokens/s                kept tokens by seconds from prompts to tokens on the host: the median of
                            the repeats [smallest, largest]
    with compilation        the same for a first call; for C every repeat is one
    ratio                   ours to a peer's, taken within a repeat: median [smallest, largest]
    matmul bound            tokens/s if the products of the work ran as a large f32 product does
    bound                   the same where memory may be what a step waits for, at our slots
    utilisation             kept tokens / rows that took part in decode steps, one a row and step
    idle                    seconds in which our host had queued nothing on the device

Every batch size of the workload is tried in a short run first, and each side goes on with its best.
C has eight temperatures in one call: Tunix compiles for each, our engine once.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import figures
from benchmarks.figures import Notebook, Spread
from benchmarks.speed import peers, workloads
from benchmarks.speed.peers import Peer

Record = dict[str, Any]
Turn = dict[str, Record]  # what every side answered to the same request


def measure(
    sides: dict[str, Peer], name: str, repeats: int, small: bool, notebook: Notebook
) -> Record:
    """Measures all sides on one workload, and goes on from what the notebook has of it."""
    workload = workloads.load(name, small)
    ask = {"workload": name, "small": small}
    empty = {"calibrations": {}, "cold": [], "warm": []}
    done = notebook.record.setdefault(name, empty)
    if done["calibrations"].keys() != sides.keys():
        done["calibrations"] = {
            side: peer.ask(do="calibrate", **ask) for side, peer in sides.items()
        }
    batches = {side: done["calibrations"][side]["batch"] for side in sides}

    def turn(kind: str) -> Turn:
        answers = {}
        for side, peer in sides.items():
            answer = peer.ask(do="run", batch=batches[side], cold=kind == "cold", **ask)
            if answer["tokens"] != workload.kept:
                raise SystemExit(
                    f"{side}: {answer['tokens']} tokens on {name}, not {workload.kept}"
                )
            answer["rate"] = workload.kept / answer["seconds"]
            answers[side] = answer
            print(f"{name} {side} {kind}: {answer['rate']:.0f} tokens/s", file=sys.stderr)
        return answers

    turns = {"cold": repeats, "warm": 1} if workload.cold else {"cold": 1, "warm": repeats}
    for kind, wanted in turns.items():
        while len(done[kind]) < wanted:
            done[kind].append(turn(kind))
            notebook.save()
    record = summary(workload, list(sides), done["cold"], done["warm"])
    return record | {"batch": batches, "calibrations": done["calibrations"]}


def summary(
    workload: workloads.Workload, sides: Sequence[str], cold: Sequence[Turn], warm: Sequence[Turn]
) -> Record:
    """The figures of a workload: keys of a side begin with its name."""
    counted = cold if workload.cold else warm
    record: Record = {"counts": "with compilation" if workload.cold else "without compilation"}
    rates = {side: [turn[side]["rate"] for turn in counted] for side in sides}
    for side in sides:
        first = warm[0][side]
        record |= Spread.of(rates[side]).entries(side)
        record |= {
            f"{side}_with_compilation": statistics.median(turn[side]["rate"] for turn in cold),
            f"{side}_without_compilation": statistics.median(turn[side]["rate"] for turn in warm),
            f"{side}_utilisation": first["tokens"] / first["slot_steps"],
            f"{side}_peak_bytes": max(turn[side]["peak_bytes"] for turn in [*cold, *warm]),
        }
        if side != "ours":
            record |= Spread.of_ratios(rates["ours"], rates[side]).entries(f"ratio_to_{side}")
    ours = [turn["ours"] for turn in counted]
    return record | {
        "idle_seconds": statistics.median(run["idle_seconds"] for run in ours),
        "slots": ours[0]["slots"],
        "kept_tokens": workload.kept,
        "runs": {
            side: {
                "cold": [turn[side] for turn in cold],
                "warm": [turn[side] for turn in warm],
            }
            for side in sides
        },
    }


def machine_rates(sides: dict[str, Peer]) -> Turn:
    """Operations and bytes a second that every side reaches now."""
    return {side: peer.ask(do="rates") for side, peer in sides.items()}


def add_bounds(record: Record, name: str, small: bool, rates: dict[str, float]) -> None:
    """Adds what the machine allows, from its rates of operations and bytes."""
    workload = workloads.load(name, small)
    slots = min(record["slots"], workload.rows)
    record |= workloads.bounds(workload, slots, rates["matmul"], rates["copy"])
    record["achieved"] = record["ours"] / record["bound"]


def sides_table(results: dict[str, Record], sides: Sequence[str]) -> str:
    """The sides beside each other, a line a workload and side."""
    rows = []
    for name, record in results.items():
        for side in sides:
            ratio = None if side == "ours" else Spread.from_entries(record, f"ratio_to_{side}")
            rows.append(
                [
                    name,
                    side,
                    record["batch"][side],
                    f"{Spread.from_entries(record, side):,.0f}",
                    f"{record[f'{side}_with_compilation']:,.0f}",
                    f"{record[f'{side}_without_compilation']:,.0f}",
                    peers.ratio_text(ratio),
                    f"{record[f'{side}_utilisation']:.0%}",
                    f"{record[f'{side}_peak_bytes'] / 2**20:,.0f}",
                ]
            )
    header = (
        "workload,side,batch,tokens/s,with compilation,without,ours is,utilisation,peak MiB so far"
    )
    return figures.table(header.split(","), rows)


def bounds_table(results: dict[str, Record]) -> str:
    """What the machine allows, and how much of it our engine has."""
    rows = [
        [
            name,
            record["slots"],
            f"{record['operations_a_step'] / 1e9:.2f}",
            f"{record['bytes_a_step'] / 2**20:.0f}",
            f"{record['matmul_bound']:,.0f}",
            f"{record['bound']:,.0f}",
            f"{record['achieved']:.0%}",
            f"{record['idle_seconds']:.2f}",
        ]
        for name, record in results.items()
    ]
    header = "workload,slots,GFLOP a step,MiB a step,matmul bound,bound,achieved,idle s"
    return figures.table(header.split(","), rows)


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    parser.add_argument("--workloads", default="A,B,C", help="some of A,B,C")
    parser.add_argument("--repeats", type=int, default=5, help="alternating repeats, 5 or more")
    peers.add_flags(parser)
    parser.add_argument("--small", action="store_true", help="tiny workloads; no figures to keep")
    parser.add_argument(
        "--progress", type=pathlib.Path, help="keep each turn here, and go on from what is there"
    )
    arguments = parser.parse_args()
    arguments.workloads = arguments.workloads.split(",")
    if set(arguments.workloads) - set("ABC"):
        parser.error(f"--workloads is {','.join(arguments.workloads)}; there are A, B and C")
    if arguments.repeats < 5 and not arguments.small:
        parser.error(f"--repeats is {arguments.repeats}; medians need 5 or more (or --small)")
    return arguments


def main() -> None:
    """Measures all workloads, prints the tables and writes the figures."""
    arguments = parse()
    notebook = Notebook(arguments.progress, {"rates": []})
    measured: list[Turn] = notebook.record["rates"]
    with tempfile.TemporaryDirectory() as folder:
        sides = peers.start_all(arguments, pathlib.Path(folder))
        measured.append(machine_rates(sides))
        results = {}
        for name in arguments.workloads:
            results[name] = measure(sides, name, arguments.repeats, arguments.small, notebook)
            measured.append(machine_rates(sides))
            notebook.save()
        machine = peers.close_all(sides)
    # What the machine can do is the best that any side was seen to reach.
    rates = {
        kind: max(one[kind] for turn in measured for one in turn.values())
        for kind in ("matmul", "copy")
    }
    for name, record in results.items():
        add_bounds(record, name, arguments.small, rates)
    print(
        f"{machine['cores']} cores; product of 2048 x 2048 f32 at {rates['matmul'] / 1e9:.0f} "
        f"GFLOP/s, copy at {rates['copy'] / 1e9:.1f} GB/s, the best of all sides and times"
    )
    print(f"\n{sides_table(results, list(sides))}\n\n{bounds_table(results)}")
    machine |= {"rates": measured, "small": arguments.small}
    figures.write(arguments.json, {**results, "machine": machine})


if __name__ == "__main__":
    main()
