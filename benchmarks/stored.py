"""Arrays and rows as a run stores them, for comparing runs: used by kills and mesh."""

from __future__ import annotations

import logging
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402  (reads the environment at import)
import numpy as np  # noqa: E402
import orbax.checkpoint as ocp  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

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
    """Names and folders of the parameters of every iteration and of the newest training state."""
    folder = pathlib.Path(run) / "checkpoints"
    found = {f"params/{path.name}": path for path in (folder / "params").glob("*[0-9]")}
    serials = sorted(int(path.name) for path in (folder / "training").glob("*[0-9]"))
    if serials:
        found[f"training/{serials[-1]}"] = folder / "training" / str(serials[-1])
    return dict(sorted(found.items()))


def rows(file):
    """The rows of a Parquet file, as an Arrow table without metadata."""
    return pq.read_table(file, partitioning=None).replace_schema_metadata(None)


def files(run):
    """Every file below iterations/, leftovers included, by its path in the run."""
    run = pathlib.Path(run)
    return {str(path.relative_to(run)): path for path in sorted(run.glob("iterations/**/*"))}
