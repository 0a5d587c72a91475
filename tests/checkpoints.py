"""Tiny Hugging Face checkpoints of every family, written by Transformers with random weights.

Sizes are odd on purpose: heads do not divide the width where the family lets them, windows are
shorter than the texts, caps bite, and no norm is 1 and no bias 0.
"""

import json
import pathlib

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

from tests.builders import WORDS

_SMALL = {
    "vocab_size": 53, "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 3,
    "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
_FOUR = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
_THREE = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
_LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
_GEMMA = {
    **_FOUR, "query_pre_attn_scalar": 10, "sliding_window": 4,
    "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0,
}  # fmt: skip

CASES = {
    "llama": ("Llama", {**_FOUR}),
    "llama, tied, biased, llama3": (
        "Llama",
        {**_FOUR, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
         "rope_parameters": _LLAMA3},
    ),
    "llama, linear": ("Llama", {**_FOUR, "rope_parameters": _LINEAR}),
    "mistral": ("Mistral", {**_THREE, "sliding_window": 5}),
    "mistral, tied, no window": (
        "Mistral", {**_THREE, "sliding_window": None, "tie_word_embeddings": True}
    ),
    "qwen2": ("Qwen2", {**_THREE}),
    "qwen2, tied, windows": (
        "Qwen2",
        {**_FOUR, "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 4,
         "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {**_THREE, "tie_word_embeddings": True}),
    "qwen3, untied, biased": ("Qwen3", {**_THREE, "attention_bias": True}),
    "gemma2": ("Gemma2", {**_GEMMA}),
    "gemma2, untied, no caps": (
        "Gemma2",
        {**_GEMMA, "tie_word_embeddings": False, "attn_logit_softcapping": None,
         "final_logit_softcapping": None},
    ),
    "gemma3": (
        "Gemma3",
        {**_GEMMA, "num_hidden_layers": 5, "attn_logit_softcapping": None,
         "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
         "rope_parameters": {
             "full_attention": _LINEAR,
             "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
         }},
    ),
    "gemma3, biased": (
        "Gemma3",
        {**_GEMMA, "num_hidden_layers": 7, "attn_logit_softcapping": None, "attention_bias": True},
    ),
}  # fmt: skip


def model(case: str, seed: int = 0) -> transformers.PreTrainedModel:
    """The model of a case, in f32, with nothing special about its weights."""
    family, settings = CASES[case]
    name = "Gemma3Text" if family == "Gemma3" else family
    config = getattr(transformers, f"{name}Config")(**{**_SMALL, **settings})
    config._attn_implementation = "eager"
    made = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, weight in made.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_one = path.endswith("norm.weight") and not family.startswith("Gemma")
            weight.copy_(is_one + 0.3 * noise)
    return made


def write(
    directory: pathlib.Path, case: str, *, dtype: str = "float32", shards: bool = False
) -> pathlib.Path:
    """A checkpoint with a tokenizer and a licence, in one file or in several."""
    made = model(case).to(getattr(torch, dtype))
    made.save_pretrained(directory, max_shard_size="8KB" if shards else "5GB")
    WORDS.save(directory)
    (directory / "LICENSE").write_text("free\n")
    return directory


def logits(made: transformers.PreTrainedModel, tokens_BL: np.ndarray) -> np.ndarray:
    """What Transformers computes, f32 [B, L, V]."""
    with torch.no_grad():
        return made(torch.asarray(tokens_BL)).logits.float().numpy()


def tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, by name."""
    found = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found


def edit(file: pathlib.Path, **fields) -> None:
    """Changes fields of a JSON file; ... takes one out."""
    values = {**json.loads(file.read_text()), **fields}
    kept = {name: value for name, value in values.items() if value is not ...}
    file.write_text(json.dumps(kept))
