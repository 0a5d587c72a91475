"""Compiles the engine's programs for a TPU topology that need not be there, and counts bytes.

    python -m benchmarks.compiled.tpu_sampling --topology=v5e:4x4 --json=tpu.json
    python -m benchmarks.compiled.tpu_sampling --topology=v5e:4x4 --data=2 --tensor=8 --slots=1024

Model: the shape of Qwen2.5-7B (28 layers, width 3584, 28 heads, 4 key-value heads, feed-forward
18944, vocabulary 152,064) in bf16. Prefill and one decode step of `slots` slots, prompt and
response 512 tokens each, all devices as one mesh. Prints what the compiler says of memory and
what it moves a device beside the floor: weights, prompts and responses read once. Needs libtpu, no
TPU. `python -m bstar_jax.plan` does this for the programs of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"

from bstar_jax import planning, sharding
from bstar_jax.config import (
    CalibrateConfig,
    Config,
    GenerateConfig,
    LoopConfig,
    MeshConfig,
    ModelConfig,
    MonitorConfig,
)
from bstar_jax.planning import compiling, memory, placement
from bstar_jax.planning.models import PlannedModel
from bstar_jax.planning.reports import cost_to_json
from bstar_jax.sampling import programs as sampling
from bstar_jax.sharding.program import bytes_on_device

SEVEN_B = ModelConfig(
    vocab_size=152_064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
    feed_forward=18_944, tied=False, dtype="bfloat16",
)  # fmt: skip


def main():
    flags = _flags()
    topology = planning.find_topology(flags.topology)
    placed = placement.place(_config(flags), PlannedModel(SEVEN_B, "this file"), topology)
    unit = sampling.unit_shapes(placed.config, sharding.row_shards(placed.mesh))[0]
    report = {
        "topology": flags.topology,
        "mesh": sharding.mesh_sizes(placed.mesh),
        "layout": unit.layout.shape,
        "floor": floor(placed, unit),
    }
    for occupancy in memory.timeline(placed):
        if occupancy.program.name in ("prefill", "decode"):
            done = compiling.compiled(occupancy, topology.accelerator)
            report[done.name] = {
                "compile_seconds": done.seconds,
                **{name: size for name, size in done.memory.items() if size},
                **cost_to_json(done.cost),
            }
    _print(report)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(report, indent=2) + "\n")


def _config(flags) -> Config:
    return Config(
        model=SEVEN_B,
        mesh=MeshConfig(data=flags.data, fsdp=1, tensor=flags.tensor, sampling="global"),
        loop=LoopConfig(iterations=1),
        calibrate=CalibrateConfig(
            queries=0, responses=flags.responses, temperatures=(1.0,), thresholds=(0.5,)
        ),
        generate=GenerateConfig(
            queries=flags.queries, responses=flags.responses, slots=flags.slots,
            batch=flags.queries * flags.responses, max_prompt_tokens=flags.prompt,
            max_tokens=flags.response + 1, weights="bfloat16",
        ),
        monitor=MonitorConfig(queries=1, responses=1, ks=(1,), s=1),
    )  # fmt: skip


def floor(placed, unit) -> dict[str, float]:
    """Bytes a device must read in a step."""
    weights = sampling.weights(placed)
    # Of the embedding a step reads the rows of its tokens.
    read = bytes_on_device(weights) - bytes_on_device(weights["embedding"])
    cache = sampling.cache(placed, unit)
    lanes = (cache.prompt_key, cache.prompt_value)
    prompts = lanes if cache.prompt_key is not None else sampling.prompts(placed, unit)
    return {
        "weights": read,
        "prompts": bytes_on_device(prompts),
        "responses": bytes_on_device((cache.key, cache.value)),
    }


def _print(report):
    gib = lambda size: f"{size / 2**30:.3f} GiB"  # noqa: E731
    print(
        f"{report['topology']}, mesh {report['mesh']}, (lanes, slots, prompts) {report['layout']}"
    )
    parts = report["floor"]
    print("floor a step, a device:", {name: gib(size) for name, size in parts.items()})
    for name in ("prefill", "decode"):
        each = report[name]
        print(f"{name}: compiled in {each['compile_seconds']:.0f} s")
        for key in ("rollout_weights", "cache", "temporaries", "bytes"):
            print(f"  {key}: {gib(each.get(key, 0))}")
        for exchange in each["exchanges"]:
            print(f"  {exchange['kind']} over {exchange['axes']}: {gib(exchange['received'])}")
    ratio = report["decode"]["bytes"] / sum(parts.values())
    print(f"a step reads and writes {gib(report['decode']['bytes'])}, {ratio:.2f} times the floor")


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
