"""Peak memory of an import beside the parameters, on a file of 2 GB.

    python -m benchmarks.speed.importing --json=importing.json

A Llama of 1.96 GB in bf16, all ones, in one file. For each type of the parameters a process imports
it and says its peak memory less the parameters' own size, what Python and JAX take included.
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

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bstar_jax import hub
from bstar_jax.config import ModelConfig
from bstar_jax.hub import llama, names, writer

SHAPE = ModelConfig(
    vocab_size=32_000, width=2048, layers=18, heads=16, kv_heads=8, feed_forward=5632, tied=False
)


def main():
    """Measures each type in a process of its own; with --of, is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--of", nargs=2, metavar=("DIR", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of:
        print(json.dumps(measured(*args.of)))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as room:
        figures["file_bytes"] = write(pathlib.Path(room))
        for dtype in ("float32", "bfloat16", "file"):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed.importing", "--of", room, dtype],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            figures[dtype] = json.loads(done.stdout.splitlines()[-1])
            beside = figures[dtype]["beside"] / 2**30
            print(f"{dtype}: {beside:.2f} GiB beside, {figures[dtype]['seconds']:.1f} s")
    print(f"limit: {(figures['file_bytes'] / 4 + 2**30) / 2**30:.2f} GiB")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


def write(room):
    """A checkpoint, one tensor after another; bytes of its file."""
    settings = llama.write_config(SHAPE, {})
    writer.write_json(room / "config.json", settings)
    layout = {name: ("BF16", entry.shape) for name, entry in names.by_name(SHAPE).items()}
    file = room / "model.safetensors"
    writer.write_tensors(file, layout, lambda name: np.ones(layout[name][1], ml_dtypes.bfloat16))
    return file.stat().st_size


def measured(directory, dtype):
    """Peak bytes of this process beside the parameters that it imports."""
    jnp.zeros(8).block_until_ready()
    started = time.perf_counter()
    _, params = hub.import_checkpoint(directory, dtype=dtype)
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"beside": peak - own, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    main()
