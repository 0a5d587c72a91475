"""Arrays and rows as runs store them, and whether two runs are alike: for kills and mesh."""

from __future__ import annotations

import logging
import os
import pathlib
from collections import defaultdict

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  (reads the environment at import)
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks import launching

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about files it does not need


def arrays(directory):
    """Every array of a checkpoint by the path to it, in host memory, whatever mesh wrote it."""
    directory = pathlib.Path(directory).absolute() / "default"
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(directory).item_metadata.tree
    whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    restored = reader.restore(directory, restore_args=whole)
    leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def checkpoints(run):
    """Names and folders of all parameters, and of the newest training state of each model."""
    folder = pathlib.Path(run) / "checkpoints"
    found = {}
    for model in (".", "prm", "completer"):
        params, training = folder / model / "params", folder / model / "training"
        found |= {f"{model}/params/{path.name}": path for path in params.glob("*[0-9]")}
        serials = sorted(int(path.name) for path in training.glob("*[0-9]"))
        if serials:
            found[f"{model}/training/{serials[-1]}"] = training / str(serials[-1])
    return dict(sorted(found.items()))


def rows(file):
    """The rows of a Parquet file, as an Arrow table without metadata."""
    return pq.read_table(file, partitioning=None).replace_schema_metadata(None)


def files(run):
    """Every file below iterations/, leftovers included, by its path in the run."""
    run = pathlib.Path(run)
    return {str(path.relative_to(run)): path for path in sorted(run.glob("iterations/**/*"))}


def compare(left, right):
    """What two finished runs differ in, and how much was compared."""
    differing, counts = [], defaultdict(int)
    mine, other = files(left), files(right)
    differing += [f"only in one run: {name}" for name in sorted(mine.keys() ^ other.keys())]
    for name in sorted(mine.keys() & other.keys()):
        if name.endswith(".parquet"):
            ours, theirs = rows(mine[name]), rows(other[name])
            counts["parquet rows"] += ours.num_rows
            if not ours.equals(theirs):
                columns = [c for c in ours.column_names if not ours[c].equals(theirs[c])]
                differing.append(f"{name}: columns {columns}")
        elif mine[name].is_file():
            counts[f"{pathlib.Path(name).name} bytes"] += mine[name].stat().st_size
            if mine[name].read_bytes() != other[name].read_bytes():
                differing.append(f"{name}: bytes")
    mine, other = checkpoints(left), checkpoints(right)
    differing += [f"only in one run: {name}" for name in sorted(mine.keys() ^ other.keys())]
    for name in sorted(mine.keys() & other.keys()):
        ours, theirs = arrays(mine[name]), arrays(other[name])
        counts["checkpoint arrays"] += len(ours)
        for path in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(path), theirs.get(path)
            if a is None or b is None or (a.dtype, a.tobytes()) != (b.dtype, b.tobytes()):
                differing.append(f"{name}{path}: values")
    figures = [untimed(run) for run in (left, right)]
    counts["metrics rows"] = len(figures[0])
    for key in sorted(figures[0].keys() | figures[1].keys(), key=str):
        if figures[0].get(key) != figures[1].get(key):
            differing.append(f"metrics row {key}: {figures[0].get(key)} | {figures[1].get(key)}")
    return differing, dict(counts)


def untimed(run):
    """Metrics rows without wall times and rates.

    A checkpoint that falls due by the clock writes a row of its own; those are left out.
    """
    rows = launching.metrics_rows(run)
    config = launching.read_config(run)
    every = config["log"]["every"]
    lasts = {name: config[name]["steps"] for name in ("sft", "prm", "improve")}
    lasts["completer"] = config["prm"]["completer_steps"]
    return {
        key: {name: value for name, value in row.items() if not _is_time(name)}
        for key, row in rows.items()
        if key[2] is None or key[2] % every == 0 or key[2] == lasts[key[1]]
    }


def _is_time(name):
    return name in launching.TIMINGS or name.endswith("_seconds")
