"""The model families: for each, all in which it differs from a Llama.

A new family that is a setting of the same decoder is one entry of `FAMILIES`: what its fields
mean, the values that Transformers takes where they are absent, and the names of its tensors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from bstar_jax.hub import readers
from bstar_jax.hub.fields import Fields
from bstar_jax.hub.names import JOINED_NAMES, LLAMA_NAMES, NameTable, norm_of_layer


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """One `model_type`. Families are compared and hashed by identity.

    Attributes:
      model_class: The class of its language models in Transformers.
      read: (fields, number of layers) -> the fields of the model's config that this family sets,
        besides those that all families have.
      reads: Fields that `read` gives a meaning, although other families have to refuse them.
      defaults: Values of fields that all families have, where the file is silent.
      names: Names of its tensors; where files have one of several layouts, first that of the
        modules of Transformers.
      group: Name of the group that holds the fields of the language model, "" for the whole file.
    """

    model_class: str
    read: Callable[[Fields, int], dict]
    reads: frozenset[str]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: tuple[NameTable, ...] = (LLAMA_NAMES,)
    group: str = ""


_BIASES = frozenset({"attention_bias", "mlp_bias"})
_WINDOW_FIELDS = frozenset({"sliding_window", "layer_types"})
_GEMMA_FIELDS = _WINDOW_FIELDS | {
    "attention_bias", "query_pre_attn_scalar", "final_logit_softcapping"
}  # fmt: skip
_GEMMA_NAMES = LLAMA_NAMES.changed(
    {
        "blocks.attention_post_norm.scale": norm_of_layer("post_attention_layernorm"),
        "blocks.feed_forward_norm.scale": norm_of_layer("pre_feedforward_layernorm"),
        "blocks.feed_forward_post_norm.scale": norm_of_layer("post_feedforward_layernorm"),
    }
)

_OLMO_NAMES = LLAMA_NAMES.changed(
    {
        "blocks.attention_post_norm.scale": norm_of_layer("post_attention_layernorm"),
        "blocks.feed_forward_post_norm.scale": norm_of_layer("post_feedforward_layernorm"),
        "blocks.attention.query_norm.scale": norm_of_layer("self_attn.q_norm", joins_heads=True),
        "blocks.attention.key_norm.scale": norm_of_layer("self_attn.k_norm", joins_heads=True),
    }
)
_GEMMA3_DEFAULTS = {
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "tie_word_embeddings": True,
}  # fmt: skip

LLAMA = Family("LlamaForCausalLM", readers.llama, _BIASES)

FAMILIES = {
    "llama": LLAMA,
    "mistral": Family(
        "MistralForCausalLM", readers.mistral, frozenset({"sliding_window"}),
        {"num_key_value_heads": 8},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM", readers.qwen2, _WINDOW_FIELDS, {"num_key_value_heads": 32}
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", readers.qwen3, _WINDOW_FIELDS | {"attention_bias"},
        {"num_key_value_heads": 32, "head_dim": 128},
    ),
    "gemma": Family(
        "GemmaForCausalLM", readers.gemma, frozenset({"attention_bias"}),
        {"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", readers.gemma2, _GEMMA_FIELDS | {"attn_logit_softcapping"},
        {"num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True}, (_GEMMA_NAMES,),
    ),
    # Transformers ignores the cap of attention scores in Gemma 3, and that of logits where it sees,
    # so a file that has one means something else, and is refused.
    "gemma3_text": Family(
        "Gemma3ForCausalLM", readers.gemma3, _GEMMA_FIELDS | {"rope_local_base_freq"},
        _GEMMA3_DEFAULTS, (_GEMMA_NAMES,),
    ),
    "gemma3": Family(
        "Gemma3ForConditionalGeneration", readers.gemma3,
        _GEMMA_FIELDS - {"final_logit_softcapping"} | {"rope_local_base_freq"}, _GEMMA3_DEFAULTS,
        (
            _GEMMA_NAMES.moved("model.language_model.", "lm_head.weight"),
            _GEMMA_NAMES.moved("language_model.model.", "language_model.lm_head.weight"),
        ),
        group="text_config",
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", readers.olmo2, frozenset({"attention_bias"}), {"rms_norm_eps": 1e-5},
        (_OLMO_NAMES,),
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM", readers.olmo3, _WINDOW_FIELDS | {"attention_bias"},
        {"rms_norm_eps": 1e-5}, (_OLMO_NAMES,),
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM", readers.smollm3, _WINDOW_FIELDS | _BIASES,
        {"num_key_value_heads": 4, "tie_word_embeddings": True},
    ),
    # Published files name the dropout with which they were trained; it is 0 wherever they are used.
    "granite": Family(
        "GraniteForCausalLM", readers.granite,
        _BIASES | {
            "attention_dropout", "attention_multiplier", "embedding_multiplier", "logits_scaling",
            "residual_multiplier",
        },
    ),
    "phi3": Family(
        "Phi3ForCausalLM", readers.phi3, frozenset({"sliding_window"}), {"rms_norm_eps": 1e-5},
        (JOINED_NAMES,),
    ),
}  # fmt: skip
"""Families by `model_type`."""

# Kinds of models that are published a lot and not read: which, what they have, what to take.
_NOT_READ = (
    ("granitemoehybrid|granite_swa|bamba|jamba|falcon_h1|nemotron_h|(falcon_)?mamba2?|zamba2?",
     "layers with a recurrent state or room for them", "Granite 3 or 4.1 (granite)"),
    ("qwen3_next|qwen3_5.*|qwen4.*|olmo_hybrid|kimi_linear|bailing_hybrid",
     "layers of gated delta nets", "Qwen 3 (qwen3) or OLMo 3 (olmo3)"),
    (".*moe.*|mixtral|deepseek_v.*|gpt_oss|dbrx|llama4.*|glm4_moe.*|minimax.*|mistral4|mistral_large4",
     "mixtures of experts", "a dense model, such as Qwen 3 (qwen3) or OLMo 3 (olmo3)"),
    ("gemma3n.*|gemma4.*", "embeddings of their own in every layer or layers that share a cache",
     "Gemma 3 (gemma3, gemma3_text)"),
    ("lfm.*", "short convolutions in place of attention", "Qwen 3 (qwen3) or SmolLM3 (smollm3)"),
)  # fmt: skip


def why_not_read(model_type: str) -> str:
    """What a model has that is not read, and what to take instead; "" where nothing is known.

    Example: "mixtral" -> "it has mixtures of experts, which are not read; take a dense model, ..."
    """
    for pattern, part, instead in _NOT_READ:
        if re.fullmatch(pattern, model_type):
            return f"it has {part}, which are not read; take {instead}"
    return ""
