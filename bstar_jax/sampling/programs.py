"""The sampling programs of a run by shapes alone: what each holds on a device, needs and does.

All at their largest: prompts as long as allowed, responses at the limit.

With W the weights of the layers, V D those of the head, S slots a row shard and t, f, d the sizes
of the mesh axes, a device does

    prefill     2 T W / t of products for T tokens, reads the weights once
    decode      2 S (W + V D) / t of products a step, and attention; reads all weights and the
                whole cache
    over t      two sums a layer
    gather      reads the parameters, writes the weights, receives f - 1 of f parts of them
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from bstar_jax import model, sharding
from bstar_jax.config import Config, ModelConfig
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling import decode as decoding
from bstar_jax.sampling import weights as rollout_weights
from bstar_jax.sampling.decode import Work
from bstar_jax.sampling.engine import FIRST_COLUMNS, STEPS_A_CALL, Layout, layout
from bstar_jax.sampling.prefill import TOKENS_A_TURN, prefill
from bstar_jax.sharding.program import (
    Collective,
    Cost,
    Placement,
    Program,
    abstract,
    abstract_copy,
    abstract_rows,
    bytes_on_device,
    collective,
    item_bytes,
    lower,
    matrix_sizes,
)
from bstar_jax.training import programs as training

_MANY = 10**9  # queries of a phase, where the settings do not say how many


def programs(placement: Placement) -> list[Program]:
    """Lists the gathering of weights, and the programs of the units that need most.

    These are the unit of generate, or else of monitor, and the unit with the largest cache where
    that is another.
    """
    units = unit_shapes(placement.config, sharding.row_shards(placement.mesh))
    sizes = [_cache_bytes(placement, unit) for unit in units]
    largest = units[sizes.index(max(sizes))]
    found = [_gather(placement), *_of_unit(placement, units[0], "")]
    if max(sizes) > sizes[0]:
        found += _of_unit(placement, largest, f" ({largest.phase})")
    return found


def resident(placement: Placement) -> dict[str, int]:
    """Returns the bytes of the weights, and of the cache of the unit that is being decoded."""
    unit = unit_shapes(placement.config, sharding.row_shards(placement.mesh))[0]
    held = bytes_on_device(cache(placement, unit)) + bytes_on_device(prompts(placement, unit))
    return {"rollout_weights": bytes_on_device(weights(placement)), "cache": held}


def _of_unit(placement: Placement, unit: UnitShape, suffix: str) -> list[Program]:
    found = [_prefill(placement, unit, suffix), _decode(placement, unit, suffix)]
    return found + [_grow(placement, unit, suffix)] * bool(unit.tokens_before)


# Units.


@dataclasses.dataclass(frozen=True)
class UnitShape:
    """A unit of a sampling phase, as one row shard has it.

    Attributes:
      phase: The phase.
      queries: Q, queries of a shard.
      samples: N, responses a query.
      prompt: P, tokens that a prompt has room for.
      columns: L, tokens of a response that are stored at the end.
      turn: Queries of a shard that one call of prefill takes.
      layout: Lanes, slots and prompts.
    """

    phase: str
    queries: int
    samples: int
    prompt: int
    columns: int
    turn: int
    layout: Layout

    @property
    def slots(self) -> int:
        """Responses that a shard decodes at once."""
        return self.layout.lanes * self.layout.slots

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens whose keys and values are kept: those of the unit, and of lanes again."""
        own = self.layout.lanes * self.layout.sides if self.layout.sides > 1 else 0
        return (self.queries + own) * self.prompt

    @property
    def response_tokens(self) -> int:
        """Response tokens that the cache has room for at the end."""
        return self.slots * self.columns

    @property
    def tokens_before(self) -> int:
        """Response tokens it had room for before it last grew; 0 if it never grows."""
        columns = min(FIRST_COLUMNS, self.columns)
        while 2 * columns < self.columns:
            columns *= 2
        return self.slots * columns if columns < self.columns else 0


def unit_shapes(config: Config, shards: int) -> list[UnitShape]:
    """Returns the largest unit of every sampling phase that a run has.

    Args:
      config: All settings.
      shards: Row shards of the mesh.
    """
    settings = config.generate
    grid, prm, monitor = config.calibrate, config.prm, config.monitor
    phases = [("monitor", monitor.queries, monitor.responses + 1, 0)]
    if config.loop.iterations:
        queries = settings.queries or _MANY
        phases.insert(0, ("generate", queries, settings.responses, 0))
        if not grid.is_single_cell:
            phases.append(("calibrate", grid.queries, grid.sampling_cells * grid.responses, 0))
    if prm.enabled:
        phases.append(("prm", prm.queries + prm.heldout, prm.responses, 0))
        phases.append(("prm-continued", _MANY, prm.continuations, settings.max_tokens - 1))
    return [unit_shape(config, shards, *phase) for phase in phases]


def unit_shape(
    config: Config, shards: int, phase: str, queries: int, samples: int, begun: int = 0
) -> UnitShape:
    """Returns the largest unit of a phase.

    Args:
      config: All settings.
      shards: Row shards of the mesh.
      phase: Its name.
      queries: Queries of the phase.
      samples: Responses a query.
      begun: Most tokens that a response may already have.
    """
    settings = config.generate
    most = max(settings.batch // (samples * shards), 1) * shards
    count = max(math.ceil(queries / most), 1)
    size = math.ceil(queries / count / shards)
    prompt = settings.max_prompt_tokens + begun
    return UnitShape(
        phase,
        size,
        samples,
        prompt,
        max(settings.max_tokens - 1, 1),
        min(max(TOKENS_A_TURN // (prompt * shards), 1), size),
        layout(size, samples, max(settings.slots // shards, 1)),
    )


# Shapes.


def sampled_model(placement: Placement) -> ModelConfig:
    """Returns the model as sampling computes it."""
    merged = training.merged_model(placement)
    return rollout_weights.rollout_config(merged, placement.config.generate.weights)


@functools.lru_cache(maxsize=64)
def _weight_shapes(config: ModelConfig, kind: str, vocab: int) -> dict:
    cast = functools.partial(rollout_weights.rollout_params, config, mesh=None, weights=kind)
    return jax.eval_shape(cast, training.parameter_shapes(config, vocab))


def weights(placement: Placement) -> dict:
    """Returns the parameters that sampling reads, on the sampling map of its mesh."""
    config = training.merged_model(placement)
    vocab = sharding.padded_vocab(config, placement.mesh)
    shapes = _weight_shapes(config, placement.config.generate.weights, vocab)
    axes = model.logical_axes(config, training.parameter_shapes(config, config.vocab_size))
    targets = rollout_weights.places(placement.sampling_mesh, shapes, axes, sharding.SAMPLING)
    return jax.tree.map(abstract, shapes, targets)


def prompts(placement: Placement, unit: UnitShape) -> caches.Prompts:
    """Returns the keys and values of the prompts of a unit."""
    shards = sharding.row_shards(placement.sampling_mesh)
    like = jax.eval_shape(
        functools.partial(
            caches.empty_prompts, sampled_model(placement), shards, unit.queries, unit.prompt
        )
    )
    target = _sharding(placement, caches.PROMPT_AXES)
    return caches.Prompts(abstract(like.key, target), abstract(like.value, target))


def cache(placement: Placement, unit: UnitShape) -> caches.Cache:
    """Returns the keys and values of the lanes and slots of a unit, at their largest."""

    def start(prompts: caches.Prompts) -> caches.Cache:
        return caches.start(sampled_model(placement), prompts, unit.layout.shape, unit.columns)

    like = jax.eval_shape(start, prompts(placement, unit))
    lanes, slots = _sharding(placement, caches.LANE_AXES), _sharding(placement, caches.SLOT_AXES)
    return caches.Cache(
        None if like.prompt_key is None else abstract(like.prompt_key, lanes),
        None if like.prompt_value is None else abstract(like.prompt_value, lanes),
        abstract(like.key, slots),
        abstract(like.value, slots),
    )


def _sharding(placement: Placement, axes: tuple[str | None, ...]) -> NamedSharding:
    return NamedSharding(placement.sampling_mesh, sharding.spec(axes, sharding.SAMPLING))


def _work(placement: Placement, unit: UnitShape) -> Work:
    """What the programs of a unit are told to sample."""
    mesh, settings = placement.sampling_mesh, placement.config.generate
    shards = sharding.row_shards(mesh)
    rows = functools.partial(abstract_rows, mesh)
    each = (shards, unit.queries, unit.samples)
    return Work(
        real_D=rows((shards,), "int32"),
        lengths_DQ=rows((shards, unit.queries), "int32"),
        last_DQ=rows((shards, unit.queries), "int32"),
        keys_DQN2=rows((*each, 2), "uint32"),
        limit_DQN=rows(each, "int32"),
        temperature_N=abstract_copy(mesh, (unit.samples,), "float32"),
        top_k_N=abstract_copy(mesh, (unit.samples,), "int32"),
        top_p=abstract_copy(mesh, (), "float32") if settings.top_p != 1 else None,
        min_p=abstract_copy(mesh, (), "float32") if settings.min_p != 0 else None,
        stop_AV=None,
        prompts=prompts(placement, unit),
    )


# Programs.


def _gather(placement: Placement) -> Program:
    """Copies the parameters that train into those that sampling reads."""
    config, kind = training.merged_model(placement), placement.config.generate.weights
    held = bytes_on_device(weights(placement))

    def lowered() -> Any:
        mesh = placement.mesh
        take = functools.partial(rollout_weights.rollout_params, config, mesh=mesh, weights=kind)
        return lower(mesh, jax.jit(take), training.parameters(placement))

    return Program(
        "gather", "gather", ("before sampling",), placement.mesh, lowered,
        # The weights that it writes count among the temporaries, with a copy in another layout.
        {"parameters": training.resident(placement)["parameters"], "outputs": 0},
        2 * held,
        functools.partial(_gather_cost, placement),
    )  # fmt: skip


def _prefill(placement: Placement, unit: UnitShape, suffix: str) -> Program:
    config, mesh = sampled_model(placement), placement.sampling_mesh
    tokens = unit.turn * unit.prompt

    def lowered() -> Any:
        shards = sharding.row_shards(mesh)
        return lower(
            mesh, prefill, config, weights(placement), prompts(placement, unit),
            abstract_rows(mesh, (shards, unit.turn, unit.prompt), "int32"),
            abstract_rows(mesh, (shards, unit.turn), "int32"),
            abstract_copy(mesh, (), "int32"),
        )  # fmt: skip

    total = tokens * sharding.row_shards(placement.mesh)
    return Program(
        "prefill" + suffix, "sample", (unit.phase,), mesh, lowered,
        {
            "rollout_weights": bytes_on_device(weights(placement)),
            "cache": bytes_on_device(prompts(placement, unit)),
        },
        8 * tokens * (config.width + config.feed_forward // mesh.shape["tensor"]),
        functools.partial(_prefill_cost, placement, total), total,
    )  # fmt: skip


def _decode(placement: Placement, unit: UnitShape, suffix: str) -> Program:
    """The loop of decode steps with the cache at its largest."""
    mesh = placement.sampling_mesh
    stored, own = cache(placement, unit), bytes_on_device(prompts(placement, unit))
    lanes = bytes_on_device((stored.prompt_key, stored.prompt_value)) or own

    def lowered() -> Any:
        state = _decode_state(placement, unit)
        return lower(
            mesh, decoding.decode, sampled_model(placement), weights(placement),
            _work(placement, unit), state, abstract_copy(mesh, (), "int32"), end_id=1,
        )  # fmt: skip

    return Program(
        "decode" + suffix, "sample", (unit.phase,), mesh, lowered,
        {
            "rollout_weights": bytes_on_device(weights(placement)),
            "cache": bytes_on_device(stored) + own,
        },
        _decode_temporaries(placement, unit, lanes),
        functools.partial(_decode_cost, placement, unit),
        unit.slots * sharding.row_shards(placement.mesh), STEPS_A_CALL,
    )  # fmt: skip


def _decode_state(placement: Placement, unit: UnitShape) -> Any:
    """What one decode step passes to the next, where the compiler puts it before the first."""
    settings = {
        "shape": unit.layout.shape, "columns": unit.columns, "max_tokens": unit.columns + 1
    }  # fmt: skip
    config, work = sampled_model(placement), _work(placement, unit)
    like = jax.eval_shape(functools.partial(decoding.start, config, **settings), work)
    lowered = lower(placement.sampling_mesh, decoding.start, config, work, **settings)
    return jax.tree.map(abstract, like, lowered.compile().output_shardings)


def _grow(placement: Placement, unit: UnitShape, suffix: str) -> Program:
    """The last copy of the cache into a larger one, while both lie on the device."""
    stored = cache(placement, unit)
    lanes = bytes_on_device((stored.prompt_key, stored.prompt_value))
    before = _token_bytes(placement) * unit.tokens_before
    held = bytes_on_device(prompts(placement, unit)) + bytes_on_device(stored) + before + lanes
    return Program(
        "grow" + suffix, "sample", (unit.phase,), placement.sampling_mesh, None,
        {"rollout_weights": bytes_on_device(weights(placement)), "cache": held}, 0,
    )  # fmt: skip


# Memory and work.


def _token_bytes(placement: Placement) -> int:
    """Bytes on a device of the keys and values of one token."""
    config = sampled_model(placement)
    groups = config.kv_heads // placement.mesh.shape["tensor"]
    return 2 * config.layers * groups * config.width_per_head * item_bytes(config)


def _cache_bytes(placement: Placement, unit: UnitShape) -> int:
    return _token_bytes(placement) * (unit.prompt_tokens + unit.response_tokens)


def _decode_temporaries(placement: Placement, unit: UnitShape, lanes: int) -> int:
    """Estimates the bytes that decoding needs besides weights and cache.

    The compiler keeps the prompts of lanes, and the weights of queries, keys and values, in
    another layout; then there are the scores of the next token.
    """
    config, tensor = sampled_model(placement), placement.mesh.shape["tensor"]
    heads = (config.heads + 2 * config.kv_heads) * config.width_per_head // tensor
    copied = 2 * config.layers * config.width * heads
    scores = 3 * 4 * unit.slots * sharding.padded_vocab(config, placement.mesh) // tensor
    return lanes + copied + scores


def _decode_cost(placement: Placement, unit: UnitShape) -> Cost:
    """Estimates the work of one decode step with the cache at its largest."""
    config, tensor = sampled_model(placement), placement.mesh.shape["tensor"]
    sizes, item = matrix_sizes(placement), item_bytes(config)
    stored = bytes_on_device(weights(placement))
    embedding = 0 if placement.model.tied else sizes.head * item / tensor
    held = bytes_on_device(cache(placement, unit))
    context = unit.prompt * unit.layout.sides + unit.columns
    attention = 4 * unit.slots * context * config.heads * config.width_per_head * config.layers
    products = (2 * unit.slots * (sizes.layers + sizes.head) + attention) / tensor
    read = held if unit.layout.sides > 1 else held + bytes_on_device(prompts(placement, unit))
    sums = layer_sums(placement, unit.slots)
    return Cost(products, stored - embedding + read, tuple(sums))


def _prefill_cost(placement: Placement, total: int) -> Cost:
    shards, tensor = sharding.row_shards(placement.mesh), placement.mesh.shape["tensor"]
    tokens = total / shards
    products = 2 * tokens * matrix_sizes(placement).layers / tensor
    sums = [each for each in layer_sums(placement, tokens) if each.received]
    return Cost(products, bytes_on_device(weights(placement)), tuple(sums))


def layer_sums(placement: Placement, tokens: float) -> list[Collective]:
    """Returns what `tensor` devices exchange for some tokens: two sums a layer."""
    config, tensor = sampled_model(placement), placement.mesh.shape["tensor"]
    item = item_bytes(config)
    sums = 2 * config.layers * tokens * config.width * item * 2 * (tensor - 1) / tensor
    return collective("all-reduce", "tensor", tensor, sums)


def _gather_cost(placement: Placement) -> Cost:
    fsdp = placement.mesh.shape["fsdp"]
    stored = bytes_on_device(weights(placement))
    received = collective("all-gather", "fsdp", fsdp, stored * (fsdp - 1) / fsdp)
    read = bytes_on_device(training.state(placement, placement.model).params)
    return Cost(0.0, read + 3.0 * stored, tuple(received))
