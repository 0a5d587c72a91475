"""The plan of a run: its programs on a topology, whether they fit, how fast they could be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bstar_jax import sharding
from bstar_jax.config import Config
from bstar_jax.planning import arithmetic, compiling, loads, moments, placing, published, search
from bstar_jax.planning.arithmetic import with_changes
from bstar_jax.planning.chips import GIB, Topology
from bstar_jax.planning.compiling import Measured, Time
from bstar_jax.planning.moments import Moment
from bstar_jax.planning.programs import Programs
from bstar_jax.planning.published import Shape
from bstar_jax.planning.search import Candidate, Largest
from bstar_jax.planning.store import NOWHERE, Store


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run before it starts.

    Attributes:
      config: All settings.
      topology: The devices.
      shape: The model.
      mesh: (data, fsdp, tensor).
      site: The same of the devices on which one process samples.
      programs: Every program of the run.
      times: Of each program by its name, the least seconds, where its work is known.
      largest: The largest settings that fit; empty where the run does not fit, or none was asked.
      meshes: All meshes, the best first, by arithmetic.
      remedies: Where it does not fit, configs that do, the best first.
      remedy: The programs of the first of these that arithmetic found tight, compiled.
      notes: What else a person should know.
    """

    config: Config
    topology: Topology
    shape: Shape
    mesh: tuple[int, int, int]
    site: tuple[int, int, int]
    programs: list[Measured]
    times: dict[str, Time]
    largest: list[Largest]
    meshes: list[Candidate]
    remedies: list[Candidate]
    remedy: list[Measured]
    notes: list[str]

    @property
    def fits(self) -> bool:
        """Whether every program fits."""
        return all(program.fits for program in self.programs)


def plan(
    config: Config,
    topology: Topology,
    *,
    is_searching: bool = True,
    store: Store = NOWHERE,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Plans a run.

    Args:
      config: All settings.
      topology: The devices.
      is_searching: Whether to find the largest settings, and to compile what would fit.
      store: What was compiled before.
      say: Hears what is done, a line at a time.

    Raises:
      UserError: If the model's shape is not known, or the mesh cannot share it.
    """
    shape = published.resolve(config)
    programs = placing.place(config, shape, topology)
    measure = _measure(topology, store, say)
    done = [measure(each) for each in moments.moments(programs)]
    meshes = search.ranked(config, shape, topology)
    remedies, remedy, largest = [], [], []
    if not all(each.fits for each in done):
        remedies = search.remedies(config, shape, topology, meshes)
        if remedies and is_searching and topology.is_tpu:
            remedy = _confirmed(remedies[0], shape, topology, measure)
    elif is_searching:
        largest = _largest(config, shape, topology, measure)
    mesh, times = placing.mesh_of(programs), _times(programs, topology, done)
    site = tuple(programs.site.shape[axis] for axis in sharding.MESH_AXES)
    notes = _notes(config, programs, topology, done)
    return Plan(
        config, topology, shape, mesh, site, done, times, largest, meshes, remedies, remedy, notes
    )


def _measure(
    topology: Topology, store: Store, say: Callable[[str], None]
) -> Callable[[Moment], Measured]:
    """Compiles a moment, or reckons it where nothing compiles; the same program once."""
    kept: dict[tuple, Measured] = {}

    def measure(moment: Moment) -> Measured:
        if not topology.is_tpu:
            return compiling.reckoned(moment, topology.chip)
        key = (moment.name, *moment.arguments.items(), *moment.beside.items(), moment.temporaries)
        if key not in kept:
            kept[key] = compiling.compiled(moment, topology.chip, store)
            say(f"{moment.name}: {kept[key].method} in {kept[key].seconds:.0f} s")
        return kept[key]

    return measure


def _confirmed(
    chosen: Candidate, shape: Shape, topology: Topology, measure: Callable
) -> list[Measured]:
    """The programs of a config found by arithmetic, compiled; the balance score is small."""
    programs = placing.place(chosen.config, shape, topology)
    return [measure(each) for each in moments.moments(programs) if each.name != "balance"]


def _times(programs: Programs, topology: Topology, done: list[Measured]) -> dict[str, Time]:
    far = placing.across_hosts(programs.mesh, topology)
    times = {}
    for moment, each in zip(moments.moments(programs), done, strict=True):
        known = each.work or (
            arithmetic.work_of(programs, moment) if each.method != "compiled" else None
        )
        if known:
            times[each.name] = compiling.time_of(known, topology.chip, far)
    return times


def _largest(config: Config, shape: Shape, topology: Topology, measure: Callable) -> list[Largest]:
    place = lambda changes: placing.place(with_changes(config, changes), shape, topology)  # noqa: E731
    shards = sharding.row_shards(place({}).mesh)
    compiled = measure if topology.is_tpu else None
    limit = topology.chip.memory
    found = []
    phase = "improve" if config.loop.iterations else "sft"
    if getattr(config, phase).steps:
        given = loads.step(config, phase, shards).micro_rows
        found.append(
            search.largest(
                lambda rows: place({"training.micro_rows": rows}), "training.micro_rows", given,
                _rows(config, shards, given), ("step", "sft_step", "prm_step"), limit, compiled,
            )
        )  # fmt: skip
    given = -(-config.generate.slots // shards) * shards
    values = [shards * count for count in range(1, 8 * given // shards + 1)]
    sampling = ("decode", "grow", "score")
    found.append(
        search.largest(
            lambda slots: place({"generate.slots": slots}), "generate.slots", given,
            _thinned(values, given), sampling, limit, compiled,
        )
    )  # fmt: skip
    return found


def _rows(config: Config, shards: int, given: int) -> list[int]:
    """Values that training.micro_rows may take on a mesh."""
    batches = [config.improve.batch] if config.loop.iterations else []
    batches += [config.sft.batch] if config.sft.steps else []
    batches += [config.prm.batch] if config.prm.enabled else []
    most = max(batches)
    values = range(shards, most + 1, shards)
    if config.training.row_tokens:
        return [rows for rows in values if rows % given == 0 or given % rows == 0]
    return [rows for rows in values if all(batch % rows == 0 for batch in batches)]


def _thinned(values: list[int], given: int) -> list[int]:
    """Few of many values, evenly by ratio, the given one among them."""
    kept: list[int] = []
    for value in values:
        if value == given or not kept or value >= 1.12 * kept[-1]:
            kept.append(value)
    return kept


def _notes(
    config: Config, programs: Programs, topology: Topology, done: list[Measured]
) -> list[str]:
    notes = []
    if programs.site.size < programs.mesh.size:
        notes.append(
            f"a process samples on its own {programs.site.size} devices"
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
    notes += [_copied(config, each) for each in done if _copies_cache(config, each)][:1]
    return notes


def _copies_cache(config: Config, done: Measured) -> bool:
    """Whether decoding needs as much again as its cache, as it has another layout than stored."""
    is_odd = (config.generate.max_tokens - 1) % 16 > 0
    temporary, cache = (done.memory.get(part, 0) for part in ("temporaries", "cache"))
    is_large = temporary > max(cache / 2, GIB)
    return done.name.startswith("decode") and done.method != "arithmetic" and is_odd and is_large


def _copied(config: Config, done: Measured) -> str:
    columns = config.generate.max_tokens - 1
    return (
        f"{done.name} keeps {columns} tokens of a response, no multiple of 16, and needs "
        f"{done.memory['temporaries'] / GIB:.2f} GiB to copy them: "
        f"--config.generate.max_tokens={-(-columns // 16) * 16 + 1} needs no copy"
    )
