"""Arrays and rows as runs store them."""

from __future__ import annotations

import logging
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq

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
