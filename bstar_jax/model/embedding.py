"""Looks up embeddings of tokens where every device holds a part of the table.

Left to itself, the compiler gathers the embeddings of the whole batch on every device and then
slices them again. Here a device reads only what it has, so nothing as large as the table or its
gradient moves over `fsdp` or `tensor`:

    table       a device has V / tensor tokens, and in training D / fsdp channels of each
    look up     the tokens of all devices along `fsdp`; 0 where this device lacks the token
    sum         over `tensor`: exactly one device has the token
    exchange    over `fsdp`: few channels of all rows for all channels of its own rows

The backward pass goes the same way back; the gradient of the table is summed over `data` alone.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from bstar_jax import sharding


def look_up(table_VD: jax.Array, tokens_BL: jax.Array, dtype: str, *, is_stored: bool) -> jax.Array:
    """The embedding of every token, [B, L, D].

    Example: table [[1., 2.], [3., 4.]], tokens [[1, 0, 1]] -> [[[3., 4.], [1., 2.], [3., 4.]]].

    Args:
      table_VD: The embedding.
      tokens_BL: Token ids in [0, V).
      dtype: Dtype of the result.
      is_stored: Whether the table is on the storage map, rather than on the sampling map.
    """
    mesh = jax.sharding.get_abstract_mesh()
    is_local = mesh.empty or mesh.manual_axes
    over = "fsdp" if is_stored and not is_local and mesh.shape["fsdp"] > 1 else None
    has_all = is_local or (not over and mesh.shape["tensor"] == 1)
    if has_all or len(tokens_BL) % sharding.row_shards(mesh):
        return table_VD[tokens_BL].astype(dtype)
    table = sharding.spec(("vocab", "width"), sharding.STORAGE if over else sharding.SAMPLING)
    rows = sharding.spec(("batch", "length"), sharding.SAMPLING)
    run = functools.partial(_by_device, dtype=dtype, over=over)
    return jax.shard_map(run, in_specs=(table, rows), out_specs=rows)(table_VD, tokens_BL)


def _by_device(
    table_VD: jax.Array, tokens_BL: jax.Array, *, dtype: str, over: str | None
) -> jax.Array:
    """`look_up` on one device; `over` is the mesh axis that channels are split over, if any."""
    if over:
        tokens_BL = jax.lax.all_gather(tokens_BL, over, axis=0, tiled=True)
    index_BL = tokens_BL - len(table_VD) * jax.lax.axis_index("tensor")
    is_here_BL = (index_BL >= 0) & (index_BL < len(table_VD))
    found_BLD = table_VD[jnp.where(is_here_BL, index_BL, 0)].astype(dtype)
    found_BLD = jax.lax.psum(jnp.where(is_here_BL[..., None], found_BLD, 0), "tensor")
    if over:
        found_BLD = jax.lax.all_to_all(found_BLD, over, split_axis=0, concat_axis=2, tiled=True)
    return found_BLD
