"""What devices exchange a token, at 16, 64 and 256 chips, by the compiler; the curve it predicts.

    python -m benchmarks.compiled.scaling --config=configs/math_mistral7b.py --json=scaling.json

Weak scaling on TPU v5e: rows of an optimizer step, rows of a unit and slots grow with the chips,
and `fsdp` with them, `tensor` as the config has it. The optimizer step, the gathering of sampling
weights and decoding are compiled for each size. Prints bytes received a token, and tokens a second
and chip as the peak rates bound them: with exchanges hidden behind the rest, and with none hidden.
Nothing is measured: no latency, no congestion, no imbalance. Needs libtpu, no TPU.

What is in the JSON file is not compiled again. A process that samples on its own devices runs the
same decode program at every size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"

from bstar_jax import planning, sharding
from bstar_jax.config import Config, load_config
from bstar_jax.planning import compiling, memory, models, placement, roofline

TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16")
PROGRAMS = ("step", "gather", "decode")


def main():
    """Compiles what is missing, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="configs/math_mistral7b.py")
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--store", type=pathlib.Path, help="as of plan; beside the JSON file")
    args = parser.parse_args()
    config = load_config(args.config)
    store = planning.ReportCache(args.store or args.json.with_suffix(".store"))
    found = json.loads(args.json.read_text()) if args.json.exists() else {}
    for name in TOPOLOGIES:
        for program in PROGRAMS:
            if program not in found.setdefault(name, {}):
                found[name][program] = figures(config, name, program, store)
                args.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(tables(found)))


def grown(config: Config, chips: int) -> Config:
    """The config with as much work a chip on a number of chips as it has on its own 64."""
    tensor, times = config.mesh.tensor, chips / 64
    changes = {
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


def figures(config: Config, name: str, program: str, store: planning.ReportCache) -> dict:
    """One program on one topology: memory and work of a device, and its least times."""
    topology = planning.find_topology(name)
    config = grown(config, topology.count)
    placed = placement.place(config, models.planned_model(config), topology)
    occupancy = next(each for each in memory.timeline(placed) if each.program.name == program)
    done = compiling.compiled(occupancy, topology.accelerator, store)
    if done.cost is None:
        raise SystemExit(f"{program} does not fit {name}: {done.held / 2**30:.2f} GiB")
    print(f"{name} {program}: compiled in {done.seconds:.0f} s", flush=True)
    time = roofline.least_time(done.cost, topology.accelerator)
    return {
        "mesh": sharding.mesh_sizes(placed.mesh),
        "tokens": done.tokens,
        "compile_seconds": round(done.seconds, 1),
        "held": done.held,
        "flops": done.cost.flops,
        "bytes": done.cost.bytes,
        "received": _by_axis(done.cost),
        "seconds": dataclasses.asdict(time),
    }


def _by_axis(cost) -> dict[str, float]:
    received: dict[str, float] = {}
    for each in cost.collectives:
        axes = "+".join(each.axes)
        received[axes] = received.get(axes, 0.0) + each.received
    return received


def tables(found: dict) -> list[str]:
    """The figures as Markdown."""
    lines = [
        "| chips | program | compiled in | GiB a device | received a token, over fsdp "
        "| over tensor | products ms | memory ms | exchange ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, parts in found.items():
        chips = planning.find_topology(name).count
        for program, each in parts.items():
            a_token = lambda axis, each=each, chips=chips: (  # noqa: E731
                _size(each["received"].get(axis, 0) * chips / each["tokens"])
                if each["tokens"]
                else f"{each['received'].get(axis, 0) / 2**30:.2f} GiB in all"
            )
            seconds = " | ".join(f"{1e3 * value:.2f}" for value in each["seconds"].values())
            lines.append(
                f"| {chips} | {program} | {each['compile_seconds']:.0f} s | "
                f"{each['held'] / 2**30:.2f} | "
                f"{a_token('fsdp')} | {a_token('tensor')} | {seconds} |"
            )
    return [*lines, "", *_curve(found)]


def _size(size: float) -> str:
    return f"{size / 2**20:.2f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _curve(found: dict) -> list[str]:
    """Tokens a second and chip, with all exchanges hidden and with none."""
    lines = [
        "| chips | trained a second and chip, exchanges hidden | of 16 chips | none hidden | "
        "of 16 chips | drawn, hidden | of 16 chips | none hidden | of 16 chips |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first: list[float] = []
    for name, parts in found.items():
        chips, rates = planning.find_topology(name).count, []
        for program in ("step", "decode"):
            seconds, tokens = parts[program]["seconds"], parts[program]["tokens"] / chips
            work = max(seconds["compute"], seconds["memory"])
            rates += [
                tokens / max(work, seconds["exchange"]),
                tokens / (work + seconds["exchange"]),
            ]
        first = first or rates
        cells = [
            f"{rate:,.0f} | {rate / start:.0%}" for rate, start in zip(rates, first, strict=True)
        ]
        lines.append(f"| {chips} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
