"""Compiles the engine's programs for a TPU topology that need not be there, and counts bytes.

    python -m benchmarks.compiled.tpu_sampling --topology=v5e:4x4 --json=tpu.json
    python -m benchmarks.compiled.tpu_sampling --topology=v5e:4x4 --data=2 --tensor=8 --slots=1024

The model has the shape of Qwen2.5-7B in bf16. Prefill and one decode step of `slots` slots are
compiled, with prompts and responses of 512 tokens and all devices as one mesh. Prints what the
compiler says of memory, and what a step moves on a device beside the floor: weights, prompts and
responses read once. Needs libtpu, no TPU. `python -m bstar_jax.plan` does this for the programs of
a run.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from benchmarks import figures
from benchmarks.compiled.seven_b import SEVEN_B
from bstar_jax import planning, sharding
from bstar_jax.config import (
    CalibrateConfig,
    Config,
    GenerateConfig,
    LoopConfig,
    MeshConfig,
    MonitorConfig,
)
from bstar_jax.planning import compiling, memory, placement
from bstar_jax.planning.models import PlannedModel
from bstar_jax.planning.reports import cost_to_json
from bstar_jax.sampling import programs as sampling
from bstar_jax.sharding.program import Placement, bytes_on_device

PROGRAMS = ("prefill", "decode")
SIZES = ("rollout_weights", "cache", "temporaries", "bytes")


def make_config(arguments: argparse.Namespace) -> Config:
    """A config whose one sampling unit is as the flags say."""
    return Config(
        model=SEVEN_B,
        mesh=MeshConfig(data=arguments.data, fsdp=1, tensor=arguments.tensor, sampling="global"),
        loop=LoopConfig(iterations=1),
        calibrate=CalibrateConfig(
            queries=0, responses=arguments.responses, temperatures=(1.0,), thresholds=(0.5,)
        ),
        generate=GenerateConfig(
            queries=arguments.queries, responses=arguments.responses, slots=arguments.slots,
            batch=arguments.queries * arguments.responses, max_prompt_tokens=arguments.prompt,
            max_tokens=arguments.response + 1, weights="bfloat16",
        ),
        monitor=MonitorConfig(queries=1, responses=1, ks=(1,), s=1),
    )  # fmt: skip


def floor(placed: Placement, unit: sampling.UnitShape) -> dict[str, float]:
    """Bytes that a device must read in a step."""
    weights = sampling.weights(placed)
    # Of the embedding a step reads the rows of its tokens alone.
    read = bytes_on_device(weights) - bytes_on_device(weights["embedding"])
    cache = sampling.cache(placed, unit)
    lanes = (cache.prompt_key, cache.prompt_value)
    prompts = lanes if cache.prompt_key is not None else sampling.prompts(placed, unit)
    return {
        "weights": read,
        "prompts": bytes_on_device(prompts),
        "responses": bytes_on_device((cache.key, cache.value)),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles both programs: what the compiler says of each, and the floor of a step.

    Raises:
      SystemExit: If a program does not fit a device.
    """
    topology = planning.find_topology(arguments.topology)
    placed = placement.place(make_config(arguments), PlannedModel(SEVEN_B, "this file"), topology)
    unit = sampling.unit_shapes(placed.config, sharding.row_shards(placed.mesh))[0]
    report: dict[str, Any] = {
        "topology": arguments.topology,
        "mesh": sharding.mesh_sizes(placed.mesh),
        "layout": unit.layout.shape,
        "floor": floor(placed, unit),
    }
    for occupancy in memory.timeline(placed):
        if occupancy.program.name in PROGRAMS:
            done = compiling.compiled(occupancy, topology.accelerator)
            if done.cost is None:
                raise SystemExit(f"{done.name} does not fit {arguments.topology}")
            report[done.name] = {
                "compile_seconds": done.seconds,
                **{name: size for name, size in done.memory.items() if size},
                **cost_to_json(done.cost),
            }
    return report


def show(report: dict[str, Any]) -> None:
    """Prints the report."""
    shape = f"(lanes, slots, prompts) {report['layout']}"
    print(f"{report['topology']}, mesh {report['mesh']}, {shape}\n")
    rows = [
        [
            name,
            f"{report[name]['compile_seconds']:.0f} s",
            *(_gib(report[name].get(size, 0)) for size in SIZES),
        ]
        for name in PROGRAMS
    ]
    print(figures.table(["program", "compiled in", *SIZES], rows), "\n")
    exchanges = [
        [name, exchange["kind"], "+".join(exchange["axes"]), _gib(exchange["received"])]
        for name in PROGRAMS
        for exchange in report[name]["exchanges"]
    ]
    print(figures.table(["program", "exchange", "over", "received"], exchanges), "\n")
    floor = report["floor"]
    print("floor of a step on a device:", {name: _gib(size) for name, size in floor.items()})
    moved = report["decode"]["bytes"]
    print(f"a step moves {_gib(moved)}, {moved / sum(floor.values()):.2f} times the floor")


def _gib(size: float) -> str:
    return f"{size / 2**30:.3f} GiB"


def parse() -> argparse.Namespace:
    """Reads the flags."""
    parser = figures.flags(__doc__)
    parser.add_argument("--topology", default="v5e:4x4", help="as of plan")
    parser.add_argument("--data", type=int, default=4, help="size of the mesh axis data")
    parser.add_argument("--tensor", type=int, default=4, help="size of the mesh axis tensor")
    parser.add_argument("--slots", type=int, default=512, help="slots at once")
    parser.add_argument("--queries", type=int, default=64, help="queries of the unit")
    parser.add_argument("--responses", type=int, default=64, help="responses a query")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--response", type=int, default=512, help="tokens of a response")
    return parser.parse_args()


def main() -> None:
    """Compiles, prints the report and writes it."""
    arguments = parse()
    report = measure(arguments)
    show(report)
    figures.write(arguments.json, report)


if __name__ == "__main__":
    main()
