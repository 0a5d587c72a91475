"""Where arrays lie on devices, and the programs that run there, by their shapes alone.

`mesh` has the mesh and the one table from logical axes to mesh axes. `program` says what a
program of a run is; each room that runs programs lists its own in those terms.
"""

from bstar_jax.sharding.mesh import (
    DISK,
    MESH_AXES,
    SAMPLING,
    STORAGE,
    SamplingMesh,
    by_shard,
    check_batches,
    check_model,
    check_rows,
    constrain,
    make_mesh,
    mesh_sizes,
    on_sampling_mesh,
    own_rows,
    padded_vocab,
    put,
    put_copies,
    put_rows,
    refusal,
    row_shards,
    sampling_mesh,
    shardings,
    spec,
)
from bstar_jax.sharding.program import Collective, Cost, Placement, Program

__all__ = [
    "DISK",
    "MESH_AXES",
    "SAMPLING",
    "STORAGE",
    "Collective",
    "Cost",
    "Placement",
    "Program",
    "SamplingMesh",
    "by_shard",
    "check_batches",
    "check_model",
    "check_rows",
    "constrain",
    "make_mesh",
    "mesh_sizes",
    "on_sampling_mesh",
    "own_rows",
    "padded_vocab",
    "put",
    "put_copies",
    "put_rows",
    "refusal",
    "row_shards",
    "sampling_mesh",
    "shardings",
    "spec",
]
