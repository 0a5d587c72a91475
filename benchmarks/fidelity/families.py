"""Imports a tiny Hugging Face checkpoint of every family, runs it forward and exports it again.

    python -m benchmarks.fidelity.families --output=DIR

Run in a checkout, by the Python names that people rely on. The checkpoints are written by
Transformers' classes with weights of a seeded generator. DIR/FAMILY holds the imported parameters
and the logits (arrays.npz by their paths), and the exported directory.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from benchmarks import figures
from bstar_jax import hub, model

SMALL = {
    "vocab_size": 53, "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 3,
    "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
GEMMA = {
    "query_pre_attn_scalar": 10, "sliding_window": 4, "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 2.0,
}  # fmt: skip
FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama_biased": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2", GEMMA),
    "gemma3": (
        "Gemma3",
        {"query_pre_attn_scalar": 10, "sliding_window": 4, "sliding_window_pattern": 2},
    ),
}
TOKENS = np.arange(2 * 17).reshape(2, 17) * 7 % 53


def write(name: str, place: pathlib.Path) -> None:
    """Writes a checkpoint of a family in f32, its values from a generator seeded with 0."""
    import torch
    import transformers

    family, settings = FAMILIES[name]
    suffix = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, f"{family}{suffix}")(**{**SMALL, **settings})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for _, value in sorted(model.named_parameters()):
            drawn = 0.3 * rng.standard_normal(tuple(value.shape))
            value.copy_(torch.tensor(drawn, dtype=torch.float32))
    model.save_pretrained(place)


def exercise(source: pathlib.Path, output: pathlib.Path) -> None:
    """Imports, computes logits and exports."""
    config, params = hub.import_checkpoint(source)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    arrays: dict[str, Any] = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    logits = jax.jit(model.forward, static_argnums=0)(config, params, TOKENS)
    np.savez(output / "arrays.npz", logits=np.asarray(logits), **arrays)
    hub.export_checkpoint(config, params, source, output / "export")


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    output = parser.parse_args().output.absolute()
    for name in FAMILIES:
        folder = output / name
        folder.mkdir(parents=True)
        write(name, folder / "source")
        exercise(folder / "source", folder)
        print(name, flush=True)


if __name__ == "__main__":
    main()
