"""Asks the compiler what 16, 64 and 256 chips exchange a token, and what curve that allows.

    python -m benchmarks.compiled.scaling --config=configs/math_mistral7b.py --json=scaling.json

Weak scaling on TPU v5e: rows of an optimizer step, rows of a unit and slots grow with the chips,
and `fsdp` with them, `tensor` as the config has it. The optimizer step, the gathering of sampling
weights and decoding are compiled for each size. Prints bytes received a token, and tokens a second
and chip as the peak rates bound them: with exchanges hidden behind the rest, and with none hidden.
Nothing is measured: latency, congestion and imbalance are not in it. Needs libtpu, no TPU.

What is in the JSON file is not compiled again, and says which commit compiled it. A process that
samples on its own devices runs the same decode program at every size.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from benchmarks import figures
from bstar_jax import planning, sharding
from bstar_jax.config import Config, load_config
from bstar_jax.planning import compiling, memory, models, placement, roofline
from bstar_jax.sharding import Cost

TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16")
PROGRAMS = ("step", "gather", "decode")
CHIPS = 64  # of the config's own topology
Found = dict[str, dict[str, dict[str, Any]]]  # {topology: {program: figures}}


def grown(config: Config, chips: int) -> Config:
    """The config with as much work a chip on some chips as it has on its own 64."""
    tensor, times = config.mesh.tensor, chips / CHIPS
    changes: dict[str, object] = {
        "mesh.data": 1,
        "mesh.fsdp": chips // tensor,
        "sft.batch": int(config.sft.batch * times),
        "improve.batch": int(config.improve.batch * times),
        "training.micro_rows": int(config.training.micro_rows * times),
        "generate.batch": int(config.generate.batch * times),
        "generate.slots": int(config.generate.slots * times),
    }
    bare = dataclasses.replace(config, prm=dataclasses.replace(config.prm, enabled=False))
    return bare.changed(changes)


def compile_program(
    config: Config, name: str, program: str, cache: planning.ReportCache
) -> dict[str, Any]:
    """Compiles one program for one topology: memory and work of a device, and its least times.

    Raises:
      SystemExit: If it does not fit a device.
    """
    topology = planning.find_topology(name)
    config = grown(config, topology.count)
    placed = placement.place(config, models.planned_model(config), topology)
    occupancy = next(each for each in memory.timeline(placed) if each.program.name == program)
    done = compiling.compiled(occupancy, topology.accelerator, cache)
    if done.cost is None:
        raise SystemExit(f"{program} does not fit {name}: {done.held / 2**30:.2f} GiB")
    print(f"{name} {program}: compiled in {done.seconds:.0f} s", flush=True)
    time = roofline.least_time(done.cost, topology.accelerator)
    return {
        "commit": figures.commit(),
        "mesh": sharding.mesh_sizes(placed.mesh),
        "tokens": done.tokens,
        "compile_seconds": round(done.seconds, 1),
        "held": done.held,
        "flops": done.cost.flops,
        "bytes": done.cost.bytes,
        "received": _by_axis(done.cost),
        "seconds": dataclasses.asdict(time),
    }


def _by_axis(cost: Cost) -> dict[str, float]:
    """Bytes that a device receives, by the axes that it receives them over."""
    received: dict[str, float] = {}
    for each in cost.collectives:
        axes = "+".join(each.axes)
        received[axes] = received.get(axes, 0.0) + each.received
    return received


def programs_table(found: Found) -> str:
    """What each program takes and exchanges on each topology."""
    rows = []
    for name, parts in found.items():
        chips = planning.find_topology(name).count
        for program, each in parts.items():
            rows.append(
                [
                    chips,
                    program,
                    f"{each['compile_seconds']:.0f} s",
                    f"{each['held'] / 2**30:.2f}",
                    _received(each, "fsdp", chips),
                    _received(each, "tensor", chips),
                    *(f"{1e3 * value:.2f}" for value in each["seconds"].values()),
                ]
            )
    header = (
        "chips,program,compiled in,GiB a device,received a token over fsdp,over tensor,"
        "products ms,memory ms,exchange ms"
    )
    return figures.table(header.split(","), rows)


def _received(each: dict[str, Any], axis: str, chips: int) -> str:
    """Bytes over an axis: of all devices by token, or of a device where no token is involved."""
    size = each["received"].get(axis, 0)
    if not each["tokens"]:
        return f"{size / 2**30:.2f} GiB in all"
    a_token = size * chips / each["tokens"]
    return f"{a_token / 2**20:.2f} MiB" if a_token >= 2**20 else f"{a_token / 2**10:.1f} KiB"


def curve_table(found: Found) -> str:
    """Tokens a second and chip, with all exchanges hidden and with none; beside the first size."""
    rows, first = [], list[float]()
    for name, parts in found.items():
        chips, rates = planning.find_topology(name).count, []
        for program in ("step", "decode"):
            seconds, tokens = parts[program]["seconds"], parts[program]["tokens"] / chips
            work = max(seconds["compute"], seconds["memory"])
            hidden = max(work, seconds["exchange"])
            rates += [tokens / hidden, tokens / (work + seconds["exchange"])]
        first = first or rates
        cells = [
            text
            for rate, start in zip(rates, first, strict=True)
            for text in (f"{rate:,.0f}", f"{rate / start:.0%}")
        ]
        rows.append([chips, *cells])
    of_first = f"of {planning.find_topology(next(iter(found))).count} chips"
    names = ("trained, exchanges hidden", "none hidden", "sampled, hidden", "none hidden")
    header = ["chips", *(text for name in names for text in (name, of_first))]
    return figures.table(header, rows)


def main() -> None:
    """Compiles what is missing, writes after each program, prints the tables."""
    parser = figures.flags(__doc__, needs_json=True)
    parser.add_argument(
        "--config", default="configs/math_mistral7b.py", help="a config for 64 chips"
    )
    parser.add_argument(
        "--store", type=pathlib.Path, help="compiled reports, as of plan; beside the JSON file"
    )
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    cache = planning.ReportCache(arguments.store or arguments.json.with_suffix(".store"))
    found: Found = figures.read(arguments.json)
    for name in TOPOLOGIES:
        for program in PROGRAMS:
            if program not in found.setdefault(name, {}):
                found[name][program] = compile_program(config, name, program, cache)
                figures.write(arguments.json, found)
    print(f"{programs_table(found)}\n\nTokens a second and chip:\n\n{curve_table(found)}")


if __name__ == "__main__":
    main()
