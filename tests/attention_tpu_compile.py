"""Compiles attention for a TPU that need not be there, and says what it found.

Run as `python -m tests.attention_tpu_compile v5e:2x2`, in a process of its own: the TPU compiler
stays in the process that loads it. Prints one JSON object a line, a program each.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding

from bstar_jax import sharding
from bstar_jax.kernels import attention

ROWS, HEADS, KEY_HEADS = 4, 8, 2


def gradient(query, key, value, segments, impl):
    def total(*parts):
        mixed = attention.attend_segments(*parts, segments, impl=impl)
        return mixed.astype(jnp.float32).sum()

    return jax.grad(total, argnums=(0, 1, 2))(query, key, value)


def arguments(place, length, width, dtype):
    """Shapes of queries, keys, values and segments; `place` says where each lies."""
    heads, key_heads = (ROWS, length, HEADS, width), (ROWS, length, KEY_HEADS, width)
    axes = ("batch", "length", "heads", "head_width"), ("batch", "length", "kv_heads", "head_width")
    query = jax.ShapeDtypeStruct(heads, dtype, sharding=place(axes[0]))
    key = jax.ShapeDtypeStruct(key_heads, dtype, sharding=place(axes[1]))
    segments = jax.ShapeDtypeStruct((ROWS, length), jnp.int32, sharding=place(axes[0][:2]))
    return query, key, key, segments


def report(where, run, impl, place, length, width, dtype):
    lowered = jax.jit(functools.partial(run, impl=impl)).lower(
        *arguments(place, length, width, dtype)
    )
    text = lowered.compile().as_text()
    found = {
        "where": where,
        "length": length,
        "width": width,
        "dtype": jnp.dtype(dtype).name,
        "backward": run is gradient,
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "gathers": text.count("all-gather"),
    }
    print(json.dumps(found), flush=True)


def main(topology: str) -> None:
    devices = topologies.get_topology_desc(topology, "tpu").devices
    one = SingleDeviceSharding(devices[0])
    forward = attention.attend_segments
    for width, length, dtype in ((64, 300, jnp.bfloat16), (128, 1024, jnp.float32)):
        for run in (forward, gradient):
            report("one", run, "splash", lambda axes: one, length, width, dtype)
    shape = (1, len(devices) // 2, 2)
    mesh = jax.make_mesh(shape, sharding.MESH_AXES, (AxisType.Auto,) * 3, devices=devices)

    def place(axes):
        return NamedSharding(mesh, sharding.spec(axes, sharding.SAMPLING))

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        report("mesh", gradient, "auto", place, 512, 128, jnp.bfloat16)
        report("mesh", forward, "auto", place, 128, 128, jnp.bfloat16)


if __name__ == "__main__":
    main(sys.argv[1])
