"""Arrays and rows as runs store them, and whether two runs are alike: for survival and mesh."""

from __future__ import annotations

import logging
import os
import pathlib
from collections import Counter
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import launching

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about files it does not need


def arrays(directory: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, in host memory, whatever mesh wrote it."""
    directory = pathlib.Path(directory).absolute() / "default"
    reader = ocp.PyTreeCheckpointer()
    metadata = reader.metadata(directory).item_metadata
    assert metadata is not None, f"{directory} holds no arrays"
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
    restored = reader.restore(directory, restore_args=restore_args)
    leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def relative_norms(ours: pathlib.Path, theirs: pathlib.Path) -> dict[str, float]:
    """||a - b|| / ||b|| of every tensor of two checkpoints of the same parameters.

    Raises:
      SystemExit: If they do not hold the same tensors.
    """
    mine, other = arrays(ours), arrays(theirs)
    if mine.keys() != other.keys():
        raise SystemExit(f"{ours} and {theirs} hold other parameters")
    norm = np.linalg.norm
    return {
        path: float(norm((other[path] - mine[path]).astype(float)) / norm(mine[path].astype(float)))
        for path in mine
    }


def checkpoints(run: pathlib.Path) -> dict[str, pathlib.Path]:
    """Names and folders of all parameters, and of the newest training state of each model."""
    folder = run / "checkpoints"
    found = {}
    for model in (".", "prm", "completer"):
        params, training = folder / model / "params", folder / model / "training"
        found |= {f"{model}/params/{path.name}": path for path in params.glob("*[0-9]")}
        serials = sorted(int(path.name) for path in training.glob("*[0-9]"))
        if serials:
            found[f"{model}/training/{serials[-1]}"] = training / str(serials[-1])
    return dict(sorted(found.items()))


def rows(file: pathlib.Path) -> pa.Table:
    """The rows of a Parquet file, without metadata."""
    return pq.ParquetFile(file).read().replace_schema_metadata(None)


def files(run: pathlib.Path) -> dict[str, pathlib.Path]:
    """Every file below iterations/, leftovers included, by its path in the run."""
    return {str(path.relative_to(run)): path for path in sorted(run.glob("iterations/**/*"))}


def compare(left: pathlib.Path, right: pathlib.Path) -> tuple[list[str], dict[str, int]]:
    """What two finished runs differ in, and how much was compared."""
    counts = Counter[str]()
    differing = _compare_files(left, right, counts)
    differing += _compare_checkpoints(left, right, counts)
    differing += _compare_metrics(left, right, counts)
    return differing, dict(counts)


def _compare_files(left: pathlib.Path, right: pathlib.Path, counts: Counter[str]) -> list[str]:
    mine, other = files(left), files(right)
    differing = _unshared(mine, other)
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
    return differing


def _compare_checkpoints(
    left: pathlib.Path, right: pathlib.Path, counts: Counter[str]
) -> list[str]:
    mine, other = checkpoints(left), checkpoints(right)
    differing = _unshared(mine, other)
    for name in sorted(mine.keys() & other.keys()):
        ours, theirs = arrays(mine[name]), arrays(other[name])
        counts["checkpoint arrays"] += len(ours)
        for path in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(path), theirs.get(path)
            if a is None or b is None or (a.dtype, a.tobytes()) != (b.dtype, b.tobytes()):
                differing.append(f"{name}{path}: values")
    return differing


def _compare_metrics(left: pathlib.Path, right: pathlib.Path, counts: Counter[str]) -> list[str]:
    ours, theirs = untimed(left), untimed(right)
    counts["metrics rows"] = len(ours)
    return [
        f"metrics row {key}: {ours.get(key)} | {theirs.get(key)}"
        for key in sorted(ours.keys() | theirs.keys(), key=str)
        if ours.get(key) != theirs.get(key)
    ]


def _unshared(mine: dict[str, pathlib.Path], other: dict[str, pathlib.Path]) -> list[str]:
    return [f"only in one run: {name}" for name in sorted(mine.keys() ^ other.keys())]


def untimed(run: pathlib.Path) -> launching.Rows:
    """Metrics rows without wall times and rates.

    A checkpoint that falls due by the clock writes a row of its own; such rows are left out.
    """
    rows = launching.metrics_rows(run)
    config: dict[str, Any] = launching.read_config(run)
    every = config["log"]["every"]
    lasts = {name: config[name]["steps"] for name in ("sft", "prm", "improve")}
    lasts["completer"] = config["prm"]["completer_steps"]
    return {
        key: {name: value for name, value in row.items() if not _is_time(name)}
        for key, row in rows.items()
        if key[2] is None or key[2] % every == 0 or key[2] == lasts[key[1]]
    }


def _is_time(name: str) -> bool:
    return name in launching.TIMINGS or name.endswith("_seconds")
