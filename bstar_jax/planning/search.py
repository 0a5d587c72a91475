"""What fits: meshes in order of merit, the nearest settings that fit, and the largest that do.

Everything is found by arithmetic first; the compiler then confirms it or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from bstar_jax import sharding
from bstar_jax.config import Config, UserError
from bstar_jax.planning import memory, placement
from bstar_jax.planning.compiling import PlannedProgram
from bstar_jax.planning.memory import MARGIN, Occupancy, timeline
from bstar_jax.planning.models import PlannedModel
from bstar_jax.planning.roofline import least_time
from bstar_jax.planning.topologies import Topology
from bstar_jax.sharding import Placement, Program

Compile = Callable[[Occupancy], PlannedProgram]

_MOST_CHANGES = 40  # of one remedy
_MOST_REMEDIES = 6


@dataclasses.dataclass(frozen=True)
class MeshPlan:
    """A config with some mesh, by arithmetic.

    Attributes:
      config: The config with the mesh and the other changes.
      mesh: (data, fsdp, tensor).
      changes: Settings that differ from those given, by name.
      held: Most bytes that a device holds while any program runs.
      tightest: The name of that program.
      step: Seconds of an optimizer step.
      decode: Seconds of a decode step.
      train_rate: Tokens trained on per second.
      decode_rate: Tokens drawn per second.
      fits: Whether a device has as much, with a margin.
    """

    config: Config
    mesh: tuple[int, int, int]
    changes: dict[str, object]
    held: int
    tightest: str
    step: float
    decode: float
    train_rate: float
    decode_rate: float
    fits: bool


def mesh_plan(
    config: Config, planned: PlannedModel, topology: Topology, changes: dict[str, object]
) -> MeshPlan:
    """Evaluates a config by arithmetic; `changes` say how it differs from the one given."""
    placed = placement.place(config, planned, topology)
    listed = timeline(placed)
    sizes = {each.program.name: each.total for each in listed}
    tightest = max(sizes, key=lambda name: sizes[name])
    programs = {each.program.name: each.program for each in listed}
    step = _pace(programs.get("step") or programs.get("sft_step"), placed, topology)
    decode = _pace(programs["decode"], placed, topology)
    return MeshPlan(
        config, sharding.mesh_sizes(placed.mesh), changes, sizes[tightest], tightest, step[0],
        decode[0], step[1], decode[1], sizes[tightest] <= MARGIN * topology.accelerator.memory,
    )  # fmt: skip


def _pace(program: Program | None, placed: Placement, topology: Topology) -> tuple[float, float]:
    """Seconds of one run of a program, and tokens per second; 0 where there is none."""
    if program is None or program.cost is None:
        return 0.0, 0.0
    far = placement.across_hosts(placed.mesh, topology)
    seconds = least_time(program.cost(), topology.accelerator, far).seconds
    return seconds, program.tokens / seconds if seconds else 0.0


def ranked(config: Config, planned: PlannedModel, topology: Topology) -> list[MeshPlan]:
    """Returns all meshes: those that fit first, then by the product of both rates, descending."""
    found = []
    for other in placement.meshes(config, planned, topology):
        mesh: dict[str, object] = {
            f"mesh.{axis}": getattr(other.mesh, axis) for axis in sharding.MESH_AXES
        }
        found.append(mesh_plan(other, planned, topology, mesh))
    return sorted(found, key=_order)


def _order(one: MeshPlan) -> tuple[bool, float]:
    return not one.fits, -(one.train_rate or 1.0) * one.decode_rate


def remedies(
    config: Config, planned: PlannedModel, topology: Topology, meshes: list[MeshPlan]
) -> list[MeshPlan]:
    """Returns configs that fit by arithmetic, near the one given: on its own mesh, and on others.

    Those with at most three changes besides the mesh come first, then the fastest.
    """
    own = mesh_plan(config, planned, topology, {})
    starts = [own, *(one for one in meshes if one.mesh != own.mesh)][:_MOST_REMEDIES]
    found = [smaller for one in starts if (smaller := _shrunk(one, planned, topology))]

    def order(one: MeshPlan) -> tuple[bool, bool, float]:
        others = sum(not name.startswith("mesh.") for name in one.changes)
        return others > 3, *_order(one)

    return sorted(found, key=order)


def _shrunk(start: MeshPlan, planned: PlannedModel, topology: Topology) -> MeshPlan | None:
    """The plan with as little changed as makes it fit; None where nothing does."""
    current = start
    for _ in range(_MOST_CHANGES):
        if current.fits:
            return current
        change = next(_smaller(current), None)
        if change is None:
            return None
        config = current.config.changed(change)
        current = mesh_plan(config, planned, topology, {**current.changes, **change})
    return None


def _smaller(current: MeshPlan) -> Iterator[dict[str, object]]:
    """Yields changes that lower the memory of the tightest program, the mildest first."""
    config, shards = current.config, current.mesh[0] * current.mesh[1]
    changes: list[dict[str, object]] = []
    name = current.tightest
    if config.generate.weights == "same" and config.model.dtype == "bfloat16":
        changes.append({"generate.weights": "bfloat16"})
    if name.endswith("step"):
        rows = config.training.micro_rows or max(config.sft.batch, config.improve.batch)
        changes.append({"training.micro_rows": _half(rows, shards)})
    if name == "score":
        changes.append({"prm.score_batch": _half(config.prm.score_batch, shards)})
    if "(" in name:  # a phase with long prompts, of which a unit has many
        changes.append({"generate.batch": _half(config.generate.batch, 64 * shards)})
    if name.startswith(("decode", "grow", "prefill", "score")):
        changes.append({"generate.slots": _half(config.generate.slots, shards)})
        changes.append({"generate.batch": _half(config.generate.batch, shards)})
    yield from (change for change in changes if _is_allowed(config, change))


def _half(value: int, multiple: int) -> int:
    """Half of a value, rounded up to a multiple; 0 where that is not less."""
    half = -(-(value // 2) // multiple) * multiple
    return half if half < value else 0


def _is_allowed(config: Config, change: dict[str, object]) -> bool:
    """Whether a change changes something, to a value of 1 or more, that the settings allow."""
    if 0 in change.values():
        return False
    try:
        return config.changed(change) != config
    except UserError:
        return False


# The largest settings.


@dataclasses.dataclass(frozen=True)
class LargestSetting:
    """The largest value of a setting that fits.

    Attributes:
      setting: Its name.
      given: The value now.
      value: The largest that fits; 0 where none does.
      method: "compiled" where the program at this value was compiled and fits; "refused" where it
        was compiled and does not fit, so that arithmetic is wrong; "arithmetic".
      seconds: Seconds of compiling for it.
    """

    setting: str
    given: int
    value: int
    method: str
    seconds: float = 0.0


def largest_setting(
    placed: Placement, setting: str, limit: float, compiled: Compile | None
) -> LargestSetting:
    """Finds the largest value of a setting at which every program that depends on it fits.

    With a compiler, the temporaries of the tightest program are a straight line through those of
    two compiled ones, and the program at the result is compiled once more.

    Args:
      placed: The run.
      setting: One of `memory.SETTINGS`.
      limit: Bytes that a device has.
      compiled: Compiles a program; None is by arithmetic alone.
    """
    given = memory.current(placed, setting)
    if compiled is None:
        value = memory.largest(placed, setting, MARGIN * limit)
        return LargestSetting(setting, given, value, "arithmetic")
    name = _tightest(memory.affected(memory.with_setting(placed, setting, given), setting))

    def at(value: int) -> Occupancy:
        listed = memory.affected(memory.with_setting(placed, setting, value), setting)
        return next(each for each in listed if each.program.name == name)

    values = memory.candidates(placed, setting)
    other = max((value for value in values if value <= given // 2), default=values[0])
    pair = [(value, compiled(at(value))) for value in (given, other)]
    seconds = sum(each.seconds for _, each in pair)
    line = _line(name, [(value, _temporaries(each)) for value, each in pair])
    value = memory.largest(placed, setting, limit, line)
    if not value:
        return LargestSetting(setting, given, 0, "arithmetic", seconds)
    done = compiled(at(value))
    method = "compiled" if done.fits else "refused"
    return LargestSetting(setting, given, value, method, seconds + done.seconds)


def _tightest(listed: list[Occupancy]) -> str:
    """The name of the program that can be compiled and needs most."""
    compilable = [each for each in listed if each.program.lower]
    return max(compilable, key=lambda each: each.total).program.name


def _temporaries(done: PlannedProgram) -> int:
    return sum(done.memory.get(part, 0) for part in ("temporaries", "outputs", "code"))


def _line(name: str, points: list[tuple[int, int]]) -> Callable[[Program, int], float]:
    """Temporaries of one program by a line through two points, of the others as estimated."""
    (right, high), (left, low) = points
    slope = (high - low) / (right - left) if right != left else 0.0

    def temporaries(program: Program, value: int) -> float:
        if program.name != name:
            return program.temporaries
        return max(low + slope * (value - left), 0.0)

    return temporaries
