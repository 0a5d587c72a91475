"""Transformers' `generate`, and its model under torch's AdamW, on the CPU; see `side`.

    python -m benchmarks.speed.peer_transformers WEIGHTS.npz

A batch runs to its longest response, prompts padded on the left.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.speed import side, workloads


class Transformers:
    """See `side.Side`."""

    def __init__(self, path: str):
        """Reads the weights that `peer_ours` wrote to `path`."""
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.manual_seed(0)
        with np.load(path) as weights:
            self._model: Any = llama(weights)
            with torch.inference_mode():
                logits = self._model(torch.from_numpy(workloads.probe())).logits.numpy()
            difference = float(np.abs(logits - weights["probe_logits"]).max())
        self.facts: dict[str, Any] = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "model": type(self._model).__name__,
            "threads": torch.get_num_threads(),
            "logit_difference": difference,
        }

    def forget(self) -> None:
        """Nothing is compiled."""

    def run(self, workload: workloads.Workload, batch: int) -> dict[str, Any]:
        """Draws all responses, a batch at a time."""
        return side.run_in_batches(workload, batch, self._generate)

    def best(self, workload: workloads.Workload) -> dict[str, Any]:
        """Tries every batch size for a few steps."""
        return side.fastest_batch(workload, self._generate)

    def trainer(self, micro_rows: int) -> Callable[[], float]:
        """An optimizer step of the common batch."""
        model = copy.deepcopy(self._model).train()
        adam = torch.optim.AdamW(
            model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        texts = torch.from_numpy(workloads.train_texts()).long()

        def step() -> float:
            total = 0.0
            for rows in texts.split(micro_rows):
                logits = model(rows[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"
                )
                loss = loss / texts[:, 1:].numel()
                loss.backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            adam.zero_grad()
            return total

        return step

    def memory(self) -> dict[str, Any]:
        """Not asked."""
        return {}

    def rates(self) -> dict[str, float]:
        """The rates as torch reaches them."""
        square, long = torch.ones(side.SIZE, side.SIZE), torch.ones(2**24)
        target, copied = torch.empty_like(square), torch.empty_like(long)
        return side.rates_of(
            lambda: torch.matmul(square, square, out=target),
            lambda: copied.copy_(long),
            2 * long.nbytes,
        )

    def _generate(self, workload, part: slice, temperature: float, steps: int) -> np.ndarray:
        """Response tokens [B, steps] of some queries, all responses of a query together."""
        lengths_Q = workload.lengths_Q[part]
        width = int(lengths_Q.max())
        prompts_QP = workload.prompts_QP[part, :width]
        padded_QP = np.stack(
            [
                np.roll(row, width - length)
                for row, length in zip(prompts_QP, lengths_Q, strict=True)
            ]
        )
        mask_QP = np.arange(width) >= width - lengths_Q[:, None]
        with torch.inference_mode():
            drawn = self._model.generate(
                torch.from_numpy(padded_QP).long(),
                attention_mask=torch.from_numpy(mask_QP).long(),
                generation_config=transformers.GenerationConfig(
                    do_sample=True,
                    temperature=float(temperature),
                    top_k=0,
                    top_p=1.0,
                    num_return_sequences=workload.limits_QN.shape[1],
                    max_new_tokens=steps,
                    use_cache=True,
                    eos_token_id=None,
                    pad_token_id=0,
                ),
            )
        return drawn[:, width:].numpy()


def llama(weights: Any) -> transformers.LlamaForCausalLM:
    """The Llama with the weights of an .npz file as `peer_ours` writes it."""
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    attention = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    width = workloads.MODEL["width"]
    state = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["final_norm/scale"],
        "lm_head.weight": weights["head"].T,
    }
    for layer in range(workloads.MODEL["layers"]):
        at = f"model.layers.{layer}"
        for ours, theirs in attention.items():
            weight = weights[f"blocks/attention/{ours}"][layer]
            flat = weight.reshape(-1, width) if ours == "output" else weight.reshape(width, -1)
            state[f"{at}.self_attn.{theirs}.weight"] = flat.T
        for ours, theirs in names.items():
            state[f"{at}.mlp.{theirs}.weight"] = weights[f"blocks/feed_forward/{ours}"][layer].T
        state[f"{at}.input_layernorm.weight"] = weights["blocks/attention_norm/scale"][layer]
        state[f"{at}.post_attention_layernorm.weight"] = weights["blocks/feed_forward_norm/scale"][
            layer
        ]
    config = transformers.LlamaConfig(
        vocab_size=workloads.MODEL["vocab_size"],
        hidden_size=width,
        intermediate_size=workloads.MODEL["feed_forward"],
        num_hidden_layers=workloads.MODEL["layers"],
        num_attention_heads=workloads.MODEL["heads"],
        num_key_value_heads=workloads.MODEL["kv_heads"],
        rms_norm_eps=workloads.MODEL["norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": workloads.MODEL["rope_theta"]},
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    tensors = {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in state.items()}
    model.load_state_dict(tensors)
    return model


if __name__ == "__main__":
    side.serve(Transformers(sys.argv[1]))
