"""Our engine, Transformers' `generate` and Tunix's sampler: same weights, same work, one run.

    python -m benchmarks.speed.sampling --tunix-python=VENV/bin/python --json=sampling.json
    python -m benchmarks.speed.sampling --workloads=A --repeats=1 --small
    python -m benchmarks.speed.sampling --workloads=B --progress=B.json ...      # B takes two hours

Tunix needs an environment of its own (`pip install google-tunix`), Transformers torch beside it
(`--transformers-python`, by default this interpreter); either is left out where its flag is empty.
Every side is a program of its own that stays up and times itself; the sides take turns, so that a
load on the machine falls on all. Workloads, and what the machine must at least do for them, are in
`workloads`; what a side is asked, in `peers`.

    tokens/s                kept tokens by seconds from prompts to tokens on the host: the median of
                            the repeats [smallest, largest]
    with compilation        the same for a first call; for C every repeat is one
    ratio                   ours to a peer's, taken within a repeat: median [smallest, largest]
    matmul bound            tokens/s if the products of the work ran as a large f32 product does
    bound                   the same where memory may be what a step waits for, at our slots
    utilisation             kept tokens / rows that took part in decode steps, one a row and step
    idle                    seconds in which our host had queued nothing on the device

Every batch size of the workload is tried in a short run first, and each side goes on with its
best. C has eight temperatures in one call: Tunix compiles for each, our engine once.
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
from benchmarks.speed.peers import Peer

MOST_LOGIT_DIFFERENCE = 1e-3


class Progress:
    """What was measured so far; after every turn of all sides it is on disk, if anywhere."""

    def __init__(self, path: pathlib.Path | None):
        self._path = path
        is_there = path is not None and path.exists()
        self.record = json.loads(path.read_text()) if is_there else {"rates": []}

    def of(self, name: str) -> dict:
        """The measurements of a workload: {"calibrations": ..., "cold": [...], "warm": [...]}."""
        return self.record.setdefault(name, {"calibrations": {}, "cold": [], "warm": []})

    def save(self) -> None:
        if self._path is not None:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.record, indent=1) + "\n")
            os.replace(temporary, self._path)


def measure(sides: dict[str, Peer], name: str, repeats: int, small: bool, so_far: Progress) -> dict:
    """All sides on one workload: the record of the JSON file."""
    workload = workloads.load(name, small)
    ask = {"workload": name, "small": small}
    done = so_far.of(name)
    if done["calibrations"].keys() != sides.keys():
        done["calibrations"] = {
            side: peer.ask(do="calibrate", **ask) for side, peer in sides.items()
        }
    calibrations = done["calibrations"]
    batches = {side: calibrations[side]["batch"] for side in sides}

    def turn(kind):
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
        done[kind].append(answers)
        so_far.save()

    turns = {"cold": repeats, "warm": 1} if workload.cold else {"cold": 1, "warm": repeats}
    for kind, wanted in turns.items():
        while len(done[kind]) < wanted:
            turn(kind)
    runs = {
        side: {kind: [answers[side] for answers in done[kind]] for kind in ("cold", "warm")}
        for side in sides
    }
    record = {"counts": "with compilation" if workload.cold else "without compilation"}
    for side in sides:
        record |= rates_of(side, runs[side], workload.cold)
    ours = runs["ours"]["cold" if workload.cold else "warm"]
    for side in sides:
        theirs = runs[side]["cold" if workload.cold else "warm"]
        ratios = [a["rate"] / b["rate"] for a, b in zip(ours, theirs, strict=True)]
        if side != "ours":
            record[f"ratio_to_{side}"] = statistics.median(ratios)
            record[f"ratio_to_{side}_spread"] = [min(ratios), max(ratios)]
    record["idle_seconds"] = statistics.median(run["idle_seconds"] for run in ours)
    record["slots"] = ours[0]["slots"]
    record |= {"kept_tokens": workload.kept, "batch": batches, "calibrations": calibrations}
    return record | {"runs": runs}


def machine_rates(sides: dict[str, Peer]) -> dict[str, dict]:
    """Operations and bytes a second that every side reaches now."""
    return {side: peer.ask(do="rates") for side, peer in sides.items()}


def add_bounds(record: dict, name: str, small: bool, rates: dict) -> None:
    """Adds what the machine allows, from its rates of operations and bytes."""
    workload = workloads.load(name, small)
    slots = min(record["slots"], workload.rows)
    record |= workloads.bounds(workload, slots, rates["matmul"], rates["copy"])
    record["achieved"] = record["ours"] / record["bound"]


def rates_of(side: str, runs: dict, cold: bool) -> dict:
    """tokens/s of a side: its own key counts compilation where the workload does."""
    median = {
        kind: statistics.median(run["rate"] for run in records) for kind, records in runs.items()
    }
    counted = [run["rate"] for run in runs["cold" if cold else "warm"]]
    return {
        side: statistics.median(counted),
        f"{side}_spread": [min(counted), max(counted)],
        f"{side}_with_compilation": median["cold"],
        f"{side}_without_compilation": median["warm"],
        f"{side}_utilisation": runs["warm"][0]["tokens"] / runs["warm"][0]["slot_steps"],
        f"{side}_peak_bytes": max(run["peak_bytes"] for run in runs["cold"] + runs["warm"]),
    }


def table(results: dict, sides: list[str]) -> str:
    """The sides beside each other, a line a workload and side."""
    lines = [
        "| workload | side | batch | tokens/s | with compilation | without | ours is "
        "| utilisation | peak MiB so far |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, record in results.items():
        for side in sides:
            ratio = ""
            if side != "ours":
                low, high = record[f"ratio_to_{side}_spread"]
                ratio = f"{record[f'ratio_to_{side}']:.2f} x [{low:.2f}, {high:.2f}]"
            low, high = record[f"{side}_spread"]
            lines.append(
                f"| {name} | {side} | {record['batch'][side]} "
                f"| {record[side]:,.0f} [{low:,.0f}, {high:,.0f}] "
                f"| {record[f'{side}_with_compilation']:,.0f} "
                f"| {record[f'{side}_without_compilation']:,.0f} "
                f"| {ratio} | {record[f'{side}_utilisation']:.0%} "
                f"| {record[f'{side}_peak_bytes'] / 2**20:,.0f} |"
            )
    return "\n".join(lines)


def roofline(results: dict) -> str:
    """What the machine allows, and how much of it our engine has."""
    lines = [
        "| workload | slots | GFLOP a step | MiB a step | matmul bound | bound | achieved "
        "| idle s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, record in results.items():
        lines.append(
            f"| {name} | {record['slots']} | {record['operations_a_step'] / 1e9:.2f} "
            f"| {record['bytes_a_step'] / 2**20:.0f} | {record['matmul_bound']:,.0f} "
            f"| {record['bound']:,.0f} | {record['achieved']:.0%} "
            f"| {record['idle_seconds']:.2f} |"
        )
    return "\n".join(lines)


def started(arguments, folder: pathlib.Path) -> dict[str, Peer]:
    """The sides, ours first: it writes the weights that the others read.

    Raises:
      SystemExit: If a side's logits are not ours.
    """
    pythons = {
        "ours": sys.executable,
        "transformers": arguments.transformers_python,
        "tunix": arguments.tunix_python,
    }
    sides = {}
    for name, python in pythons.items():
        if not python:
            print(f"{name} is left out: --{name}-python is empty")
            continue
        sides[name] = Peer(name, python, folder / "weights.npz", folder / f"{name}.log")
        difference = sides[name].facts.get("logit_difference", 0.0)
        if not difference <= MOST_LOGIT_DIFFERENCE:
            raise SystemExit(f"{name}: logits differ from ours by {difference}: not the same model")
        print(f"{name}: {json.dumps(sides[name].facts)}")
    return sides


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default="A,B,C", help="some of A,B,C")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tunix-python", default="", help="interpreter that has google-tunix")
    parser.add_argument("--transformers-python", default=sys.executable)
    parser.add_argument("--small", action="store_true", help="tiny workloads; no figures to keep")
    parser.add_argument("--json", type=pathlib.Path, help="write the record to this file")
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
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        sides = started(arguments, pathlib.Path(folder))
        so_far = Progress(arguments.progress)
        measured = so_far.record["rates"]
        measured.append(machine_rates(sides))
        results = {}
        for name in arguments.workloads:
            results[name] = measure(sides, name, arguments.repeats, arguments.small, so_far)
            measured.append(machine_rates(sides))
            so_far.save()
        facts = {name: peer.facts for name, peer in sides.items()}
        for peer in sides.values():
            peer.close()
    # What the machine can do is the best it was seen to do.
    rates = {
        kind: max(one[kind] for turn in measured for one in turn.values())
        for kind in ("matmul", "copy")
    }
    for name, record in results.items():
        add_bounds(record, name, arguments.small, rates)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores; product of 2048 x 2048 f32 at {rates['matmul'] / 1e9:.0f} GFLOP/s, copy "
        f"at {rates['copy'] / 1e9:.1f} GB/s, the best of all sides and times"
    )
    print(f"\n{table(results, list(sides))}\n\n{roofline(results)}")
    if arguments.json:
        machine = {"cores": cores, "rates": measured, "sides": facts, "small": arguments.small}
        text = json.dumps({**results, "machine": machine}, indent=1)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
