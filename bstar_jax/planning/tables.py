"""A plan as tables for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import rich.box
import rich.console
import rich.table

from bstar_jax import sharding
from bstar_jax.planning.compiling import PlannedProgram
from bstar_jax.planning.memory import PARTS
from bstar_jax.planning.plan import Plan
from bstar_jax.planning.reports import cost_to_json
from bstar_jax.planning.roofline import LeastTime
from bstar_jax.planning.search import MeshPlan
from bstar_jax.planning.topologies import GIB

_HEADERS = {
    "parameters": "params", "optimizer": "opti-\nmizer", "rollout_weights": "sampling\nweights",
    "process_model": "process\nmodel", "cache": "prompts,\ncache", "inputs": "inputs",
    "temporaries": "tempo-\nraries", "outputs": "outputs", "code": "code",
}  # fmt: skip
_MESHES_SHOWN = 6


def show(plan: Plan, stream: TextIO | None = None) -> None:
    """Prints a plan, to standard output by default."""
    console = rich.console.Console(
        file=sys.stdout if stream is None else stream, width=200, highlight=False, markup=False
    )
    for line in _head(plan):
        console.print(line)
    for table in (_memory(plan.programs), _speed(plan), _collectives(plan.programs)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    for line in _verdict(plan):
        console.print(line)
    console.print()
    console.print("meshes by arithmetic, the best first:")
    console.print(_meshes(plan.meshes[:_MESHES_SHOWN]))
    for note in plan.notes:
        console.print(f"note: {note}")


def _head(plan: Plan) -> Iterator[str]:
    topology, device = plan.topology, plan.topology.accelerator
    model = plan.model.model
    yield (
        f"model     {model.layers} layers of {model.width}, {model.vocab_size:,} words "
        f"({plan.model.source})"
    )
    yield f"devices   {topology.count} x {topology.kind}, mesh {_sizes(plan.mesh)}"
    yield f"sampling  on {_sizes(plan.sampling_mesh)}"
    yield f"memory    {device.memory / GIB:.2f} GiB a device: {device.source}"
    yield (
        f"rates     {device.flops / 1e12:,.0f} TFLOP/s bf16, {device.hbm / 1e9:,.0f} GB/s of "
        f"memory, {device.link / 1e9:,.0f} GB/s a mesh axis"
        + (f", {device.outside / 1e9:,.0f} over hosts" if device.outside != device.link else "")
        + "; peaks as published, never reached in full"
    )


def _sizes(mesh: tuple[int, int, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in zip(sharding.MESH_AXES, mesh, strict=True))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> rich.table.Table:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, padding=(0, 0), header_style="bold"
    )
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _memory(programs: list[PlannedProgram]) -> rich.table.Table:
    """GiB a device, a row a program."""
    parts = [part for part in PARTS if any(each.memory.get(part) for each in programs)]
    headers = ["program", "how", "seconds", *(_HEADERS[part] for part in parts), "GiB", "fits"]
    rows = [
        [
            each.name,
            each.method,
            f"{each.seconds:.0f}" if each.seconds else "-",
            *(_gib(each.memory.get(part, 0)) for part in parts),
            _gib(each.held),
            "yes" if each.fits else "NO",
        ]
        for each in programs
    ]
    return _table(headers, rows)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size >= GIB / 200 else "-"


def _speed(plan: Plan) -> rich.table.Table:
    headers = [
        "program", "TFLOP", "GiB moved", "FLOP/byte", "products\nms", "memory\nms", "exchange\nms",
        "bound", "tokens/s\nat most",
    ]  # fmt: skip
    rows = []
    for each in plan.programs:
        time = plan.times.get(each.name)
        if time is None:
            continue
        cost = each.cost
        rows.append(
            [
                each.name,
                f"{cost.flops / 1e12:.3f}" if cost else "-",
                f"{cost.bytes / GIB:.2f}" if cost else "-",
                f"{cost.flops / cost.bytes:.0f}" if cost and cost.bytes else "-",
                *(_ms(part) for part in (time.compute, time.memory, time.exchange)),
                time.bound,
                f"{each.tokens / time.seconds:,.0f}" if each.tokens and time.seconds else "-",
            ]
        )
    return _table(headers, rows)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _collectives(programs: list[PlannedProgram]) -> rich.table.Table:
    rows = [
        [
            program.name,
            each.kind,
            "+".join(each.axes),
            f"{each.count:,.3g}",
            f"{each.received / 2**20:,.2f}",
            f"{each.largest / 2**20:,.2f}",
        ]
        for program in programs
        if program.cost
        for each in program.cost.collectives
        if each.received >= 2**10
    ]
    headers = ["program", "collective", "axes", "a run", "MiB received", "largest array, MiB"]
    return _table(headers, rows)


def _verdict(plan: Plan) -> Iterator[str]:
    worst = max(plan.programs, key=lambda each: each.held)
    yield (
        f"{'FITS' if plan.fits else 'DOES NOT FIT'}: a device holds at most "
        f"{worst.held / GIB:.2f} of {worst.limit / GIB:.2f} GiB, in {worst.name}"
    )
    for each in plan.largest:
        how = {
            "compiled": "compiled",
            "arithmetic": "by arithmetic",
            "refused": "by arithmetic, which the compiler does not confirm",
        }
        found = f"largest {each.setting} that fits: {each.value} ({how[each.method]})"
        yield f"{found}; now {each.given}"
    if plan.fits:
        return
    if not plan.remedies:
        yield "nothing near it fits by arithmetic: take more devices, or a smaller model"
    for index, one in enumerate(plan.remedies[:3]):
        yield f"would fit: {_flags(one)}  ({one.held / GIB:.2f} GiB {_how(plan, index)})"


def _how(plan: Plan, index: int) -> str:
    if index or not plan.remedy:
        return "by arithmetic"
    held = max(each.held for each in plan.remedy) / GIB
    verdict = "fits" if all(each.fits for each in plan.remedy) else "does not fit"
    return f"by arithmetic; compiled {held:.2f} GiB, {verdict}"


def _flags(one: MeshPlan) -> str:
    return " ".join(f"--config.{name}={value}" for name, value in one.changes.items()) or "as given"


def _meshes(meshes: Sequence[MeshPlan]) -> rich.table.Table:
    headers = [
        "data, fsdp, tensor", "GiB at most", "in", "step ms", "decode ms", "tokens/s trained",
        "tokens/s drawn", "fits",
    ]  # fmt: skip
    rows = [
        [
            ", ".join(map(str, one.mesh)),
            f"{one.held / GIB:.2f}",
            one.tightest,
            _ms(one.step),
            _ms(one.decode),
            f"{one.train_rate:,.0f}",
            f"{one.decode_rate:,.0f}",
            "yes" if one.fits else "NO",
        ]
        for one in meshes
    ]
    return _table(headers, rows)


# JSON.


def to_json(plan: Plan) -> dict:
    """Returns the plan as JSON values.

    Bytes and seconds are those of one device and one run of a program, or of one decode step.
    """
    device = plan.topology.accelerator
    return {
        "topology": plan.topology.name,
        "devices": plan.topology.count,
        "mesh": dict(zip(sharding.MESH_AXES, plan.mesh, strict=True)),
        "sampling_mesh": dict(zip(sharding.MESH_AXES, plan.sampling_mesh, strict=True)),
        "model": plan.model.source,
        "fits": plan.fits,
        "limit_bytes": int(device.memory),
        "limit_source": device.source,
        "peak_rates": {
            "flops": device.flops, "memory": device.hbm, "exchange": device.link,
            "exchange_over_hosts": device.outside,
        },
        "programs": [_program(each, plan.times.get(each.name)) for each in plan.programs],
        "largest": [dataclasses.asdict(each) for each in plan.largest],
        "meshes": [_mesh_plan(one) for one in plan.meshes],
        "would_fit": [_mesh_plan(one) for one in plan.remedies],
        "would_fit_compiled": [_program(each, None) for each in plan.remedy],
        "notes": plan.notes,
    }  # fmt: skip


def _program(each: PlannedProgram, time: LeastTime | None) -> dict:
    return {
        "name": each.name,
        "phases": each.phases,
        "method": each.method,
        "compile_seconds": round(each.seconds, 1),
        "bytes": each.memory,
        "held_bytes": each.held,
        "peak_bytes": each.peak or None,
        "fits": each.fits,
        "tokens": each.tokens or None,
        "work": cost_to_json(each.cost) if each.cost else None,
        "seconds": {**dataclasses.asdict(time), "least": time.seconds} if time else None,
        "bound": time.bound if time else None,
        "tokens_per_second": each.tokens / time.seconds if time and each.tokens else None,
    }


def _mesh_plan(one: MeshPlan) -> dict:
    names = ("mesh", "changes", "held", "tightest", "train_rate", "decode_rate", "fits")
    return {name: getattr(one, name) for name in names}
