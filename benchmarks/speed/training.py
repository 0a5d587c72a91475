r"""Compares our optimizer step with Transformers' and Tunix's: same weights, same batch.

    python -m benchmarks.speed.training --transformers-python=TORCH/bin/python \
        --tunix-python=TUNIX/bin/python --json=training.json
    python -m benchmarks.speed.training --repeats=1                  # to see that all works

`workloads` has model and batch: 16 texts of 256 tokens, f32. Every side is a program of its own
that stays up and times itself; they take turns, so that load on the machine falls on all. A side
computes the rows of a step at once or some after another, whichever is faster for it.

    tokens/s     tokens of the batch by seconds of a step: the median [smallest, largest]
    ratio        ours to a peer's, taken within a repeat: median [smallest, largest]
    share        operations of a step (`workloads.train_operations`) by its seconds, of the rate
                 that a large f32 product had in the same repeat, the best of all sides
    CPU share    the same by processor seconds, which other work on the machine changes less

The losses of the first two steps must agree. `memory` holds the bytes that our step needs beside
its state with a vocabulary of 151,936, with the fused loss and without it.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import figures
from benchmarks.figures import Spread
from benchmarks.speed import peers, workloads
from benchmarks.speed.peers import Peer

MICRO_ROWS = (16, 4)
MOST_LOSS_DIFFERENCE = 1e-3
Record = dict[str, Any]


def calibrate(sides: dict[str, Peer]) -> dict[str, int]:
    """Rows at once that each side is fastest with, after a step that compiles.

    Raises:
      SystemExit: If the losses of the sides differ.
    """
    chosen, losses = {}, dict[tuple[str, int], tuple[float, float]]()
    for name, peer in sides.items():
        seconds = dict[int, float]()
        for rows in MICRO_ROWS:
            first = peer.ask(do="train", micro_rows=rows)
            second = peer.ask(do="train", micro_rows=rows)
            losses[name, rows] = first["loss"], second["loss"]
            seconds[rows] = second["seconds"]
        chosen[name] = min(seconds, key=lambda rows, seconds=seconds: seconds[rows])
        print(f"{name}: seconds by rows at once {seconds}", file=sys.stderr)
    ours = losses["ours", MICRO_ROWS[0]]
    for (name, rows), values in losses.items():
        difference = max(abs(a - b) for a, b in zip(values, ours, strict=True))
        if not difference <= MOST_LOSS_DIFFERENCE:
            raise SystemExit(f"{name}, {rows} rows at once: losses {values} are not ours, {ours}")
    return chosen


def measure(sides: dict[str, Peer], micro_rows: dict[str, int], repeats: int) -> list[Record]:
    """Repeats a step of every side, and what the machine can do just then."""
    turns = []
    for _ in range(repeats):
        rates = [peer.ask(do="rates") for peer in sides.values()]
        turn = {
            name: peer.ask(do="train", micro_rows=micro_rows[name]) for name, peer in sides.items()
        }
        machine = {key: max(rate[key] for rate in rates) for key in ("matmul", "matmul_cpu")}
        turns.append({"sides": turn, "machine": machine})
        seconds = {name: round(each["seconds"], 2) for name, each in turn.items()}
        print(seconds, machine, file=sys.stderr)
    return turns


def summary(turns: Sequence[Record]) -> Record:
    """The figures of every side."""
    tokens = workloads.TRAIN_ROWS * workloads.TRAIN_TOKENS
    operations = workloads.train_operations()
    record: Record = {"operations_a_step": operations, "tokens_a_step": tokens}

    def shares(name: str, seconds: str, rate: str) -> Spread:
        return Spread.of(
            operations / turn["sides"][name][seconds] / turn["machine"][rate] for turn in turns
        )

    def seconds(name: str) -> list[float]:
        return [turn["sides"][name]["seconds"] for turn in turns]

    for name in turns[0]["sides"]:
        record[name] = {
            "peak_bytes": max(turn["sides"][name]["peak_bytes"] for turn in turns),
            **Spread.of(tokens / each for each in seconds(name)).entries("tokens_per_second"),
            **shares(name, "seconds", "matmul").entries("share"),
            **shares(name, "cpu_seconds", "matmul_cpu").entries("cpu_share"),
        }
        if name != "ours":
            record[name] |= Spread.of_ratios(seconds(name), seconds("ours")).entries("ours_is")
    return record


def sides_table(record: Record, micro_rows: dict[str, int]) -> str:
    """The sides beside each other."""
    rows = []
    for name, at_once in micro_rows.items():
        side = record[name]
        ratio = None if name == "ours" else Spread.from_entries(side, "ours_is")
        rows.append(
            [
                name,
                at_once,
                f"{Spread.from_entries(side, 'tokens_per_second'):,.0f}",
                peers.ratio_text(ratio),
                f"{side['share']:.0%}",
                f"{side['cpu_share']:.0%}",
                f"{side['peak_bytes'] / 2**20:,.0f}",
            ]
        )
    header = "side,rows at once,tokens/s,ours is,share,CPU share,peak MiB"
    return figures.table(header.split(","), rows)


def main() -> None:
    """Measures all sides, prints the table and writes the figures."""
    parser = figures.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="alternating repeats")
    peers.add_flags(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = peers.start_all(arguments, pathlib.Path(folder))
        micro_rows = calibrate(sides)
        turns = measure(sides, micro_rows, arguments.repeats)
        memory = sides["ours"].ask(do="memory")
        machine = peers.close_all(sides)
    record = summary(turns)
    print(f"\n{sides_table(record, micro_rows)}\n")
    fused, plain = (memory[name] / 2**20 for name in ("fused", "plain"))
    print(
        f"vocabulary {memory['vocabulary']:,}, {memory['tokens']:,} tokens: {fused:,.0f} MiB "
        f"beside the state with the fused loss, {plain:,.0f} MiB without"
    )
    record |= {"micro_rows": micro_rows, "memory": memory, "machine": machine, "turns": turns}
    figures.write(arguments.json, record)


if __name__ == "__main__":
    main()
