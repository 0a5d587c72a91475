"""The programs of the process reward model, described by shapes: its training and its scoring."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig
from bstar_jax.process_reward.model import columns_for, step_rewards
from bstar_jax.sampling.programs import layer_sums
from bstar_jax.sampling.weights import as_computed
from bstar_jax.sharding.program import (
    Cost,
    Placement,
    Program,
    abstract,
    abstract_rows,
    bytes_on_device,
    collective,
    lower,
    matrix_sizes,
)
from bstar_jax.training import programs as training
from bstar_jax.training.batches import StepBatch
from bstar_jax.training.losses import step_loss


def programs(placement: Placement) -> list[Program]:
    """Lists the optimizer step and the scoring of responses; [] if the model is disabled."""
    settings = placement.config.prm
    if not settings.enabled:
        return []
    step = training.step_program(
        placement,
        "prm_step",
        ["prm"],
        _model(placement),
        batch_type=StepBatch,
        loss=functools.partial(step_loss, language_weight=settings.language_weight),
        frozen_params={},
    )
    return [step, _score(placement)]


def resident(placement: Placement) -> dict[str, int]:
    """Returns the bytes that the model occupies while responses are sampled and graded."""
    enabled = placement.config.prm.enabled
    return {"process_model": bytes_on_device(_parameters(placement)) if enabled else 0}


def _model(placement: Placement) -> ModelConfig:
    return dataclasses.replace(training.merged_model(placement), scalar_head=True)


def _parameters(placement: Placement) -> dict:
    """Returns the shapes of the parameters as they score: cast, sharded over the sampling mesh."""
    config = _model(placement)
    vocab = sharding.padded_vocab(config, placement.mesh)
    shapes = as_computed(config, training.parameter_shapes(config, vocab))
    targets = sharding.shardings(
        placement.sampling_mesh, shapes, model.logical_axes(config, shapes)
    )
    return jax.tree.map(abstract, shapes, targets)


def _score(placement: Placement) -> Program:
    """Describes the program that scores a batch of responses."""
    config, mesh, settings = _model(placement), placement.sampling_mesh, placement.config
    params, batch = _parameters(placement), settings.prm.score_batch
    shards = sharding.row_shards(placement.mesh)
    length = columns_for(settings.generate.max_prompt_tokens + settings.generate.max_tokens)

    def lowered() -> Any:
        rows = batch * sharding.row_shards(mesh) // shards
        tokens = abstract_rows(mesh, (rows, length), "int32")
        return lower(mesh, step_rewards, config, params, tokens, tokens)

    rows, held = batch // shards, bytes_on_device(params)
    scratch = rows * length * 8 * (config.width + config.feed_forward // mesh.shape["tensor"])
    layer = 2 * held * mesh.shape["fsdp"] // config.layers
    return Program(
        "score", "grade", ("grading, while the next unit decodes",), mesh, lowered,
        {"process_model": held, "inputs": 8 * rows * length}, scratch + layer,
        functools.partial(_cost, placement, batch * length, held), batch * length,
    )  # fmt: skip


def _cost(placement: Placement, total: int, stored: int) -> Cost:
    """Estimates the work of scoring: every device reads all parameters, gathered over `fsdp`."""
    tokens = total / sharding.row_shards(placement.mesh)
    fsdp, tensor = placement.sampling_mesh.shape["fsdp"], placement.mesh.shape["tensor"]
    gathered = stored * (fsdp - 1)
    received = [
        *layer_sums(placement, tokens),
        *collective("all-gather", "fsdp", fsdp, gathered),
    ]
    products = 2 * tokens * matrix_sizes(placement).layers / tensor
    return Cost(products, stored + gathered, tuple(each for each in received if each.received))
