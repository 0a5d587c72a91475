"""Measures the peak memory of an import beside the parameters, on a file of 2 GB.

    python -m benchmarks.speed.importing --json=importing.json

The file is a Llama of 1.96 GB in bf16, all ones. For each type of the parameters a process imports
it and reports its peak memory less the parameters' own size, so that Python and JAX are included.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from benchmarks import figures
from bstar_jax import hub
from bstar_jax.config import ModelConfig
from bstar_jax.hub import architecture, names, safetensors_files

DTYPES = ("float32", "bfloat16", "file")
SHAPE = ModelConfig(
    vocab_size=32_000, width=2048, layers=18, heads=16, kv_heads=8, feed_forward=5632, tied=False
)


def write(folder: pathlib.Path) -> int:
    """Writes a checkpoint, one tensor after another; returns the bytes of its file."""
    settings = architecture.write_llama_config(SHAPE, {})
    safetensors_files.write_json(folder / "config.json", settings)
    entries = names.by_name(SHAPE, names.LLAMA_NAMES)
    specs = {name: ("BF16", entry.shape) for name, entry in entries.items()}
    file = folder / "model.safetensors"

    def ones(name: str) -> np.ndarray:
        return np.ones(specs[name][1], ml_dtypes.bfloat16)

    safetensors_files.write_tensors(file, specs, ones)
    return file.stat().st_size


def measured(directory: str, dtype: str) -> dict[str, float]:
    """Imports here: peak bytes of this process beside the parameters, and seconds."""
    jnp.zeros(8).block_until_ready()
    started = time.perf_counter()
    _, params = hub.import_checkpoint(directory, dtype=dtype)
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"beside": peak - own, "seconds": time.perf_counter() - started}


def main() -> None:
    """Measures each type in a process of its own; with --of, is one."""
    parser = figures.flags(__doc__)
    parser.add_argument("--of", nargs=2, metavar=("DIR", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of:
        print(json.dumps(measured(*arguments.of)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        found["file_bytes"] = write(pathlib.Path(folder))
        for dtype in DTYPES:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed.importing", "--of", folder, dtype],
                cwd=figures.ROOT, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            found[dtype] = json.loads(done.stdout.splitlines()[-1])
    rows = [
        [dtype, f"{found[dtype]['beside'] / 2**30:.2f}", f"{found[dtype]['seconds']:.1f}"]
        for dtype in DTYPES
    ]
    print(figures.table(["parameters", "GiB beside them", "s"], rows))
    print(f"limit: {(found['file_bytes'] / 4 + 2**30) / 2**30:.2f} GiB beside them")
    figures.write(arguments.json, found)


if __name__ == "__main__":
    main()
