"""What every host does with all rows of an iteration, by the size of the paper's.

    python -m benchmarks.speed.rows --queries=11500 --responses=64

Hosts share sampling, grading and storing; the rows of all of them each host reads, sorts and
selects from by itself. Prints the seconds of each part, and the memory of the process.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import resource
import tempfile
import time
import types

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from bstar_jax import balance
from bstar_jax.phases import pools
from bstar_jax.records import Rollouts

WORDS, DISTINCT = 180, 20_000  # of a response, about a kilobyte; texts before they are numbered


def made(queries, responses):
    """Graded rows with texts of their own."""
    rng, rows = random.Random(0), queries * responses
    words = [f"w{number}" for number in range(5000)]
    texts = [" ".join(rng.choices(words, k=WORDS)) for _ in range(DISTINCT)]
    draw = np.random.default_rng(0)
    return Rollouts.from_columns(
        {
            "iteration": np.ones(rows, np.int32),
            "split": ["train"] * rows,
            "query_id": [f"train/{row // responses}" for row in range(rows)],
            "sample_index": np.tile(np.arange(responses, dtype=np.int32), queries),
            "temperature": np.full(rows, 0.9, np.float32),
            "top_k": np.zeros(rows, np.int32),
            "prompt": ["p" * 300] * rows,
            "response": [texts[rng.randrange(DISTINCT)] + str(row % 50) for row in range(rows)],
            "num_tokens": np.full(rows, 200, np.int32),
            "finish_reason": ["stop"] * rows,
            "logprob": np.zeros(rows, np.float32),
            "answer": ["1"] * rows,
            "correct": draw.random(rows) < 0.3,
            "reason": ["correct"] * rows,
            "process_reward": draw.random(rows).astype(np.float32),
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=11_500)
    parser.add_argument("--responses", type=int, default=64)
    arguments = parser.parse_args()
    seconds, task = {}, types.SimpleNamespace(steps="", answer_kind="math")

    def timed(name, act):
        began = time.perf_counter()
        result = act()
        seconds[name] = time.perf_counter() - began
        return result

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "rows.parquet")
        timed("write", lambda: made(arguments.queries, arguments.responses).write(file))
        size = file.stat().st_size
        rows = timed("read", lambda: Rollouts.read(file))
    ids = [f"train/{query}" for query in range(arguments.queries)]
    rows = timed("sort", lambda: rows.sorted(ids))
    shape = pools.query_shape(rows)
    pool = timed("pool", lambda: pools.pool(task, rows, shape, distinct="text"))
    rule = {"threshold": 0.5, "process_weight": 1.0, "cap": 0, "rules": "paper"}
    selected_QN = timed("select", lambda: np.asarray(balance.select(pool, **rule)))
    keep = pools.flatten(rows, selected_QN)
    kept = timed("keep", lambda: rows.filter(keep))
    del seconds["write"]  # most of it makes the texts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(rows):,} rows, {size / 2**20:.0f} MiB on disk, {len(kept):,} selected")
    print(", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    print(f"{sum(seconds.values()):.1f} s in all, {peak:.1f} GiB")


if __name__ == "__main__":
    main()
