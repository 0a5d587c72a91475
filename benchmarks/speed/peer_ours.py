"""Our engine and trainer, as `sampling` and `training` drive them; writes the others' weights.

    python -m benchmarks.speed.peer_ours WEIGHTS.npz

Every response has a limit of its own, and the responses of all queries and temperatures go through
the same slots.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import side, workloads
from bstar_jax import model
from bstar_jax.config import ModelConfig, OptimizerConfig
from bstar_jax.sampling import engine
from bstar_jax.sampling.decode import Work
from bstar_jax.training import fit, losses, optimizer
from bstar_jax.training.batches import Batch, StepBatch

CALIBRATION_ROWS = 512  # at most
ADAM, RATE = OptimizerConfig(), 1e-3


class Ours:
    """See `side.Side`; a batch is a number of slots."""

    def __init__(self, path: str):
        """Makes the model and writes its weights to `path`."""
        self._config = ModelConfig(**workloads.MODEL)
        self._params = model.init(self._config, jax.random.key(0))
        self.facts: dict[str, Any] = {"jax": jax.__version__, "model": "bstar_jax"}
        logits = model.forward(self._config, self._params, jnp.asarray(workloads.probe()))
        leaves = jax.tree_util.tree_leaves_with_path(self._params)
        arrays: dict[str, Any] = {"probe_logits": np.asarray(logits)}
        for keys, leaf in leaves:
            arrays["/".join(entry.key for entry in keys)] = np.asarray(leaf)
        np.savez(path, **arrays)

    def forget(self) -> None:
        """Drops what was compiled."""
        jax.clear_caches()

    def run(self, workload: workloads.Workload, batch: int) -> dict[str, Any]:
        """Draws all responses in one flight."""
        flight = engine.Flight(
            self._config,
            self._params,
            prepared(workload),
            slots=batch,
            max_tokens=workload.longest,
            end_id=workloads.NEVER,
            mesh=None,
        )
        responses = flight.land()
        np.asarray(responses.tokens_DWL)
        return {
            "tokens": int(np.asarray(responses.num_tokens_DW).sum()),
            "slots": flight.layout.lanes * flight.layout.slots,
            "slot_steps": flight.slot_steps,
            "idle_seconds": flight.idle_seconds,
        }

    def best(self, workload: workloads.Workload) -> dict[str, Any]:
        """Tries every number of slots on the first queries."""
        samples = workload.limits_QN.shape[1] * len(workload.temperatures)
        part = workload.first(max(CALIBRATION_ROWS // samples, 1))
        rates = dict[int, float]()
        for batch in workload.batches:
            self.run(part, batch)
            started = time.perf_counter()
            rates[batch] = self.run(part, batch)["tokens"] / (time.perf_counter() - started)
        return {
            "batch": max(rates, key=lambda batch: rates[batch]),
            "tokens_per_second": {str(batch): rate for batch, rate in rates.items()},
        }

    def trainer(self, micro_rows: int) -> Callable[[], float]:
        """An optimizer step of the common batch."""
        config = dataclasses.replace(self._config, remat="dots")
        state, batch = training(jax.tree.map(jnp.copy, self._params))

        def step() -> float:
            nonlocal state
            state, measured = fit.train_step(
                config, ADAM, state, batch, RATE, losses.response_loss, micro_rows
            )
            return float(jax.block_until_ready((state, measured["loss"]))[1])

        return step

    def memory(self) -> dict[str, Any]:
        """Bytes that a step needs beside its state with Qwen's vocabulary, loss fused or not."""
        config = dataclasses.replace(self._config, remat="dots", vocab_size=151936)
        shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
        state, batch = jax.eval_shape(training, shapes)
        needed = {"vocabulary": config.vocab_size, "tokens": batch.tokens_BL.size}
        for name, loss in (("fused", losses.response_loss), ("plain", plain_loss)):
            step = fit.train_step.lower(config, ADAM, state, batch, RATE, loss)
            analysis: Any = step.compile().memory_analysis()
            needed[name] = analysis.temp_size_in_bytes
        return needed

    def rates(self) -> dict[str, float]:
        """The rates as JAX reaches them."""
        return side.rates_of_jax()


def training(params: dict[str, Any]) -> tuple[optimizer.TrainState, Batch]:
    """The state before the first step, and the batch."""
    texts = workloads.train_texts()
    ones = np.ones((workloads.TRAIN_ROWS, workloads.TRAIN_TOKENS), np.float32)
    rows = Batch(texts[:, :-1], texts[:, 1:], ones, ones.astype(np.int32))
    adam_state = optimizer.make(ADAM, RATE).init(params)
    return optimizer.TrainState(params, adam_state), jax.tree.map(jnp.asarray, rows)


def plain_loss(config: ModelConfig, params: dict[str, Any], batch: Batch | StepBatch) -> jax.Array:
    """The loss by all logits at once, as it is without the fused loss."""
    assert isinstance(batch, Batch)
    hidden, decoder = model.forward_hidden(
        config, params, batch.tokens_BL, batch.segments_BL, packed=False
    )
    logits_BLV = decoder.logits(hidden)
    target_BL1 = jnp.take_along_axis(logits_BLV, batch.targets_BL[..., None], axis=-1)
    cross_entropy_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - target_BL1[..., 0]
    return jnp.sum(cross_entropy_BL * batch.weights_BL)


def prepared(workload: workloads.Workload) -> engine.Prepared:
    """The workload as the engine takes it: temperatures are samples beside each other."""
    queries, samples = workload.limits_QN.shape
    count = samples * len(workload.temperatures)
    order = engine.deal(workload.lengths_Q.tolist(), queries, 1)
    rng = np.random.default_rng(1)
    last_Q = workload.prompts_QP[np.arange(queries), workload.lengths_Q - 1]
    temperatures = np.asarray(workload.temperatures, np.float32)
    lengths_DQ = order.gather(workload.lengths_Q)
    # Host arrays, which the engine puts onto the device; it computes `prompts` itself.
    fields: dict[str, Any] = {
        "real_D": np.array([queries], np.int32),
        "lengths_DQ": lengths_DQ,
        "last_DQ": order.gather(last_Q),
        "keys_DQN2": order.gather(rng.integers(0, 2**32, (queries, count, 2), np.uint32)),
        "limit_DQN": order.gather(np.tile(workload.limits_QN, len(temperatures))),
        "temperature_N": jnp.asarray(np.repeat(temperatures, samples)),
        "top_k_N": jnp.zeros(count, jnp.int32),
        "top_p": None,
        "min_p": None,
        "stop_AV": None,
        "prompts": None,
    }
    work = Work(**fields)
    tokens_DQP, longest_Q = order.gather(workload.prompts_QP), lengths_DQ.max(axis=0)
    return engine.Prepared(order, tokens_DQP, longest_Q, 1, work)


if __name__ == "__main__":
    side.serve(Ours(sys.argv[1]))
