"""Our engine, as `sampling` drives it; also writes the weights that the others read.

    python benchmarks/peer_ours.py WEIGHTS.npz

A response has a limit of its own, and the responses of all queries and temperatures go through
the same slots.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import peers
import workloads

from bstar_jax import model
from bstar_jax.config import ModelConfig
from bstar_jax.sampling import engine
from bstar_jax.sampling.decode import Work

CALIBRATION_ROWS = 512  # at most so many


class Ours:
    """See `peers.Side`; a batch is a number of slots."""

    def __init__(self, path: str):
        self._config = ModelConfig(**workloads.MODEL)
        self._params = model.init(self._config, jax.random.key(0))
        self.facts = {"jax": jax.__version__, "model": "bstar_jax"}
        logits = model.forward(self._config, self._params, jnp.asarray(workloads.probe()))
        leaves = jax.tree_util.tree_leaves_with_path(self._params)
        named = {"/".join(entry.key for entry in keys): np.asarray(leaf) for keys, leaf in leaves}
        np.savez(path, probe_logits=np.asarray(logits), **named)

    def forget(self):
        jax.clear_caches()

    def run(self, workload, batch):
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

    def best(self, workload):
        samples = workload.limits_QN.shape[1] * len(workload.temperatures)
        part = workload.first(max(CALIBRATION_ROWS // samples, 1))
        rates = {}
        for batch in workload.batches:
            self.run(part, batch)
            started = time.perf_counter()
            rates[batch] = self.run(part, batch)["tokens"] / (time.perf_counter() - started)
        return {
            "batch": max(rates, key=rates.get),
            "tokens_per_second": {str(batch): rate for batch, rate in rates.items()},
        }

    def rates(self):
        return peers.rates_of_jax()


def prepared(workload: workloads.Workload) -> engine.Prepared:
    """The workload as the engine takes it: temperatures are samples side by side."""
    queries, samples = workload.limits_QN.shape
    count = samples * len(workload.temperatures)
    order = engine.deal(workload.lengths_Q.tolist(), queries, 1)
    rng = np.random.default_rng(1)
    last_Q = workload.prompts_QP[np.arange(queries), workload.lengths_Q - 1]
    work = Work(
        real_D=np.array([queries], np.int32),
        lengths_DQ=order.gather(workload.lengths_Q),
        last_DQ=order.gather(last_Q),
        keys_DQN2=order.gather(rng.integers(0, 2**32, (queries, count, 2), np.uint32)),
        limit_DQN=order.gather(np.tile(workload.limits_QN, len(workload.temperatures))),
        temperature_N=jnp.asarray(np.repeat(np.float32(workload.temperatures), samples)),
        top_k_N=jnp.zeros(count, jnp.int32),
        top_p=None,
        min_p=None,
        stop_AV=None,
        prompts=None,
    )
    return engine.Prepared(order, order.gather(workload.prompts_QP), work)


if __name__ == "__main__":
    peers.serve(Ours(sys.argv[1]))
