"""The model families: for each, all in which it differs from a Llama.

A new family that is a setting of the same decoder is one entry of `FAMILIES`: what its fields
mean, the values that Transformers takes where they are absent, and the names of its tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bstar_jax.hub import rope
from bstar_jax.hub.fields import Fields
from bstar_jax.hub.names import LLAMA_NAMES, NameTable, norm_of_layer


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """One `model_type`. Families are compared and hashed by identity.

    Attributes:
      model_class: The class of its language models in Transformers.
      read: (fields, number of layers) -> the fields of the model's config that this family sets,
        besides those that all families have.
      reads: Fields that `read` gives a meaning, although other families have to refuse them.
      kv_heads: Key-value heads where the file is silent; 0 is as many as heads.
      head_width: Width of a head where the file is silent; 0 is width / heads.
      tied: Whether the head is the embedding, where the file is silent.
      names: Names of its tensors.
    """

    model_class: str
    read: Callable[[Fields, int], dict]
    reads: frozenset[str]
    kv_heads: int = 0
    head_width: int = 0
    tied: bool = False
    names: NameTable = LLAMA_NAMES


_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu"
}  # fmt: skip
_LAYER_TYPES = {"full_attention": "f", "sliding_attention": "w"}


def _activation(fields: Fields, name: str, default: str) -> dict:
    value = fields.text(name, default)
    if value not in _ACTIVATIONS:
        fields.refuse(name, f"supported are {', '.join(_ACTIVATIONS)}")
    return {"activation": _ACTIVATIONS[value]}


def _windows(fields: Fields, types: list[str], default: int | None) -> dict:
    """The window and the layers that have it, from the types of all layers."""
    if "sliding_attention" not in types:
        return {}
    window = fields.values.get("sliding_window", default)
    if window is None:
        fields.refuse("sliding_window", "layer_types has sliding_attention, which needs a width")
    letters = "".join(_LAYER_TYPES[kind] for kind in types)
    return {
        "window": fields.integer("sliding_window", default),
        "window_pattern": shortest_pattern(letters),
    }


def shortest_pattern(letters: str) -> str:
    """The shortest beginning that gives all letters when it is repeated.

    Example: "wfwfw" -> "wf"; "ffww" -> "ffww".
    """
    for size in range(1, len(letters)):
        if all(letters[at] == letters[at % size] for at in range(len(letters))):
            return letters[:size]
    return letters


def _layer_types(fields: Fields, default: list[str]) -> list[str]:
    types = fields.values.get("layer_types")
    if types is None:
        return default
    rule = f"it lists {len(default)} layers, each one of {', '.join(_LAYER_TYPES)}"
    if not isinstance(types, list) or len(types) != len(default):
        fields.refuse("layer_types", rule)
    if any(kind not in _LAYER_TYPES for kind in types):
        fields.refuse("layer_types", rule)
    return types


def _llama(fields: Fields, layers: int) -> dict:
    bias = fields.flag("attention_bias", False)
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read_rope(fields),
        "qkv_bias": bias,
        "output_bias": bias,
        "feed_forward_bias": fields.flag("mlp_bias", False),
    }


def _mistral(fields: Fields, layers: int) -> dict:
    windowed = fields.values.get("sliding_window", 4096) is not None
    types = ["sliding_attention" if windowed else "full_attention"] * layers
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read_rope(fields),
        **_windows(fields, types, 4096),
    }


def _qwen2(fields: Fields, layers: int) -> dict:
    is_used = fields.flag("use_sliding_window", False)
    is_used &= fields.values.get("sliding_window", 4096) is not None
    full = fields.integer("max_window_layers", 28) if is_used else layers
    types = ["sliding_attention" if at >= full else "full_attention" for at in range(layers)]
    types = _layer_types(fields, types)
    if "sliding_attention" in types and not is_used:
        fields.refuse("use_sliding_window", "layer_types has sliding_attention: both or neither")
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read_rope(fields),
        **_windows(fields, types, 4096),
        "qkv_bias": True,
    }


def _qwen3(fields: Fields, layers: int) -> dict:
    bias = fields.flag("attention_bias", False)
    return {**_qwen2(fields, layers), "qkv_bias": bias, "output_bias": bias, "qk_norm": True}


def _gemma(fields: Fields, logit_cap: float) -> dict:
    """What Gemma 2 and 3 share; `logit_cap` is the cap of logits where the file is silent."""
    bias = fields.flag("attention_bias", False)
    width = fields.integer("head_dim", 256)
    divisor = fields.number("query_pre_attn_scalar", 256)
    return {
        **_activation(fields, "hidden_activation", "gelu_pytorch_tanh"),
        "qkv_bias": bias,
        "output_bias": bias,
        "post_norms": True,
        "norm_offset": True,
        "embedding_scale": True,
        "query_divisor": 0.0 if divisor == width else divisor,
        "logit_cap": _cap(fields, "final_logit_softcapping", logit_cap),
    }


def _cap(fields: Fields, name: str, default: float) -> float:
    """A cap of scores; null means none, and an absent field the default."""
    return fields.number(name, 0.0 if name in fields.values else default)


def _full_every(count: int, layers: int) -> list[str]:
    """Types of layers of which every `count`-th is full and the others are windowed."""
    return [
        "sliding_attention" if (at + 1) % count else "full_attention" for at in range(layers)
    ]  # fmt: skip


def _gemma2(fields: Fields, layers: int) -> dict:
    windows = _windows(fields, _layer_types(fields, _full_every(2, layers)), 4096)
    cap = {"attention_cap": _cap(fields, "attn_logit_softcapping", 50.0)}
    return {**_gemma(fields, 30.0), **rope.read_rope(fields), **windows, **cap}


def _gemma3(fields: Fields, layers: int) -> dict:
    count = fields.integer("sliding_window_pattern", 6)
    windows = _windows(fields, _layer_types(fields, _full_every(max(count, 1), layers)), 4096)
    wavelengths = rope.read_rope_by_layer_type(fields)
    return {**_gemma(fields, 0.0), **wavelengths, **windows, "qk_norm": True}


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

LLAMA = Family("LlamaForCausalLM", _llama, frozenset({"attention_bias", "mlp_bias"}))

FAMILIES = {
    "llama": LLAMA,
    "mistral": Family(
        "MistralForCausalLM", _mistral, frozenset({"sliding_window"}), kv_heads=8
    ),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, _WINDOW_FIELDS, kv_heads=32),
    "qwen3": Family(
        "Qwen3ForCausalLM", _qwen3, _WINDOW_FIELDS | {"attention_bias"}, kv_heads=32,
        head_width=128,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", _gemma2, _GEMMA_FIELDS | {"attn_logit_softcapping"}, kv_heads=4,
        head_width=256, tied=True, names=_GEMMA_NAMES,
    ),
    # Transformers ignores the cap of attention scores in Gemma 3, so a file that has one means
    # something else, and is refused.
    "gemma3_text": Family(
        "Gemma3ForCausalLM", _gemma3, _GEMMA_FIELDS | {"rope_local_base_freq"}, kv_heads=4,
        head_width=256, tied=True, names=_GEMMA_NAMES,
    ),
}  # fmt: skip
"""Families by `model_type`."""
