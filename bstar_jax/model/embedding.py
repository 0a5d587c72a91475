"""The rows of the embedding that tokens name, where devices hold parts of the table.

Left to itself the compiler gathers the rows of the whole batch on every device, and cuts them
again. Here a device reads what it has, so that nothing as large as the table, or as its gradient,
moves over `fsdp` or `tensor`:

    table       a device has V / tensor words, and of each, while it trains, D / fsdp channels
    look up     the tokens of all devices along `fsdp` in these words and channels; 0 where missing
    sum         over `tensor`: one device has the word
    exchange    over `fsdp`: few channels of all rows for all channels of its own rows

The backward pass goes the same way back; the table's gradient is summed over `data` alone.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from bstar_jax import sharding


def look_up(table_VD: jax.Array, tokens_BL: jax.Array, dtype: str, *, is_stored: bool) -> jax.Array:
    """The embedding of every token, of type `dtype`, [B, L, D].

    Example: table [[1., 2.], [3., 4.]], tokens [[1, 0, 1]] -> [[[3., 4.], [1., 2.], [3., 4.]]].

    Args:
      table_VD: The embedding.
      tokens_BL: Token ids in [0, V).
      dtype: Of the result.
      is_stored: Whether the table lies on the storage map, else on the sampling map.
    """
    mesh = jax.sharding.get_abstract_mesh()
    is_alone = mesh.empty or mesh.manual_axes
    over = "fsdp" if is_stored and not is_alone and mesh.shape["fsdp"] > 1 else None
    lies_whole = is_alone or (not over and mesh.shape["tensor"] == 1)
    if lies_whole or len(tokens_BL) % sharding.row_shards(mesh):
        return table_VD[tokens_BL].astype(dtype)
    table = sharding.spec(("vocab", "width"), sharding.STORAGE if over else sharding.SAMPLING)
    rows = sharding.spec(("batch", "length"), sharding.SAMPLING)
    run = functools.partial(_by_device, dtype=dtype, over=over)
    return jax.shard_map(run, in_specs=(table, rows), out_specs=rows)(table_VD, tokens_BL)


def _by_device(table_VD, tokens_BL, *, dtype: str, over: str | None):
    """`look_up` of one device; `over` is the mesh axis over which channels are apart, if any."""
    if over:
        tokens_BL = jax.lax.all_gather(tokens_BL, over, axis=0, tiled=True)
    place_BL = tokens_BL - len(table_VD) * jax.lax.axis_index("tensor")
    is_here_BL = (place_BL >= 0) & (place_BL < len(table_VD))
    found_BLD = table_VD[jnp.where(is_here_BL, place_BL, 0)].astype(dtype)
    found_BLD = jax.lax.psum(jnp.where(is_here_BL[..., None], found_BLD, 0), "tensor")
    if over:
        found_BLD = jax.lax.all_to_all(found_BLD, over, split_axis=0, concat_axis=2, tiled=True)
    return found_BLD
