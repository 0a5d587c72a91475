"""Compiles the sampling kernel for a TPU that need not be there, and says what it found.

Run as `python -m tests.kernels_tpu_compile v5e:2x2`, in a process of its own: the TPU compiler
stays in the process that loads it. Prints one JSON object a line, a program each.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from bstar_jax import kernels, sharding

ROWS = 64


def compile_for(placing, vocab, dtype, impl="pallas_tpu"):
    """Compiles one program for rows placed so; returns its text and temporary bytes."""
    shape = functools.partial(jax.ShapeDtypeStruct, sharding=placing)
    arguments = (
        shape((ROWS, vocab), dtype),
        shape((ROWS, 2), jnp.uint32),
        shape((ROWS,), jnp.float32),
        shape((ROWS,), jnp.int32),
    )
    lowered = jax.jit(functools.partial(kernels.sample, impl=impl)).lower(*arguments)
    compiled = lowered.compile()
    return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes


def report(vocab, dtype, impl, text, temporary_bytes):
    found = {
        "vocab": vocab,
        "dtype": jnp.dtype(dtype).name,
        "impl": impl,
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "sorts": text.count(" sort("),
        "gathers": text.count("all-gather"),
        "temporary_bytes": temporary_bytes,
    }
    print(json.dumps(found), flush=True)


def main(topology: str) -> None:
    devices = topologies.get_topology_desc(topology, "tpu").devices
    one = SingleDeviceSharding(devices[0])
    for vocab in (32_001, 151_936):
        for dtype in (jnp.float32, jnp.bfloat16):
            report(vocab, dtype, "pallas_tpu", *compile_for(one, vocab, dtype))
    shape = (len(devices), 1, 1)
    mesh = jax.make_mesh(shape, sharding.MESH_AXES, (AxisType.Auto,) * 3, devices=devices)
    assert isinstance(mesh, Mesh)
    by_row = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        report(32_000, jnp.float32, "auto", *compile_for(by_row, 32_000, jnp.float32, "auto"))


if __name__ == "__main__":
    main(sys.argv[1])
