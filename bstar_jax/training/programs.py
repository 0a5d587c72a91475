"""The optimizer steps of a run by shapes alone: what each holds on a device, needs and does.

All at their largest: rows full of text, texts as long as the settings allow.

With W the weights of the layers, V D those of the head, T tokens a device and t, f, d the sizes
of the mesh axes, a step does

    products    2 T (W (3 + again) + 3 V D) / t, where `again` is what remat computes twice: all
                but the last product of a layer, whose result is not needed; attention, 11 halves
                of T L A E / t twice, or 9 without remat
    over f      the weights twice in the type of the computation, the gradient once, each pass
    over t      the sums of a layer's two results, in five passes
    over d      the sum of the gradient, twice
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh

from bstar_jax import model, sharding
from bstar_jax.config import Config, ModelConfig, OptimizerConfig
from bstar_jax.model import adapters
from bstar_jax.sharding.program import (
    Cost,
    Placement,
    Program,
    abstract_copy,
    abstract_rows,
    bytes_on_device,
    collective,
    item_bytes,
    lower,
    matrix_sizes,
    spread,
)
from bstar_jax.training import optimizer
from bstar_jax.training.batches import LENGTH_STEP, Batch, StepBatch
from bstar_jax.training.cross_entropy import CHUNK_BYTES
from bstar_jax.training.fit import Loss, train_step
from bstar_jax.training.losses import response_loss
from bstar_jax.training.optimizer import TrainState
from bstar_jax.training.packing import row_count

_SCRATCH = 1.25
"""Measured temporaries of compiled 7-billion-parameter steps, as a multiple of the formula's."""


def programs(placement: Placement) -> list[Program]:
    """Lists the steps of warm-up and improve; phases with equal batches share one."""
    config = placement.config
    phases = ["sft"] * bool(config.sft.steps) + ["improve"] * bool(config.loop.iterations)
    shards = sharding.row_shards(placement.mesh)
    are_alike = len({step_shape(config, phase, shards) for phase in phases}) == 1
    groups = [phases] if are_alike else [[phase] for phase in phases]
    return [_policy_step(placement, group) for group in groups]


def resident(placement: Placement) -> dict[str, int]:
    """Returns the bytes of the parameters and of Adam's moments, which stay between steps."""
    held = state(placement, placement.model)
    parameters = bytes_on_device(held.params) + bytes_on_device(frozen(placement))
    return {"parameters": parameters, "optimizer": bytes_on_device(held.optimizer)}


def _policy_step(placement: Placement, phases: list[str]) -> Program:
    prm = placement.config.prm
    names = list(phases)
    if prm.enabled and prm.completer_steps and "sft" in phases:
        names.insert(1, "completer")
    return step_program(
        placement,
        "step" if "improve" in phases else "sft_step",
        names,
        placement.model,
        batch_type=Batch,
        loss=response_loss,
        frozen_params=frozen(placement),
    )


# Shapes.


@dataclasses.dataclass(frozen=True)
class StepShape:
    """The batch of an optimizer step.

    Attributes:
      rows: B.
      length: L, tokens of a row.
      micro_rows: Rows of one forward and backward pass.
      packed: Whether a row may hold several texts.
    """

    rows: int
    length: int
    micro_rows: int
    packed: bool

    @property
    def tokens(self) -> int:
        """Tokens of the batch, padding included."""
        return self.rows * self.length


def step_shape(config: Config, phase: str, shards: int) -> StepShape:
    """Returns the batch of a phase when every text is as long as allowed.

    Args:
      config: All settings.
      phase: "sft", "prm" or "improve".
      shards: Row shards of the mesh.
    """
    batch, training = getattr(config, phase).batch, config.training
    longest = config.generate.max_prompt_tokens + config.generate.max_tokens
    if training.row_tokens:
        rows = row_count(batch, training.micro_rows or shards)
        return StepShape(rows, training.row_tokens, training.micro_rows or rows, True)
    columns = longest - (phase != "prm")
    length = min(-(-columns // LENGTH_STEP) * LENGTH_STEP, columns)
    return StepShape(batch, length, training.micro_rows or batch, False)


@functools.lru_cache(maxsize=64)
def parameter_shapes(config: ModelConfig, vocab: int) -> dict:
    """Returns the shapes of all parameters, the vocabulary padded to `vocab`."""
    params = jax.eval_shape(functools.partial(model.init, config), jax.random.key(0))
    return jax.eval_shape(functools.partial(model.pad_vocab, config, size=vocab), params)


@functools.lru_cache(maxsize=64)
def _state_shapes(config: ModelConfig, adam: OptimizerConfig, vocab: int) -> TrainState:
    pad = functools.partial(model.pad_vocab, config, size=vocab)
    return jax.eval_shape(pad, optimizer.shapes(config, adam))


def merged_model(placement: Placement) -> ModelConfig:
    """Returns the model without adapters, which samples."""
    return adapters.merged_model(placement.model)


def parameters(placement: Placement) -> dict:
    """Returns all parameters of the merged model, on the storage map."""
    config = merged_model(placement)
    shapes = parameter_shapes(config, sharding.padded_vocab(config, placement.mesh))
    return spread(placement.mesh, shapes, model.logical_axes(config, shapes))


def state(placement: Placement, config: ModelConfig) -> TrainState:
    """Returns a model's trained parameters and their moments, on the storage map."""
    vocab = sharding.padded_vocab(config, placement.mesh)
    shapes = _state_shapes(config, placement.config.optimizer, vocab)
    return spread(placement.mesh, shapes, model.logical_axes(config, shapes))


def frozen(placement: Placement) -> dict:
    """Returns the parameters of the model that no training changes; {} where there are none."""
    config = placement.model
    if adapters.all_train(config):
        return {}
    vocab = sharding.padded_vocab(config, placement.mesh)
    kept = adapters.frozen(config, parameter_shapes(config, vocab))
    kept = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, config.dtype), kept)
    return spread(placement.mesh, kept, model.logical_axes(config, kept))


def _batch(mesh: Mesh, shape: StepShape, batch_type: type) -> Batch | StepBatch:
    floats = ("weights_BL", "labels_BL", "language_BL")
    fields: dict[str, Any] = {
        field.name: abstract_rows(
            mesh, (shape.rows, shape.length), "float32" if field.name in floats else "int32"
        )
        for field in dataclasses.fields(batch_type)
    }
    if not shape.packed:
        fields["positions_BL"] = None
    return batch_type(**fields)


# Programs.


def step_program(
    placement: Placement,
    name: str,
    phases: list[str],
    config: ModelConfig,
    *,
    batch_type: type,
    loss: Loss,
    frozen_params: dict,
) -> Program:
    """Describes one optimizer step.

    Args:
      placement: The run.
      name: Of the program.
      phases: The phases that run it; the first says how large the batch is.
      config: The model that it trains.
      batch_type: `Batch` or `StepBatch`.
      loss: What it minimises.
      frozen_params: Parameters that it reads and does not change.
    """
    settings, mesh = placement.config, placement.mesh
    shape = step_shape(settings, phases[0], sharding.row_shards(mesh))
    held, batch = state(placement, config), _batch(mesh, shape, batch_type)
    params, moments = bytes_on_device(held.params), bytes_on_device(held.optimizer)

    def lowered() -> Any:
        return lower(
            mesh, train_step, config, settings.optimizer, held, batch,
            abstract_copy(mesh, (), "float32"),
            loss=loss, micro_rows=settings.training.micro_rows, frozen=frozen_params or None,
        )  # fmt: skip

    return Program(
        name,
        "train",
        tuple(phases),
        mesh,
        lowered,
        {
            "parameters": params + bytes_on_device(frozen_params),
            "optimizer": moments,
            "inputs": bytes_on_device(batch),
        },
        _temporaries(placement, shape, params),
        functools.partial(_cost, placement, shape, params + moments),
        shape.tokens,
    )


def _temporaries(placement: Placement, shape: StepShape, params: int) -> int:
    """Estimates the bytes that a step needs besides its state and batch.

    The inputs of every layer, or what remat keeps; the intermediate results of one layer; the
    gradient and the update; the gradient of the head over `fsdp`, and a chunk of scores.
    """
    config, mesh = placement.model, placement.mesh
    tensor, item = mesh.shape["tensor"], item_bytes(config)
    tokens = shape.micro_rows // sharding.row_shards(mesh) * shape.length
    width, inner = config.width, config.feed_forward // tensor
    heads = (config.heads + 2 * config.kv_heads) * config.width_per_head // tensor
    of_a_layer = tokens * item * (4 * width + 4 * inner + 2 * heads)
    kept = {"full": width, "dots": width + 3 * inner + 2 * heads + width}.get(config.remat, 0)
    kept = kept or 4 * width + 4 * inner + 2 * heads
    vocab = sharding.padded_vocab(config, mesh) // tensor
    head = 2 * 4 * vocab * width + 2 * min(CHUNK_BYTES, 4 * tokens * vocab)
    blocks = bytes_on_device(state(placement, config).params["blocks"])
    layer = blocks * mesh.shape["fsdp"] // config.layers
    exact = config.layers * tokens * item * kept + 2 * of_a_layer + 2 * params + head + layer
    return int(_SCRATCH * exact)


def _cost(placement: Placement, shape: StepShape, state_bytes: int) -> Cost:
    """Estimates the work of a step; see the equations at the head of this file."""
    config, (data, fsdp, tensor) = placement.model, sharding.mesh_sizes(placement.mesh)
    weights, item = matrix_sizes(placement), item_bytes(config)
    tokens = shape.tokens / (data * fsdp)
    passes = shape.rows // shape.micro_rows
    again = weights.layers - weights.down if config.remat == "full" else 0
    products = 2 * tokens * (3 * weights.layers + again + 3 * weights.head) / tensor
    width = config.heads * config.width_per_head / tensor
    products += (11 if again else 9) * tokens * shape.length * width * config.layers
    own = weights.layers / tensor
    activations = (
        tokens * config.layers * item * (30 * config.width + 20 * config.feed_forward / tensor)
    )
    moved = passes * 4 * own * item + 2.5 * state_bytes + activations
    sums = 5 * 2 * (tensor - 1) / tensor * tokens * config.width * item * config.layers
    collectives = [
        *collective("all-gather", "fsdp", fsdp, passes * 2 * own * item * (fsdp - 1) / fsdp),
        *collective("reduce-scatter", "fsdp", fsdp, passes * own * item * (fsdp - 1) / fsdp),
        *collective("all-reduce", "tensor", tensor, sums),
        *collective("all-reduce", "data", data, 8 * own / fsdp * (data - 1) / data),
    ]
    return Cost(products, moved, tuple(collectives))
