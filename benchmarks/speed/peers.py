"""One program a framework: `sampling` or `training` asks, each answers with its own timings.

A request is a line of JSON on standard input, the answer a line on standard output; weights and
the logits to agree with go through an .npz file. So no interpreter ever holds two frameworks.

    {"do": "rates"}                                          -> {"matmul": FLOP/s, "copy": B/s}
    {"do": "calibrate", "workload": "B", "small": false}     -> {"batch": 128, ...}
    {"do": "run", "workload": "B", "batch": 128, "cold": true}   -> {"seconds": ..., "tokens": ...}
    {"do": "train", "micro_rows": 4}                         -> {"seconds": ..., "loss": ...}
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

from benchmarks import launching
from benchmarks.speed import workloads

SIZE = 2048  # of the square matrices whose product gives the rate of operations
CALIBRATION_STEPS = 48


class Side(Protocol):
    """What a peer's program offers.

    Attributes:
      facts: Versions, model, and how far its logits are from ours on the probe.
    """

    facts: dict

    def forget(self) -> None:
        """Drops what was compiled."""
        ...

    def run(self, workload: workloads.Workload, batch: int) -> dict:
        """Draws all responses.

        Returns:
          {"tokens": kept, counted in what came back, "slot_steps": rows that took part in a
          decode step, summed over the steps, ...}.
        """
        ...

    def best(self, workload: workloads.Workload) -> dict:
        """{"batch": the best of `workload.batches`, ...}."""
        ...

    def trainer(self, micro_rows: int) -> Callable[[], float]:
        """An optimizer step on `workloads.train_texts`, so many rows at once: hands back the loss.

        The first step starts from the common weights; AdamW, gradients clipped to norm 1.
        """
        ...

    def rates(self) -> dict:
        """{"matmul": operations/s of a large f32 product, "copy": bytes/s of a large copy}."""
        ...


def serve(side: Side) -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer

    def answer(record):
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    trainers = {}
    answer(side.facts)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "train":
            rows = request["micro_rows"]
            if rows not in trainers:
                trainers[rows] = side.trainer(rows)
            answer(timed(trainers[rows]))
            continue
        if request["do"] == "memory":
            answer(side.memory())
            continue
        if request["do"] == "rates":
            answer(side.rates())
            continue
        workload = workloads.load(request["workload"], request["small"])
        if request["do"] == "calibrate":
            answer(side.best(workload))
            continue
        if request["cold"]:
            side.forget()
        started = time.perf_counter()
        record = side.run(workload, request["batch"])
        record["seconds"] = time.perf_counter() - started
        record["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer(record)


def timed(step: Callable[[], float]) -> dict:
    """Wall and processor seconds of an optimizer step, and its loss."""
    started, used = time.perf_counter(), time.process_time()
    loss = step()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
        "loss": loss,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def median_seconds(action: Callable[[], object], repeats: int = 7) -> float:
    """Median time of an action that waits for its result; called once before."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def rates_of(matmul: Callable[[], object], copy: Callable[[], object], copied: int) -> dict:
    """Rates from a product of SIZE and an action that reads and writes `copied` bytes.

    "matmul_cpu" is operations by processor seconds: what others do on the machine changes it less.
    """
    used = time.process_time()
    seconds = median_seconds(matmul)
    used = (time.process_time() - used) / 8
    return {
        "matmul": 2 * SIZE**3 / seconds,
        "matmul_cpu": 2 * SIZE**3 / used,
        "copy": copied / median_seconds(copy),
    }


def rates_of_jax() -> dict:
    """The rates as JAX reaches them."""
    import jax
    import jax.numpy as jnp

    square, long = jnp.ones((SIZE, SIZE)), jnp.ones(2**24)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
    return rates_of(
        lambda: jax.block_until_ready(product(square)),
        lambda: jax.block_until_ready(copy(long)),
        2 * long.nbytes,
    )


def fastest_batch(workload: workloads.Workload, generate: Callable[..., object]) -> dict:
    """Tries batch sizes for a few steps each; `generate(workload, part, temperature, steps)`."""
    steps = min(CALIBRATION_STEPS, workload.longest)

    def timed(batch):
        part = workload.cut(batch)[0]
        generate(workload, part, 1.0, 2)
        started = time.perf_counter()
        generate(workload, part, 1.0, steps)
        return (time.perf_counter() - started) / steps

    seconds = {batch: timed(batch) for batch in workload.batches}
    return {
        "batch": workloads.best_batch(workload, seconds),
        "seconds_a_step": {str(batch): value for batch, value in seconds.items()},
    }


class Peer:
    """A side's program, from outside."""

    def __init__(self, name: str, python: str, weights: pathlib.Path, log: pathlib.Path):
        """Starts it; it is ready when `facts` is read.

        Raises:
          SystemExit: If it ends instead of answering, with the end of its log.
        """
        self.name, self._log = name, log
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.speed.peer_{name}", str(weights)],
                cwd=launching.ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self.facts = self._read()

    def ask(self, **request) -> dict:
        """Sends a request and waits for its answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            tail = self._log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{tail}")
        return json.loads(line)
