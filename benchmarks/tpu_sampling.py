"""Compiles the engine's programs for a TPU topology that need not be there, and counts bytes.

    python benchmarks/tpu_sampling.py --topology=v5e:4x4 --json=tpu.json
    python benchmarks/tpu_sampling.py --topology=v5e:4x4 --data=2 --tensor=8 --slots=1024

Model: the shape of Qwen2.5-7B (28 layers, width 3584, 28 heads, 4 key-value heads, feed-forward
18944, vocabulary 152,064) in bf16. Prefill and one decode step of `slots` slots, prompt and
response 512 tokens each. Prints what the compiler says of memory and traffic a device beside the
floor: weights, prompts and responses read once. Needs libtpu, no TPU.

The compiler counts the body of a loop once. The body of the decode loop is one step, but the loop
over layers in it must count for all: bytes are those of 2 and 4 layers written out, extended in a
straight line to 28.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling import decode
from bstar_jax.sampling.decode import Work
from bstar_jax.sampling.engine import layout
from bstar_jax.sampling.prefill import prefill

SEVEN_B = ModelConfig(
    vocab_size=152_064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
    feed_forward=18_944, tied=False, dtype="bfloat16",
)  # fmt: skip


def main():
    flags = _flags()
    devices = topologies.get_topology_desc(flags.topology, platform="tpu").devices
    shape = (flags.data, 1, flags.tensor)
    if math.prod(shape) != len(devices):
        raise SystemExit(f"--data x --tensor is {math.prod(shape)}, not {len(devices)} devices")
    mesh = Mesh(
        np.asarray(devices).reshape(shape), sharding.MESH_AXES, axis_types=(AxisType.Auto,) * 3
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        programs = Programs(mesh, flags, SEVEN_B)
        report = {
            "topology": flags.topology,
            "mesh": list(shape),
            "layout": list(programs.layout.shape),
            "floor": programs.floor(),
            "prefill": programs.prefill(),
            "decode": programs.decode(),
            "bytes_a_step": bytes_a_step(mesh, flags),
        }
    _print(report)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(report, indent=2) + "\n")


def bytes_a_step(mesh, flags):
    """Bytes that a decode step reads and writes on a device, by the compiler's own count."""
    scan = jax.lax.scan
    jax.lax.scan = lambda *arguments, **settings: scan(*arguments, **{**settings, "unroll": True})
    try:
        few, more = (
            Programs(mesh, flags, dataclasses.replace(SEVEN_B, layers=layers)).decode()
            for layers in (2, 4)
        )
    finally:
        jax.lax.scan = scan
    a_layer = (more["bytes_accessed"] - few["bytes_accessed"]) / 2
    return few["bytes_accessed"] + (SEVEN_B.layers - 2) * a_layer


class Programs:
    """The programs of a unit, by shapes alone."""

    def __init__(self, mesh, flags, config):
        self.mesh, self.flags, self.config = mesh, flags, config
        shards = sharding.row_shards(mesh)
        self.queries = flags.queries // shards
        self.sizes = (shards, self.queries, flags.responses)
        self.layout = layout(self.queries, flags.responses, flags.slots // shards)
        self.params = self._params()

    def prefill(self):
        """Prefill of one query a shard's lane, into the room for all."""
        shards = self.sizes[0]
        rows = min(self.queries, max(8192 // self.flags.prompt // shards, 1))
        tokens_DBP = self._rows((shards, rows, self.flags.prompt), jnp.int32)
        lengths_DB = self._rows((shards, rows), jnp.int32)
        first = self._copy((), jnp.int32)
        lowered = prefill.lower(
            self.config, self.params, self._prompts(), tokens_DBP, lengths_DB, first
        )
        return self._report(lowered)

    def decode(self):
        """The loop of decode steps; the compiler counts its body once."""
        work = self._work()
        start = functools.partial(
            decode.start,
            shape=self.layout.shape,
            columns=self.flags.response,
            max_tokens=self.flags.response + 1,
        )
        compiled = start.func.lower(self.config, work, **start.keywords).compile()
        shapes = jax.eval_shape(functools.partial(start, self.config), work)
        state = jax.tree.map(_placed, shapes, compiled.output_shardings)
        lowered = decode.decode.lower(
            self.config, self.params, work, state, self._copy((), jnp.int32), end_id=1
        )
        return self._report(lowered)

    def floor(self):
        """Bytes a device must read in a step."""
        config, flags = self.config, self.flags
        tensor = self.mesh.shape["tensor"]
        weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.params))
        # Of the embedding a step reads the rows of its tokens.
        weights -= config.vocab_size * config.width * 2
        token = 2 * config.layers * config.kv_heads * config.width_per_head * 2
        lanes, slots, sides = self.layout.shape
        prompts = lanes * sides * flags.prompt * token
        responses = lanes * slots * flags.response * token
        parts = {"weights": weights, "prompts": prompts, "responses": responses}
        return {name: size / tensor for name, size in parts.items()}

    def _params(self):
        shapes = jax.eval_shape(lambda: model.init(self.config, jax.random.key(0)))
        padded = sharding.padded_vocab(self.config, self.mesh)
        shapes = jax.eval_shape(lambda tree: model.pad_vocab(self.config, tree, padded), shapes)
        axes = model.axes_of(self.config, shapes)
        places = sharding.shardings(self.mesh, shapes, axes, sharding.SAMPLING)
        narrow = lambda leaf, place: jax.ShapeDtypeStruct(  # noqa: E731
            leaf.shape, jnp.bfloat16, sharding=place
        )
        return jax.tree.map(narrow, shapes, places)

    def _prompts(self):
        sizes = (self.config, *self.sizes[:2], self.flags.prompt)
        shapes = jax.eval_shape(lambda: caches.empty_prompts(*sizes))
        spec = sharding.spec(caches.PROMPT_AXES, sharding.SAMPLING)
        return jax.tree.map(lambda part: _placed(part, NamedSharding(self.mesh, spec)), shapes)

    def _work(self):
        shards, queries, samples = self.sizes
        return Work(
            real_D=self._rows((shards,), jnp.int32),
            lengths_DQ=self._rows((shards, queries), jnp.int32),
            last_DQ=self._rows((shards, queries), jnp.int32),
            keys_DQN2=self._rows((shards, queries, samples, 2), jnp.uint32),
            limit_DQN=self._rows((shards, queries, samples), jnp.int32),
            temperature_N=self._copy((samples,), jnp.float32),
            top_k_N=self._copy((samples,), jnp.int32),
            top_p=None,
            min_p=None,
            stop_AV=None,
            prompts=self._prompts(),
        )

    def _rows(self, shape, dtype):
        place = NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def _copy(self, shape, dtype):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(self.mesh, PartitionSpec())
        )

    def _report(self, lowered):
        started = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - started
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
        text = compiled.as_text()
        return {
            "compile_seconds": seconds,
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "outputs_not_arguments": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "bytes_accessed": cost["bytes accessed"],
            "flops": cost["flops"],
            "custom_calls": sorted(_kernels(text)),
            "all_gathers": text.count(" all-gather("),
            "all_reduces": text.count(" all-reduce("),
        }


def _kernels(text):
    return {
        line.split('custom_call_target="')[1].split('"')[0]
        for line in text.splitlines()
        if 'custom_call_target="' in line
    }


def _placed(shape, place):
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)


def _print(report):
    gib = lambda size: f"{size / 2**30:.3f} GiB"  # noqa: E731
    print(
        f"{report['topology']}, mesh {report['mesh']}, (lanes, slots, prompts) {report['layout']}"
    )
    floor = report["floor"]
    print("floor a step, a device:", {name: gib(size) for name, size in floor.items()})
    for name in ("prefill", "decode"):
        figures = report[name]
        print(f"{name}: compiled in {figures['compile_seconds']:.0f} s")
        for key in ("arguments", "temporaries", "outputs_not_arguments", "bytes_accessed"):
            print(f"  {key}: {gib(figures[key])}")
        for key in ("custom_calls", "all_gathers", "all_reduces"):
            print(f"  {key}: {figures[key]}")
    ratio = report["bytes_a_step"] / sum(floor.values())
    print(f"a step reads and writes {gib(report['bytes_a_step'])}, {ratio:.2f} times the floor")


def _flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--data", type=int, default=4)
    parser.add_argument("--tensor", type=int, default=4)
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--responses", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--response", type=int, default=512)
    parser.add_argument("--json", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
