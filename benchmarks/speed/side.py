"""What the program of every side offers, and how it answers requests; see `peers`.

NumPy and the standard library alone, but where a function says so.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from benchmarks.speed import workloads
from benchmarks.speed.workloads import Workload

SIZE = 2048  # of the square matrices whose product gives the rate of operations
CALIBRATION_STEPS = 48
REPEATS = 7
# (workload, which queries, temperature, steps) -> tokens of every row, padding below 0.
Generate = Callable[[Workload, slice, float, int], Iterable[np.ndarray]]


class Side(Protocol):
    """What a side's program offers.

    Attributes:
      facts: Versions, model, and how far its logits are from ours on the probe.
    """

    facts: dict[str, Any]

    def forget(self) -> None:
        """Drops what was compiled."""
        ...

    def run(self, workload: Workload, batch: int) -> dict[str, Any]:
        """Draws all responses.

        Returns:
          {"tokens": kept, counted in what came back, "slot_steps": rows that took part in a
          decode step, summed over the steps, ...}.
        """
        ...

    def best(self, workload: Workload) -> dict[str, Any]:
        """{"batch": the best of `workload.batches`, ...}."""
        ...

    def trainer(self, micro_rows: int) -> Callable[[], float]:
        """An optimizer step on `workloads.train_texts`, so many rows at once: returns the loss.

        The first step starts from the common weights; AdamW, gradients clipped to norm 1.
        """
        ...

    def memory(self) -> dict[str, Any]:
        """Bytes that a training step needs beside its state; {} where that is not asked."""
        ...

    def rates(self) -> dict[str, float]:
        """{"matmul": operations/s of a large f32 product, "copy": bytes/s of a large copy}."""
        ...


def serve(side: Side) -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    trainers = {}

    def respond(request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "rates":
                return side.rates()
            case "memory":
                return side.memory()
            case "train":
                rows = request["micro_rows"]
                if rows not in trainers:
                    trainers[rows] = side.trainer(rows)
                return timed_step(trainers[rows])
        workload = workloads.load(request["workload"], request["small"])
        if request["do"] == "calibrate":
            return side.best(workload)
        return timed_run(side, workload, request["batch"], request["cold"])

    def answer(record: dict[str, Any]) -> None:
        answers.write(json.dumps(record) + "\n")
        answers.flush()

    answer(side.facts)
    for line in sys.stdin:
        answer(respond(json.loads(line)))


def timed_run(side: Side, workload: Workload, batch: int, cold: bool) -> dict[str, Any]:
    """What `run` says, its seconds, and the peak memory so far."""
    if cold:
        side.forget()
    started = time.perf_counter()
    record = side.run(workload, batch)
    record["seconds"] = time.perf_counter() - started
    return record | {"peak_bytes": peak_bytes()}


def timed_step(step: Callable[[], float]) -> dict[str, float]:
    """Wall and processor seconds of an optimizer step, and its loss."""
    started, used = time.perf_counter(), time.process_time()
    loss = step()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
        "loss": loss,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Peak memory of this process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def median_seconds(action: Callable[[], object]) -> float:
    """Median time of an action that waits for its result; it runs once before."""
    action()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def rates_of(
    matmul: Callable[[], object], copy: Callable[[], object], copied: int
) -> dict[str, float]:
    """Rates from a product of SIZE and an action that reads and writes `copied` bytes.

    "matmul_cpu" is operations by processor seconds: other work on the machine changes it less.
    """
    used = time.process_time()
    seconds = median_seconds(matmul)
    used = (time.process_time() - used) / (REPEATS + 1)
    return {
        "matmul": 2 * SIZE**3 / seconds,
        "matmul_cpu": 2 * SIZE**3 / used,
        "copy": copied / median_seconds(copy),
    }


def rates_of_jax() -> dict[str, float]:
    """The rates as JAX reaches them; needs JAX."""
    import jax
    import jax.numpy as jnp

    square, long = jnp.ones((SIZE, SIZE)), jnp.ones(2**24)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
    return rates_of(
        lambda: jax.block_until_ready(product(square)),
        lambda: jax.block_until_ready(copy(long)),
        2 * long.nbytes,
    )


def run_in_batches(workload: Workload, batch: int, generate: Generate) -> dict[str, Any]:
    """`Side.run` of a framework whose batches all go to their longest response."""
    tokens = slot_steps = 0
    for temperature in workload.temperatures:
        for part in workload.cut(batch):
            limits_QN = workload.limits_QN[part]
            longest = int(limits_QN.max())
            rows = generate(workload, part, temperature, longest)
            pairs = zip(rows, limits_QN.ravel(), strict=True)
            tokens += sum(int((row[:limit] >= 0).sum()) for row, limit in pairs)
            slot_steps += longest * limits_QN.size
    return {"tokens": tokens, "slot_steps": slot_steps}


def fastest_batch(workload: Workload, generate: Generate) -> dict[str, Any]:
    """`Side.best` of such a framework: tries every batch size for a few steps."""
    steps = min(CALIBRATION_STEPS, workload.longest)

    def seconds_a_step(batch: int) -> float:
        part = workload.cut(batch)[0]
        generate(workload, part, 1.0, 2)
        started = time.perf_counter()
        generate(workload, part, 1.0, steps)
        return (time.perf_counter() - started) / steps

    seconds = {batch: seconds_a_step(batch) for batch in workload.batches}
    return {
        "batch": workloads.best_batch(workload, seconds),
        "seconds_a_step": {str(batch): value for batch, value in seconds.items()},
    }
