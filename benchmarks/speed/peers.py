"""Sides that `sampling` and `training` compare: each a program of its own that times itself.

A request is a line of JSON on standard input, the answer a line on standard output; weights and the
logits to agree with go through an .npz file. So no interpreter ever holds two frameworks.

    {"do": "rates"}                                          -> {"matmul": FLOP/s, "copy": B/s}
    {"do": "calibrate", "workload": "B", "small": false}     -> {"batch": 128, ...}
    {"do": "run", "workload": "B", "small": false, "batch": 128, "cold": true}
                                                             -> {"seconds": ..., "tokens": ...}
    {"do": "train", "micro_rows": 4}                         -> {"seconds": ..., "loss": ...}
    {"do": "memory"}                                         -> {"fused": bytes, "plain": bytes}
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks import figures

MOST_LOGIT_DIFFERENCE = 1e-3


class Peer:
    """A side's program, from outside.

    Attributes:
      name: ours, transformers or tunix.
      facts: What the side says of itself; see `side.Side`.
    """

    def __init__(self, name: str, python: str, weights: pathlib.Path, log: pathlib.Path):
        """Starts it and waits until it is ready.

        Raises:
          SystemExit: If it ends instead of answering, with the end of its log.
        """
        self.name, self._log = name, log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.speed.peer_{name}", str(weights)],
                cwd=figures.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.facts = self._read()

    def ask(self, **request: object) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self._read()

    def close(self) -> None:
        """Ends it."""
        self._requests.close()
        self._answers.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            self._process.wait()
            tail = self._log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{tail}")
        return json.loads(line)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name the interpreters of the peers."""
    parser.add_argument("--tunix-python", default="", help="interpreter that has google-tunix")
    parser.add_argument(
        "--transformers-python", default=sys.executable, help="interpreter that has torch"
    )


def start_all(arguments: argparse.Namespace, folder: pathlib.Path) -> dict[str, Peer]:
    """Starts the sides, ours first: it writes the weights that the others read.

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


def close_all(sides: dict[str, Peer]) -> dict[str, Any]:
    """Ends all sides and returns what a record says of them: cores, and their facts."""
    for peer in sides.values():
        peer.close()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "sides": {name: peer.facts for name, peer in sides.items()},
    }


def ratio_text(ratio: figures.Spread | None) -> str:
    """How many times faster ours is: "2.10 x [2.07, 2.12]"; "" of ours itself."""
    if ratio is None:
        return ""
    return f"{ratio.median:.2f} x [{ratio.smallest:.2f}, {ratio.largest:.2f}]"
