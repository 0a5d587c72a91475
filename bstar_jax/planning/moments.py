"""What a device holds while each program of a run runs: its arguments, and what lies there beside.

    program             arguments                       lies there beside
    step                training state, batch           (completer) the warm-up parameters
    prm_step            state of the process model      the policy's parameters, the completer's
    gather              parameters                      moments
    prefill, decode     sampling weights, prompts       training state, process model
                        and cache
    score               process model, responses        training state, sampling weights, and the
                                                        unit that decodes meanwhile
    balance             graded responses, one device    training state, sampling weights

Sampling weights and process model are let go before anything trains. Before the first iteration
there are no moments while sampling, but a second set of parameters where a completer was taught.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh

from bstar_jax import sharding
from bstar_jax.planning import loads, temporaries
from bstar_jax.planning.loads import Unit
from bstar_jax.planning.programs import Programs
from bstar_jax.planning.shapes import bytes_on_device
from bstar_jax.process_reward.model import columns_for

PARTS = (
    "parameters", "optimizer", "rollout_weights", "process_model", "cache", "inputs",
    "temporaries", "outputs", "code",
)  # fmt: skip
STEPS_A_TURN = 64
"""Decode steps that one call runs, over which what it does before and after them is spread."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """One program at the time at which it runs.

    Attributes:
      name: Short.
      phases: Where in a run.
      lower: Makes the program; None where there is none, and memory alone is counted.
      arguments: Bytes a device of what it is given, by part.
      beside: Bytes a device of what lies there too, by part.
      temporaries: Bytes a device that it needs while it runs, by arithmetic.
      tokens: Tokens that a run of it, of decoding a step, trains on or draws, on all devices.
      mesh: Where it runs.
      turns: How often a loop of unknown length turns in it.
    """

    name: str
    phases: str
    lower: Callable | None
    arguments: dict[str, int]
    beside: dict[str, int]
    temporaries: int
    tokens: int
    mesh: Mesh
    turns: int = 1


def moments(programs: Programs) -> list[Moment]:
    """Every program of a run, the same for several phases once."""
    config = programs.config
    shards = sharding.row_shards(programs.mesh)
    units = loads.units(config, shards)
    found = _steps(programs) + [_gather(programs)]
    for unit in _distinct(programs, units):
        more = "" if unit is units[0] else f" ({unit.phase})"
        found += [_prefill(programs, unit, more), _decode(programs, unit, more)]
        if unit.tokens_before:
            found.append(_grow(programs, unit, more))
    if config.prm.enabled:
        found.append(_score(programs, units[0]))
    if config.loop.iterations and not config.calibrate.is_single_cell:
        found.append(_balance(programs))
    return found


def _distinct(programs: Programs, units: list[Unit]) -> list[Unit]:
    """The unit of generate, or else of monitor, and the one that needs most where it is another."""
    largest = max(units, key=lambda unit: _cache(programs, unit))
    return [units[0]] + [largest] * (_cache(programs, largest) > _cache(programs, units[0]))


# Training.


def _steps(programs: Programs) -> list[Moment]:
    config = programs.config
    trained = [phase for phase in ("sft", "improve") if _is_run(config, phase)]
    size = lambda phase: loads.step(config, phase, sharding.row_shards(programs.mesh))  # noqa: E731
    alike = len({size(phase) for phase in trained}) == 1
    groups = [trained] if alike else [[phase] for phase in trained]
    found = [_step(programs, group) for group in groups]
    return found + ([_step(programs, ["prm"])] if config.prm.enabled else [])


def _is_run(config, phase: str) -> bool:
    return bool(config.loop.iterations if phase == "improve" else config.sft.steps)


def _step(programs: Programs, phases: list[str]) -> Moment:
    config, is_judge = programs.config, phases == ["prm"]
    state, batch = programs.state(is_judge), programs.batch(phases[0])
    policy = bytes_on_device(programs.state().params)
    taught = bool(config.prm.enabled and config.prm.completer_steps)
    beside = policy * (1 + taught) if is_judge else policy * (taught and "sft" in phases)
    names = list(phases)
    if taught and not is_judge and "sft" in phases:
        names.insert(1, "completer")
    frozen = 0 if is_judge else bytes_on_device(programs.frozen())
    size = loads.step(config, phases[0], sharding.row_shards(programs.mesh))
    return Moment(
        "prm_step" if is_judge else "step" if "improve" in phases else "sft_step",
        ", ".join(names),
        lambda: programs.step(phases[0]),
        {
            "parameters": bytes_on_device(state.params) + frozen,
            "optimizer": bytes_on_device(state.optimizer),
            "inputs": bytes_on_device(batch),
        },
        {"parameters": beside},
        temporaries.step(programs, size, bytes_on_device(state.params)),
        size.tokens,
        programs.mesh,
    )


def _gather(programs: Programs) -> Moment:
    state = programs.state()
    weights = bytes_on_device(programs.weights())
    return Moment(
        "gather", "before sampling", programs.gather,
        {"parameters": bytes_on_device(state.params) + bytes_on_device(programs.frozen())},
        {"optimizer": bytes_on_device(state.optimizer), "outputs": 0},
        2 * weights, 0, programs.mesh,
    )  # fmt: skip


# Sampling.


def _token(programs: Programs) -> int:
    """Bytes a device of the keys and values of one token of one of its rows."""
    model = programs.rollout
    item = 2 if model.dtype == "bfloat16" else 4
    groups = model.kv_heads // programs.mesh.shape["tensor"]
    return 2 * model.layers * groups * model.width_per_head * item


def _cache(programs: Programs, unit: Unit) -> int:
    return _token(programs) * (unit.prompt_tokens + unit.response_tokens)


def _while_sampling(programs: Programs, unit: Unit | None) -> dict[str, int]:
    """What lies on a device beside what samples, by part."""
    config, state = programs.config, programs.state()
    params = bytes_on_device(state.params) + bytes_on_device(programs.frozen())
    if unit and unit.phase.startswith("prm"):
        taught = unit.phase == "prm-continued" and config.prm.completer_steps
        return {"parameters": params * (2 if taught else 1)}
    judge = bytes_on_device(programs.process_model()) if config.prm.enabled else 0
    moments = bytes_on_device(state.optimizer) if config.loop.iterations else 0
    return {"parameters": params, "optimizer": moments, "process_model": judge}


def _prefill(programs: Programs, unit: Unit, more: str) -> Moment:
    model, site = programs.rollout, programs.site
    tokens = unit.turn * unit.prompt
    scratch = 8 * tokens * (model.width + model.feed_forward // site.shape["tensor"])
    return Moment(
        "prefill" + more, unit.phase, lambda: programs.prefill(unit),
        {
            "rollout_weights": bytes_on_device(programs.weights()),
            "cache": bytes_on_device(programs.prompts(unit)),
        },
        _while_sampling(programs, unit), scratch,
        tokens * sharding.row_shards(programs.mesh), site,
    )  # fmt: skip


def _decode(programs: Programs, unit: Unit, more: str) -> Moment:
    cache = programs.cache(unit)
    prompts = bytes_on_device(programs.prompts(unit))
    lanes = bytes_on_device((cache.prompt_key, cache.prompt_value)) or prompts
    return Moment(
        "decode" + more, unit.phase, lambda: programs.decode(unit),
        {
            "rollout_weights": bytes_on_device(programs.weights()),
            "cache": bytes_on_device(cache) + prompts,
        },
        _while_sampling(programs, unit), temporaries.decode(programs, unit, lanes),
        unit.slots * sharding.row_shards(programs.mesh), programs.site, STEPS_A_TURN,
    )  # fmt: skip


def _grow(programs: Programs, unit: Unit, more: str) -> Moment:
    """The cache copied into a larger one, for the last time: both are there."""
    cache = programs.cache(unit)
    prompts = bytes_on_device(programs.prompts(unit))
    lanes = bytes_on_device((cache.prompt_key, cache.prompt_value))
    before = _token(programs) * unit.tokens_before
    return Moment(
        "grow" + more, unit.phase, None,
        {
            "rollout_weights": bytes_on_device(programs.weights()),
            "cache": prompts + bytes_on_device(cache) + before + lanes,
        },
        _while_sampling(programs, unit), 0, 0, programs.site,
    )  # fmt: skip


def _score(programs: Programs, unit: Unit) -> Moment:
    config, model = programs.config, programs.judge
    state, cache = _while_sampling(programs, None), bytes_on_device(programs.cache(unit))
    judge = state.pop("process_model")
    rows = config.prm.score_batch // sharding.row_shards(programs.mesh)
    length = columns_for(config.generate.max_prompt_tokens + config.generate.max_tokens)
    scratch = (
        rows * length * 8 * (model.width + model.feed_forward // programs.site.shape["tensor"])
    )
    layer = 2 * judge * programs.site.shape["fsdp"] // model.layers
    return Moment(
        "score", "grading, while the next unit decodes", programs.score,
        {"process_model": judge, "inputs": 8 * rows * length},
        {
            **state,
            "rollout_weights": bytes_on_device(programs.weights()),
            "cache": cache + bytes_on_device(programs.prompts(unit)),
        },
        scratch + layer, config.prm.score_batch * length, programs.site,
    )  # fmt: skip


def _balance(programs: Programs) -> Moment:
    grid = programs.config.calibrate
    cells = grid.sampling_cells * grid.queries * grid.responses
    given = cells * (7 + 4 + 4 * len(grid.process_weights))
    state = _while_sampling(programs, None)
    beside = {**state, "rollout_weights": bytes_on_device(programs.weights())}
    return Moment(
        "balance",
        "calibrate",
        programs.balance,
        {"inputs": given},
        beside,
        min(8 * given, 2**28),
        0,
        programs.mesh,
    )


def total(parts: dict[str, int]) -> int:
    """Bytes of all parts."""
    return sum(parts.values())


def joined(*several: dict[str, int]) -> dict[str, int]:
    """Parts added up by name, in the order of `PARTS`."""
    names = [name for name in PARTS if any(name in parts for parts in several)]
    return {name: sum(parts.get(name, 0) for parts in several) for name in names}


def estimated(moment: Moment) -> dict[str, int]:
    """Bytes a device holds at a moment, by part, by arithmetic alone."""
    return joined(moment.arguments, moment.beside, {"temporaries": moment.temporaries})
