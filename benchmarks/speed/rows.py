"""Times what every host does with all rows of an iteration, at the size of the paper's.

    python -m benchmarks.speed.rows --queries=11500 --responses=64

Hosts share sampling, grading and storing; the rows of all of them each host reads, sorts and
selects from by itself. Prints the seconds of each part, and the memory of the process.
"""

from __future__ import annotations

import os
import pathlib
import random
import resource
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any, TypeVar

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from benchmarks import figures
from bstar_jax import balance
from bstar_jax.config import BalanceConfig
from bstar_jax.phases import arrays
from bstar_jax.records import Rollouts

# A response has about a kilobyte; texts are distinct up to a number at their end.
WORDS, DISTINCT = 180, 20_000
Result = TypeVar("Result")


def make_rows(queries: int, responses: int) -> Rollouts:
    """Graded rows with random texts."""
    rng, rows = random.Random(0), queries * responses
    vocabulary = [f"w{number}" for number in range(5000)]
    texts = [" ".join(rng.choices(vocabulary, k=WORDS)) for _ in range(DISTINCT)]
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {
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
    return Rollouts.from_columns(columns)


def measure(queries: int, responses: int) -> dict[str, Any]:
    """Makes, stores and selects rows: seconds by part, and sizes."""
    seconds = {}

    def timed(name: str, action: Callable[[], Result]) -> Result:
        began = time.perf_counter()
        result = action()
        seconds[name] = time.perf_counter() - began
        return result

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "rows.parquet")
        make_rows(queries, responses).write(file)
        size = file.stat().st_size
        rows = timed("read", lambda: Rollouts.read(file))
    ids = [f"train/{query}" for query in range(queries)]
    rows = timed("sort", lambda: rows.sorted(ids))
    shape = arrays.query_shape(rows)
    task: Any = types.SimpleNamespace()
    graded = timed("gather", lambda: arrays.graded_responses(task, rows, shape, BalanceConfig()))
    rule: dict[str, Any] = {"threshold": 0.5, "process_weight": 1.0, "cap": 0, "rules": "paper"}
    selected_QN = timed("select", lambda: np.asarray(balance.select(graded, **rule)))
    keep: Any = arrays.to_rows(rows, selected_QN)
    kept = timed("keep", lambda: rows.filter(keep))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rows": len(rows),
        "selected": len(kept),
        "file_bytes": size,
        "peak_bytes": peak,
        "seconds": seconds,
    }


def main() -> None:
    """Measures once, prints the table and writes the figures."""
    parser = figures.flags(__doc__)
    parser.add_argument("--queries", type=int, default=11_500, help="queries of the iteration")
    parser.add_argument("--responses", type=int, default=64, help="responses a query")
    arguments = parser.parse_args()
    found = measure(arguments.queries, arguments.responses)
    print(
        f"{found['rows']:,} rows, {found['file_bytes'] / 2**20:.0f} MiB on disk, "
        f"{found['selected']:,} selected, {found['peak_bytes'] / 2**30:.1f} GiB at the peak"
    )
    seconds = {**found["seconds"], "in all": sum(found["seconds"].values())}
    print(figures.table(list(seconds), [[f"{value:.1f} s" for value in seconds.values()]]))
    figures.write(arguments.json, found)


if __name__ == "__main__":
    main()
