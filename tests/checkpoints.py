"""Tiny Hugging Face checkpoints of every family, written by Transformers with random weights.

Sizes are odd on purpose: heads do not divide the width where the family lets them, windows are
shorter than the texts, caps bite, and no norm is 1 and no bias 0.
"""

import json
import pathlib

import numpy as np
import pytest
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
_YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "beta_fast": 3.0, "beta_slow": 0.5,
    "original_max_position_embeddings": 16,
}  # fmt: skip
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
    "gemma3, with vision": (
        "Gemma3 with vision",
        {**_GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma": ("Gemma", {**_FOUR}),
    "gemma, untied, biased, linear": (
        "Gemma",
        {**_FOUR, "tie_word_embeddings": False, "attention_bias": True,
         "rope_parameters": _LINEAR},
    ),
    "qwen3, yarn": ("Qwen3", {**_THREE, "rope_parameters": _YARN}),
    "olmo2": ("Olmo2", {**_FOUR}),
    "olmo2, tied, biased": (
        "Olmo2", {**_THREE, "tie_word_embeddings": True, "attention_bias": True}
    ),
    "olmo3": ("Olmo3", {**_FOUR, "sliding_window": 4, "num_hidden_layers": 5}),
    "olmo3, yarn": (
        "Olmo3",
        {**_THREE, "sliding_window": 4,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
         "rope_parameters": {
             "full_attention": _YARN,
             "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
         }},
    ),
    "smollm3": ("SmolLM3", {**_FOUR, "num_hidden_layers": 5}),
    "smollm3, untied, a pattern, windows": (
        "SmolLM3",
        {**_THREE, "tie_word_embeddings": False, "no_rope_layers": [1, 0, 0],
         "use_sliding_window": True, "sliding_window": 4, "attention_bias": True},
    ),
    "granite": (
        "Granite",
        {**_FOUR, "embedding_multiplier": 3.0, "residual_multiplier": 0.22,
         "attention_multiplier": 0.7, "logits_scaling": 8.0},
    ),
    "granite, tied, biased": (
        "Granite",
        {**_THREE, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
         "attention_dropout": 0.1, "logits_scaling": 3.0},
    ),
    "phi3": ("Phi3", {**_FOUR}),
    "phi3, tied, window": ("Phi3", {**_THREE, "tie_word_embeddings": True, "sliding_window": 5}),
}  # fmt: skip


# Further settings of a family; families with tensors in a form of their own; and those, with these,
# whose layers compute what the layers of others do.
VARIANTS = frozenset({"gemma", "olmo2", "olmo3", "smollm3", "granite, tied, biased", "phi3"})
OTHER_FORMS = frozenset({"gemma3, with vision", "phi3, tied, window"})
ALIKE = OTHER_FORMS | {"gemma, untied, biased, linear", "qwen3, yarn", "olmo2, tied, biased"}


def cases(*, slow: frozenset[str] = frozenset(), without: frozenset[str] = frozenset()) -> list:
    """The cases as parameters of a test, some of them marked `slow`, some left out."""
    return [
        pytest.param(case, marks=pytest.mark.slow if case in slow else ())
        for case in CASES
        if case not in without
    ]


def _config(family: str, settings: dict) -> transformers.PretrainedConfig:
    """The config of a case, with the smallest vision tower where the family has one."""
    sizes = {**_SMALL, **settings}
    if family != "Gemma3 with vision":
        name = "Gemma3Text" if family == "Gemma3" else family
        return getattr(transformers, f"{name}Config")(**sizes)
    vision = transformers.SiglipVisionConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4, vision_use_head=False,
    )  # fmt: skip
    return transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**sizes), vision_config=vision,
        mm_tokens_per_image=4, eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip


def model(case: str, seed: int = 0) -> transformers.PreTrainedModel:
    """The model of a case, in f32, with nothing special about its weights."""
    family, settings = CASES[case]
    config = _config(family, settings)
    config._attn_implementation = "eager"
    sees = family == "Gemma3 with vision"
    name = "Gemma3ForConditionalGeneration" if sees else f"{family}ForCausalLM"
    made = getattr(transformers, name)(config).eval()
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
