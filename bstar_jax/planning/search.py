"""What fits: meshes ranked, the nearest settings that fit, and the largest that do.

Everything is found by arithmetic first, which the compiler then confirms or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from bstar_jax import sharding
from bstar_jax.config import Config, UserError
from bstar_jax.planning import arithmetic, moments, placing
from bstar_jax.planning.arithmetic import with_changes
from bstar_jax.planning.chips import Topology
from bstar_jax.planning.compiling import Measured, time_of
from bstar_jax.planning.moments import Moment
from bstar_jax.planning.programs import Programs
from bstar_jax.planning.published import Shape

MARGIN = 0.97
"""Share of a device's memory that arithmetic may fill: what it leaves out is below a twentieth."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh, by arithmetic.

    Attributes:
      config: The config with it, and with what else was changed.
      mesh: (data, fsdp, tensor).
      changes: Settings that differ from those given, by name.
      held: Most bytes that a device holds at any moment.
      tightest: The name of that moment.
      step: Seconds of an optimizer step.
      decode: Seconds of a decode step.
      train_rate: Tokens trained on a second.
      decode_rate: Tokens drawn a second.
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


def candidate(
    config: Config, shape: Shape, topology: Topology, changes: dict[str, object]
) -> Candidate:
    """A config judged by arithmetic; `changes` say how it differs from what was given."""
    programs = placing.place(config, shape, topology)
    listed = moments.moments(programs)
    sizes = {each.name: moments.total(moments.estimated(each)) for each in listed}
    tightest = max(sizes, key=sizes.get)
    times = {
        each.name: (_seconds(programs, each, topology), each.tokens)
        for each in listed
        if each.name in ("step", "sft_step", "decode")
    }
    step, decode = times.get("step") or times.get("sft_step") or (0.0, 0), times["decode"]
    rate = lambda pair: pair[1] / pair[0] if pair[0] else 0.0  # noqa: E731
    return Candidate(
        config, placing.mesh_of(programs), changes, sizes[tightest], tightest, step[0], decode[0],
        rate(step), rate(decode), sizes[tightest] <= MARGIN * topology.chip.memory,
    )  # fmt: skip


def _seconds(programs: Programs, moment: Moment, topology: Topology) -> float:
    done = arithmetic.work_of(programs, moment)
    return time_of(done, topology.chip, placing.across_hosts(programs.mesh, topology)).seconds


def ranked(config: Config, shape: Shape, topology: Topology) -> list[Candidate]:
    """All meshes, those that fit first, then by the product of both rates, the faster first."""
    found = []
    for other in placing.meshes(config, shape, topology):
        mesh = {f"mesh.{axis}": getattr(other.mesh, axis) for axis in sharding.MESH_AXES}
        found.append(candidate(other, shape, topology, mesh))
    return sorted(found, key=_merit)


def _merit(one: Candidate) -> tuple:
    return not one.fits, -(one.train_rate or 1.0) * one.decode_rate


def remedies(
    config: Config, shape: Shape, topology: Topology, meshes: list[Candidate]
) -> list[Candidate]:
    """Configs that fit by arithmetic, near the one given: on its own mesh, and on others."""
    own = candidate(config, shape, topology, {})
    found = []
    for start in [own, *(one for one in meshes if one.mesh != own.mesh)][:6]:
        smaller = _shrunk(start, shape, topology)
        if smaller is not None:
            found.append(smaller)
    # Fewest settings besides the mesh first, then the fastest.
    small = lambda one: sum(not name.startswith("mesh.") for name in one.changes)  # noqa: E731
    return sorted(found, key=lambda one: (small(one) > 3, *_merit(one)))


def _shrunk(start: Candidate, shape: Shape, topology: Topology) -> Candidate | None:
    """The candidate with as little changed as makes it fit; None where nothing does."""
    current = start
    for _ in range(40):
        if current.fits:
            return current
        change = next(_smaller(current, topology), None)
        if change is None:
            return None
        config = with_changes(current.config, change)
        current = candidate(config, shape, topology, {**current.changes, **change})
    return None


def _smaller(current: Candidate, topology: Topology) -> Iterator[dict[str, object]]:
    """What could be made smaller to lower the tightest moment, the mildest first."""
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
    for change in changes:
        (setting, value), *_ = change.items()
        section, field = setting.split(".")
        before = getattr(getattr(config, section), field)
        if (
            (isinstance(value, str) or 0 < value)
            and value != before
            and _is_allowed(config, change)
        ):
            yield change


def _half(value: int, multiple: int) -> int:
    """Half of a value, rounded up to a multiple; 0 where that is no less."""
    half = -(-(value // 2) // multiple) * multiple
    return half if half < value else 0


def _is_allowed(config: Config, change: dict[str, object]) -> bool:
    try:
        with_changes(config, change)
    except UserError:
        return False
    return True


# The largest settings.


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest value of a setting that fits.

    Attributes:
      setting: Its name.
      given: The value of the config.
      value: The largest that fits; 0 where none does.
      method: "compiled" where the program of this value was compiled and fits; "refused" where it
        was and does not, so that arithmetic is off; "arithmetic".
      seconds: Of compiling for it.
    """

    setting: str
    given: int
    value: int
    method: str
    seconds: float = 0.0


def largest(
    programs_of: Callable[[int], Programs],
    setting: str,
    given: int,
    values: list[int],
    names: tuple[str, ...],
    limit: float,
    compiled: Callable[[Moment], Measured] | None,
) -> Largest:
    """The largest of some values with which every moment fits whose name begins so.

    Temporaries of the tightest are a straight line through those of two compiled programs; what
    lies there beside them is known. The program of the result is compiled once more.

    Args:
      programs_of: The programs with a value of the setting, whose value of the config is `given`.
      values: To choose from, in rising order.
      names: Beginnings of the names of moments that depend on it.
      limit: Bytes that a device has.
      compiled: Compiles a moment; None is by arithmetic alone.
    """
    listed = lambda value: [  # noqa: E731
        each for each in moments.moments(programs_of(value)) if each.name.startswith(names)
    ]
    tightest = _tightest([each for each in listed(given) if each.lower])
    correct, seconds = (lambda moment, value: moment.temporaries), 0.0
    if compiled:
        correct, seconds = _corrected(listed, tightest, values, given, compiled)
    beside = lambda each: moments.total(each.arguments) + moments.total(each.beside)  # noqa: E731
    most = limit if compiled else MARGIN * limit
    fitting = [
        value
        for value in values
        if all(beside(each) + correct(each, value) <= most for each in listed(value))
    ]
    if not fitting or compiled is None:
        return Largest(setting, given, max(fitting, default=0), "arithmetic", seconds)
    done = compiled(_named(listed(fitting[-1]), tightest))
    method = "compiled" if done.fits else "refused"
    return Largest(setting, given, fitting[-1], method, seconds + done.seconds)


def _corrected(listed: Callable, name: str, values: list[int], given: int, compiled: Callable):
    """Temporaries as two compiled programs of a moment have them, and the seconds that it took."""
    other = max((value for value in values if value <= given // 2), default=values[0])
    pair = [(value, compiled(_named(listed(value), name))) for value in (given, other)]
    line = _line(name, [(value, _temporaries(each)) for value, each in pair])
    return line, sum(each.seconds for _, each in pair)


def _tightest(listed: list[Moment]) -> str:
    return max(listed, key=lambda each: moments.total(moments.estimated(each))).name


def _named(listed: list[Moment], name: str) -> Moment:
    return next(each for each in listed if each.name == name)


def _temporaries(done: Measured) -> int:
    return sum(done.memory.get(part, 0) for part in ("temporaries", "outputs", "code"))


def _line(name: str, points: list[tuple[int, int]]) -> Callable[[Moment, int], float]:
    """Temporaries of one moment by a line through two points, of the others by arithmetic."""
    (right, high), (left, low) = points
    slope = (high - low) / (right - left) if right != left else 0.0

    def correct(moment: Moment, value: int) -> float:
        if moment.name != name:
            return moment.temporaries
        return max(low + slope * (value - left), 0.0)

    return correct
