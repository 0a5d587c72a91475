"""Tunix's sampler and trainer with its Llama; see `side`.

    python -m benchmarks.speed.peer_tunix WEIGHTS.npz

A batch runs to its longest response, every row with a prompt of its own, padded on the left. The
lengths of buffers never change, so that only a new batch size or temperature compiles.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler  # type: ignore[import-not-found]  # in Tunix's environment alone
from tunix.models.llama3 import model as llama3  # type: ignore[import-not-found]  # the same
from tunix.sft import peft_trainer  # type: ignore[import-not-found]  # the same

from benchmarks.speed import side, workloads


class Ids:
    """A tokenizer of texts that are numbers; turning ids into text costs nothing."""

    def encode(self, text: str) -> list[int]:
        """The numbers in a text."""
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        """No text: none is read."""
        return ""

    def bos_id(self) -> int:
        """There is no start of text."""
        return 0

    def eos_id(self) -> int:
        """Never drawn."""
        return workloads.NEVER

    def pad_id(self) -> int:
        """Below 0, so that no response token is taken for padding."""
        return -1


class StoppingSampler(sampler.Sampler):
    """Ends at `steps` tokens without a change of any buffer, as if every row had ended there."""

    steps = 0

    def init_sample_state(self, all_input_ids: Any, *args: Any, **settings: Any) -> Any:
        """The state, with `steps` decode steps to go."""
        state = super().init_sample_state(all_input_ids, *args, **settings)
        return state.replace(total_sampling_steps=all_input_ids.shape[1] + self.steps)


class Tunix:
    """See `side.Side`."""

    def __init__(self, path: str):
        """Reads the weights that `peer_ours` wrote to `path`."""
        with np.load(path) as weights:
            self._model = llama(weights)
            probe = jnp.asarray(workloads.probe())
            positions = jnp.broadcast_to(jnp.arange(probe.shape[1]), probe.shape)
            below = jnp.tril(jnp.ones((1, probe.shape[1], probe.shape[1]), bool))
            logits, _ = self._model(probe, positions, None, below)
            difference = float(np.abs(np.asarray(logits) - weights["probe_logits"]).max())
        self._samplers = dict[int, StoppingSampler]()
        self.facts: dict[str, Any] = {
            "jax": jax.__version__,
            "tunix": importlib.metadata.version("google-tunix"),
            "model": type(self._model).__name__,
            "logit_difference": difference,
        }

    def forget(self) -> None:
        """Drops what was compiled."""
        self._samplers = {}
        jax.clear_caches()

    def run(self, workload: workloads.Workload, batch: int) -> dict[str, Any]:
        """Draws all responses, a batch at a time."""
        return side.run_in_batches(workload, batch, self._generate)

    def best(self, workload: workloads.Workload) -> dict[str, Any]:
        """Tries every batch size for a few steps."""
        return side.fastest_batch(workload, self._generate)

    def trainer(self, micro_rows: int) -> Callable[[], float]:
        """An optimizer step of the common batch."""
        parts = workloads.TRAIN_ROWS // micro_rows
        adam = optax.adamw(1e-3, b1=0.9, b2=0.98, weight_decay=0.01)
        trainer = peft_trainer.PeftTrainer(
            nnx.clone(self._model),
            optax.chain(optax.clip_by_global_norm(1.0), adam),
            peft_trainer.TrainingConfig(
                eval_every_n_steps=10**9,
                gradient_accumulation_steps=parts if parts > 1 else None,
            ),
        ).with_gen_model_input_fn(with_positions)
        run, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
        texts = np.split(workloads.train_texts(), parts)
        rows = [
            peft_trainer.TrainingInput(
                input_tokens=jnp.asarray(part), input_mask=jnp.ones_like(part)
            )
            for part in texts
        ]

        def step() -> float:
            values = [run(each)[0] for each in rows]
            jax.block_until_ready(nnx.state(trainer.model))
            return float(np.mean(values))

        return step

    def memory(self) -> dict[str, Any]:
        """Not asked."""
        return {}

    def rates(self) -> dict[str, float]:
        """The rates as JAX reaches them."""
        return side.rates_of_jax()

    def _generate(
        self, workload: workloads.Workload, part: slice, temperature: float, steps: int
    ) -> list[np.ndarray]:
        """Response tokens of every row of some queries; behind `steps` of them padding."""
        prompt = workload.prompts_QP.shape[1]
        size = prompt + workload.longest
        if size not in self._samplers:
            self._samplers[size] = StoppingSampler(
                self._model,
                Ids(),
                sampler.CacheConfig(
                    cache_size=size,
                    num_layers=workloads.MODEL["layers"],
                    num_kv_heads=workloads.MODEL["kv_heads"],
                    head_dim=workloads.HEAD_WIDTH,
                ),
            )
        chosen = self._samplers[size]
        chosen.steps = steps
        texts = [
            " ".join(map(str, row[:length]))
            for row, length in zip(workload.prompts_QP[part], workload.lengths_Q[part], strict=True)
        ]
        samples = workload.limits_QN.shape[1]
        return chosen(
            [text for text in texts for _ in range(samples)],
            max_generation_steps=workload.longest,
            max_prompt_length=prompt,
            temperature=float(temperature),
            top_p=1.0,
            seed=int(workload.lengths_Q[part].sum()),
        ).tokens


def with_positions(rows: Any) -> dict[str, Any]:
    """The inputs of the model, of rows without padding."""
    length = rows.input_tokens.shape[1]
    return {
        "input_tokens": rows.input_tokens,
        "input_mask": rows.input_mask,
        "positions": jnp.broadcast_to(jnp.arange(length), rows.input_tokens.shape),
        "attention_mask": jnp.tril(jnp.ones((len(rows.input_tokens), length, length), bool)),
    }


def llama(weights: Any) -> llama3.Llama3:
    """The Llama with the weights of an .npz file as `peer_ours` writes it; layouts are alike."""
    config = llama3.ModelConfig(
        num_layers=workloads.MODEL["layers"],
        vocab_size=workloads.MODEL["vocab_size"],
        embed_dim=workloads.MODEL["width"],
        hidden_dim=workloads.MODEL["feed_forward"],
        num_heads=workloads.MODEL["heads"],
        head_dim=workloads.HEAD_WIDTH,
        num_kv_heads=workloads.MODEL["kv_heads"],
        rope_theta=int(workloads.MODEL["rope_theta"]),
        norm_eps=workloads.MODEL["norm_epsilon"],
    )
    model = llama3.Llama3(config, rngs=nnx.Rngs(0))
    names = {
        "attn/q_proj/w": "attention/query",
        "attn/k_proj/w": "attention/key",
        "attn/v_proj/w": "attention/value",
        "attn/o_proj/w": "attention/output",
        "mlp/gate_proj/kernel": "feed_forward/gate",
        "mlp/up_proj/kernel": "feed_forward/up",
        "mlp/down_proj/kernel": "feed_forward/down",
        "input_layernorm/w": "attention_norm/scale",
        "post_attention_layernorm/w": "feed_forward_norm/scale",
    }
    outer = {
        "embedder/input_embedding": "embedding",
        "final_norm/w": "final_norm/scale",
        "lm_head/w": "head",
    }

    def ours(path: tuple[str, ...]) -> np.ndarray:
        if path[0] != "layers":
            return weights[outer["/".join(path)]]
        return weights["blocks/" + names["/".join(path[2:])]][int(path[1])]

    flat = nnx.to_flat_state(nnx.state(model))
    filled = [
        (path, variable.replace(jnp.asarray(ours(tuple(map(str, path))))))
        for path, variable in flat
    ]
    nnx.update(model, nnx.from_flat_state(filled))
    return model


if __name__ == "__main__":
    side.serve(Tunix(sys.argv[1]))
