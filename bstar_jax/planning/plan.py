"""The plan of a run: its programs on a topology, whether they fit, how fast they could be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from bstar_jax import sharding
from bstar_jax.config import Config
from bstar_jax.planning import compiling, models, placement, search
from bstar_jax.planning.compiling import PlannedProgram
from bstar_jax.planning.memory import Occupancy, timeline
from bstar_jax.planning.models import PlannedModel
from bstar_jax.planning.reports import NO_CACHE, ReportCache
from bstar_jax.planning.roofline import LeastTime, least_time
from bstar_jax.planning.search import Compile, LargestSetting, MeshPlan
from bstar_jax.planning.topologies import GIB, Topology
from bstar_jax.sharding import Placement


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is known about a run before it starts.

    Attributes:
      config: All settings.
      topology: The devices.
      model: The model.
      mesh: (data, fsdp, tensor) of all devices.
      sampling_mesh: The same of the devices on which one process samples.
      programs: Every program of the run.
      times: Name of a program -> its least time, where its work is known.
      largest: The largest settings that fit; empty if the run does not fit or none was asked for.
      meshes: All meshes, the best first, by arithmetic.
      remedies: If the run does not fit, configs that do, the best first.
      remedy: The compiled programs of the first remedy.
      notes: What else a person should know.
    """

    config: Config
    topology: Topology
    model: PlannedModel
    mesh: tuple[int, int, int]
    sampling_mesh: tuple[int, int, int]
    programs: list[PlannedProgram]
    times: dict[str, LeastTime]
    largest: list[LargestSetting]
    meshes: list[MeshPlan]
    remedies: list[MeshPlan]
    remedy: list[PlannedProgram]
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether every program fits."""
        return all(program.fits for program in self.programs)


def _silent(line: str) -> None:
    """Says nothing."""


def plan(
    config: Config,
    topology: Topology,
    *,
    is_searching: bool = True,
    cache: ReportCache = NO_CACHE,
    say: Callable[[str], None] = _silent,
    stated: Collection[str] = (),
) -> Plan:
    """Plans a run.

    Args:
      config: All settings.
      topology: The devices.
      is_searching: Whether to find the largest settings, and to compile what would fit.
      cache: What the compiler reported before.
      say: Receives a line about each program that is done.
      stated: Settings that a checkpoint may not contradict; see `hub.adopt_architecture`.

    Raises:
      UserError: If the sizes of the model are not known, or the mesh cannot share it.
    """
    model = models.planned_model(config, stated)
    placed = placement.place(config, model, topology)
    compiled = _compile(topology, cache, say)
    listed = timeline(placed)
    done = [compiled(each) for each in listed]
    meshes = search.ranked(config, model, topology)
    remedies, remedy, largest = [], [], []
    if not all(each.fits for each in done):
        remedies = search.remedies(config, model, topology, meshes)
        if remedies and is_searching and topology.is_tpu:
            remedy = _confirmed(remedies[0], model, topology, compiled)
    elif is_searching:
        largest = _largest(placed, topology, compiled)
    return Plan(
        config, topology, model, sharding.mesh_sizes(placed.mesh),
        sharding.mesh_sizes(placed.sampling_mesh), done, _times(placed, topology, listed, done),
        largest, meshes, remedies, remedy, _notes(placed, topology, done),
    )  # fmt: skip


def _compile(topology: Topology, cache: ReportCache, say: Callable[[str], None]) -> Compile:
    """Compiles each program once, or estimates it where nothing compiles."""
    kept: dict[tuple, PlannedProgram] = {}

    def compiled(occupancy: Occupancy) -> PlannedProgram:
        if not topology.is_tpu:
            return compiling.estimated(occupancy, topology.accelerator)
        program = occupancy.program
        parts = (*program.arguments.items(), *occupancy.resident.items())
        key = (program.name, *parts, program.temporaries)
        if key not in kept:
            kept[key] = compiling.compiled(occupancy, topology.accelerator, cache)
            say(f"{program.name}: {kept[key].method} in {kept[key].seconds:.0f} s")
        return kept[key]

    return compiled


def _confirmed(
    chosen: MeshPlan, model: PlannedModel, topology: Topology, compiled: Compile
) -> list[PlannedProgram]:
    """Compiles the programs of a remedy, but for the balance score, which is small."""
    placed = placement.place(chosen.config, model, topology)
    return [compiled(each) for each in timeline(placed) if each.program.name != "balance"]


def _times(
    placed: Placement, topology: Topology, listed: list[Occupancy], done: list[PlannedProgram]
) -> dict[str, LeastTime]:
    far = placement.across_hosts(placed.mesh, topology)
    times = {}
    for occupancy, each in zip(listed, done, strict=True):
        cost, estimate = each.cost, occupancy.program.cost
        if cost is None and estimate is not None and each.method != "compiled":
            cost = estimate()
        if cost is not None:
            times[each.name] = least_time(cost, topology.accelerator, far)
    return times


def _largest(placed: Placement, topology: Topology, compiled: Compile) -> list[LargestSetting]:
    config, limit = placed.config, topology.accelerator.memory
    trains = config.improve.steps if config.loop.iterations else config.sft.steps
    settings = ["training.micro_rows"] * bool(trains) + ["generate.slots"]
    compiler = compiled if topology.is_tpu else None
    return [search.largest_setting(placed, setting, limit, compiler) for setting in settings]


def _notes(placed: Placement, topology: Topology, done: list[PlannedProgram]) -> list[str]:
    notes = []
    if placed.sampling_mesh.size < placed.mesh.size:
        notes.append(
            f"a process samples on its own {placed.sampling_mesh.size} devices"
            + (
                "; what it runs there is compiled for a host that stands alone, as the compiler "
                "takes no program for a part of large v5e and of v6e slices: where the run is "
                "refused one, use --config.mesh.sampling=global"
                if topology.is_tpu
                else ""
            )
        )
    if not topology.is_tpu:
        notes.append("no program was compiled: all figures are arithmetic")
    config = placed.config
    notes += [_copy_note(config, each) for each in done if _copies_cache(config, each)][:1]
    return notes


def _copies_cache(config: Config, done: PlannedProgram) -> bool:
    """Whether decoding needs its cache twice, because it computes in another layout."""
    is_odd = (config.generate.max_tokens - 1) % 16 > 0
    temporary, cache = (done.memory.get(part, 0) for part in ("temporaries", "cache"))
    is_large = temporary > max(cache / 2, GIB)
    return done.name.startswith("decode") and done.method != "arithmetic" and is_odd and is_large


def _copy_note(config: Config, done: PlannedProgram) -> str:
    columns = config.generate.max_tokens - 1
    return (
        f"{done.name} keeps {columns} tokens of a response, no multiple of 16, and needs "
        f"{done.memory['temporaries'] / GIB:.2f} GiB to copy them: "
        f"--config.generate.max_tokens={-(-columns // 16) * 16 + 1} needs no copy"
    )
