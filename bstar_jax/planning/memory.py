"""What a device holds while each program of a run runs, by arithmetic: nothing is compiled.

    stage      a program's arguments            what else lies on a device
    train      state, batch                     the policy's parameters where another model trains:
                                                the process reward model, or its completer before it
    gather     parameters                       Adam's moments
    sample     sampling weights, prompts        parameters, moments, process reward model
               and cache
    grade      process reward model, responses  parameters, moments, sampling weights, and the cache
                                                of the unit that decodes meanwhile
    choose     graded responses, on one device  parameters, moments, sampling weights, process
                                                reward model

Sampling weights and process reward model leave the devices before anything trains. Its labels are
sampled before the first iteration: there are no moments then, but a second set of parameters
where a completer was taught.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping

from bstar_jax import sharding
from bstar_jax.balance import programs as balance
from bstar_jax.config import Config
from bstar_jax.process_reward import programs as process_reward
from bstar_jax.sampling import programs as sampling
from bstar_jax.sharding.program import Placement, Program, Stage, bytes_on_device
from bstar_jax.training import programs as training

PARTS = (
    "parameters", "optimizer", "rollout_weights", "process_model", "cache", "inputs",
    "temporaries", "outputs", "code",
)  # fmt: skip
"""What a device's memory is divided into, in the order in which it is shown."""
MARGIN = 0.97
"""Share of a device's memory that arithmetic may fill: it misses less than a twentieth."""
SETTINGS = {
    "training.micro_rows": ("step", "sft_step", "prm_step"),
    "generate.slots": ("decode", "grow", "score"),
}
"""Setting whose largest value can be found -> beginnings of the names of programs it affects."""

_STAGES = typing.get_args(Stage)


@dataclasses.dataclass(frozen=True)
class Occupancy:
    """A program with everything that a device holds while it runs, in bytes.

    Attributes:
      program: The program.
      resident: What lies there besides its arguments, by part.
    """

    program: Program
    resident: Mapping[str, int]

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, temporaries as estimated."""
        temporaries = {"temporaries": self.program.temporaries}
        return joined(self.program.arguments, self.resident, temporaries)

    @property
    def known(self) -> int:
        """Bytes of everything but the temporaries."""
        return total(self.program.arguments) + total(self.resident)

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return total(self.parts)


def timeline(placement: Placement) -> list[Occupancy]:
    """Returns every program of a run, in the order of its stages, with what lies beside it."""
    rooms = (training, process_reward, sampling, balance)
    programs = [program for room in rooms for program in room.programs(placement)]
    programs.sort(key=lambda program: _STAGES.index(program.stage))
    return [Occupancy(program, _resident(placement, program)) for program in programs]


def _resident(placement: Placement, program: Program) -> dict[str, int]:
    """What the rooms have on a device while a program runs that is not its argument."""
    if program.stage == "train":
        return {"parameters": _other_parameters(placement, program)}
    held = training.resident(placement)
    if program.phases[0].startswith("prm"):
        is_taught = program.phases == ("prm-continued",) and placement.config.prm.completer_steps
        return {"parameters": held["parameters"] * (2 if is_taught else 1)}
    if program.stage == "gather":
        return {"optimizer": held["optimizer"]}
    if not placement.config.loop.iterations:
        held["optimizer"] = 0
    if program.stage in ("sample", "choose"):
        held |= process_reward.resident(placement)
    if program.stage in ("grade", "choose"):
        held |= sampling.resident(placement)
    if program.stage == "choose":  # no unit is being decoded
        del held["cache"]
    return held


def _other_parameters(placement: Placement, program: Program) -> int:
    """Bytes of the policy's parameters, once for each model that trains after it."""
    policy = bytes_on_device(training.state(placement, placement.model).params)
    prm = placement.config.prm
    if program.phases == ("prm",):
        return policy * (2 if prm.completer_steps else 1)
    return policy if "completer" in program.phases else 0


def total(parts: Mapping[str, int]) -> int:
    """Returns the bytes of all parts."""
    return sum(parts.values())


def joined(*several: Mapping[str, int]) -> dict[str, int]:
    """Adds parts up by name, in the order of `PARTS`."""
    names = [name for name in PARTS if any(name in parts for parts in several)]
    return {name: sum(parts.get(name, 0) for parts in several) for name in names}


# The largest settings.


def affected(placement: Placement, setting: str) -> list[Occupancy]:
    """Returns the programs whose memory depends on a setting, one of `SETTINGS`."""
    names = SETTINGS[setting]
    return [each for each in timeline(placement) if each.program.name.startswith(names)]


def with_setting(placement: Placement, setting: str, value: int) -> Placement:
    """Returns the same placement with one setting changed."""
    return dataclasses.replace(placement, config=placement.config.changed({setting: value}))


def largest(
    placement: Placement,
    setting: str,
    limit: float,
    temporaries: Callable[[Program, int], float] = lambda program, value: program.temporaries,
) -> int:
    """Finds the largest value of a setting at which every program that depends on it fits.

    Args:
      placement: The run.
      setting: One of `SETTINGS`.
      limit: Bytes that a device has for them.
      temporaries: Bytes of a program's temporaries at a value of the setting; by default as its
        room estimates them.

    Returns:
      The value; 0 where none fits.
    """
    fitting = 0
    for value in candidates(placement, setting):
        found = affected(with_setting(placement, setting, value), setting)
        if all(each.known + temporaries(each.program, value) <= limit for each in found):
            fitting = value
    return fitting


def current(placement: Placement, setting: str) -> int:
    """Returns the value that a setting has now, as the mesh rounds it."""
    config, shards = placement.config, sharding.row_shards(placement.mesh)
    if setting == "generate.slots":
        return -(-config.generate.slots // shards) * shards
    phase = "improve" if config.loop.iterations else "sft"
    return training.step_shape(config, phase, shards).micro_rows


def candidates(placement: Placement, setting: str) -> list[int]:
    """Returns values that a setting may take on the mesh, in ascending order."""
    shards, now = sharding.row_shards(placement.mesh), current(placement, setting)
    if setting == "generate.slots":
        return _thinned([shards * count for count in range(1, 8 * now // shards + 1)], now)
    return _micro_rows(placement.config, shards, now)


def _micro_rows(config: Config, shards: int, now: int) -> list[int]:
    batches = [config.improve.batch] if config.loop.iterations else []
    batches += [config.sft.batch] if config.sft.steps else []
    batches += [config.prm.batch] if config.prm.enabled else []
    values = range(shards, max(batches) + 1, shards)
    if config.training.row_tokens:
        return [rows for rows in values if rows % now == 0 or now % rows == 0]
    return [rows for rows in values if all(batch % rows == 0 for batch in batches)]


def _thinned(values: list[int], now: int) -> list[int]:
    """Keeps values at least 12 % apart, and the current one."""
    kept: list[int] = []
    for value in values:
        if value == now or not kept or value >= 1.12 * kept[-1]:
            kept.append(value)
    return kept
