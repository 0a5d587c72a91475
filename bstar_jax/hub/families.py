"""From `config.json` to the model's config: which family, which of its fields change what.

A family is the fields in which it differs from Llama. Where a field is absent, the value is the
one that Transformers takes. What changes the computation and is not supported is refused by name;
what does not (lengths, caches, token ids, initial deviations) is passed over.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import rope
from bstar_jax.hub.fields import Fields, read_json

_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu", "gelu_new": "gelu"
}  # fmt: skip
_LAYER_TYPES = {"full_attention": "f", "sliding_attention": "w"}

# Values of fields that change the computation, in which they do not.
_NEUTRAL = {
    "add_cross_attention": False,
    "attention_bias": False,
    "is_encoder_decoder": False,
    "layer_types": None,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "query_pre_attn_scalar": None,
    "rope_local_base_freq": None,
    "sliding_window": None,
    "text_config": None,
}
# So do fields with these in their names, unless they are null, false, 0, 1 or empty.
_CHANGING = re.compile(
    "alibi|audio_|bidirectional|clip_|dropout|expert|logits_scal|moe_|mrope|multiplier|pdrop|"
    "quantiz|softcap|vision_"
)
# But not these: a language model has no such part.
_HARMLESS = {"classifier_dropout"}


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
      architecture: What Transformers calls the class of its language models.
      kv_heads: Where the file says nothing; 0 is as many as heads.
      head_width: Where the file says nothing; 0 is width / heads.
      tied: Where the file says nothing.
      reads: Fields of `_NEUTRAL`, or like `_CHANGING`, that it gives a meaning.
      differ: Fields of the model's config besides those that all families have.
    """

    architecture: str
    kv_heads: int
    head_width: int
    tied: bool
    reads: frozenset[str]
    differ: Callable[[Fields, int], dict]


def read_config(path: pathlib.Path) -> ModelConfig:
    """The architecture of a checkpoint, from its `config.json` alone.

    Args:
      path: A directory.

    Returns:
      A config whose `checkpoint` is "", whose `vocab_size` is the embedding's.

    Raises:
      UserError: If there is none, it is broken, of a family that is not supported, or has a field
        that changes the computation in a way that is not.
    """
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path} is no checkpoint: it has no config.json; give a directory with it")
    fields = Fields(file, read_json(file))
    family = _family(fields)
    _refuse_unsupported(fields, family)
    layers, heads = fields.whole("num_hidden_layers"), fields.whole("num_attention_heads")
    width = fields.whole("hidden_size")
    common = {
        "vocab_size": fields.whole("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": _kv_heads(fields, family, heads),
        "head_width": fields.whole("head_dim", family.head_width or width // max(heads, 1)),
        "feed_forward": fields.whole("intermediate_size"),
        "norm_epsilon": fields.number("rms_norm_eps", 1e-6),
        "tied": fields.flag("tie_word_embeddings", family.tied),
        "activation": "silu",
    }
    try:
        return ModelConfig(**{**common, **family.differ(fields, layers)})
    except UserError as error:
        raise UserError(f"{file}: as the model's config, {error}") from error


def _family(fields: Fields) -> Family:
    kind = fields.text("model_type", "")
    if kind not in FAMILIES:
        fields.refuse("model_type", f"supported are {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    classes = fields.values.get("architectures")
    if classes and family.architecture not in classes:
        fields.refuse("architectures", f"of {kind} only {family.architecture} is supported")
    return family


def _refuse_unsupported(fields: Fields, family: Family) -> None:
    """Raises `UserError` on a field that changes the computation in a way that is not built."""
    for name, value in fields.values.items():
        if name in family.reads | _HARMLESS or not value:
            continue
        if name in _NEUTRAL:
            fields.only(name, _NEUTRAL[name], "it changes the computation, and is not supported")
        elif _CHANGING.search(name) and (value is True or value != 1):
            fields.refuse(name, "it changes the computation, and is not supported")


def _kv_heads(fields: Fields, family: Family, heads: int) -> int:
    if "num_key_value_heads" in fields.values:
        return fields.whole("num_key_value_heads", heads)
    return family.kv_heads or heads


def _activation(fields: Fields, name: str, default: str) -> dict:
    value = fields.text(name, default)
    if value not in _ACTIVATIONS:
        fields.refuse(name, f"supported are {', '.join(_ACTIVATIONS)}")
    return {"activation": _ACTIVATIONS[value]}


def _windows(fields: Fields, types: list[str], default: int | None) -> dict:
    """The window, and which layers have it, from the types of all layers."""
    if "sliding_attention" not in types:
        return {}
    window = fields.values.get("sliding_window", default)
    if window is None:
        fields.refuse("sliding_window", "layer_types has sliding_attention, which needs a width")
    letters = "".join(_LAYER_TYPES[kind] for kind in types)
    return {
        "window": fields.whole("sliding_window", default),
        "window_pattern": shortest_pattern(letters),
    }


def shortest_pattern(letters: str) -> str:
    """The shortest beginning that, repeated, gives all letters.

    Example: "wfwfw" -> "wf"; "ffww" -> "ffww".
    """
    for size in range(1, len(letters)):
        if all(letters[place] == letters[place % size] for place in range(len(letters))):
            return letters[:size]
    return letters


def _layer_types(fields: Fields, otherwise: list[str]) -> list[str]:
    types = fields.values.get("layer_types")
    if types is None:
        return otherwise
    rule = f"it lists {len(otherwise)} layers, each one of {', '.join(_LAYER_TYPES)}"
    if not isinstance(types, list) or len(types) != len(otherwise):
        fields.refuse("layer_types", rule)
    if any(kind not in _LAYER_TYPES for kind in types):
        fields.refuse("layer_types", rule)
    return types


def _llama(fields: Fields, layers: int) -> dict:
    bias = fields.flag("attention_bias", False)
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read(fields),
        "qkv_bias": bias,
        "output_bias": bias,
        "feed_forward_bias": fields.flag("mlp_bias", False),
    }


def _mistral(fields: Fields, layers: int) -> dict:
    windowed = fields.values.get("sliding_window", 4096) is not None
    types = ["sliding_attention" if windowed else "full_attention"] * layers
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read(fields),
        **_windows(fields, types, 4096),
    }


def _qwen2(fields: Fields, layers: int) -> dict:
    is_used = fields.flag("use_sliding_window", False)
    is_used &= fields.values.get("sliding_window", 4096) is not None
    full = fields.whole("max_window_layers", 28) if is_used else layers
    types = ["sliding_attention" if at >= full else "full_attention" for at in range(layers)]
    types = _layer_types(fields, types)
    if "sliding_attention" in types and not is_used:
        fields.refuse("use_sliding_window", "layer_types has sliding_attention: both or neither")
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read(fields),
        **_windows(fields, types, 4096),
        "qkv_bias": True,
    }


def _qwen3(fields: Fields, layers: int) -> dict:
    bias = fields.flag("attention_bias", False)
    differ = {"qkv_bias": bias, "output_bias": bias, "qk_norm": True}
    return {**_qwen2(fields, layers), **differ}


def _gemma(fields: Fields, logit_cap: float) -> dict:
    """What Gemma 2 and 3 share; the cap of logits where the file says nothing."""
    bias = fields.flag("attention_bias", False)
    width = fields.whole("head_dim", 256)
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
    """A cap; null is none, and absent the default."""
    return fields.number(name, 0.0 if name in fields.values else default)


def _every(count: int, layers: int) -> list[str]:
    """Types of layers of which every `count`-th is full."""
    return [
        "sliding_attention" if (at + 1) % count else "full_attention" for at in range(layers)
    ]  # fmt: skip


def _gemma2(fields: Fields, layers: int) -> dict:
    windows = _windows(fields, _layer_types(fields, _every(2, layers)), 4096)
    cap = {"attention_cap": _cap(fields, "attn_logit_softcapping", 50.0)}
    return {**_gemma(fields, 30.0), **rope.read(fields), **windows, **cap}


def _gemma3(fields: Fields, layers: int) -> dict:
    count = fields.whole("sliding_window_pattern", 6)
    windows = _windows(fields, _layer_types(fields, _every(max(count, 1), layers)), 4096)
    turning = rope.read_by_layer_type(fields)
    return {**_gemma(fields, 0.0), **turning, **windows, "qk_norm": True}


_WINDOWS = {"sliding_window", "layer_types"}
_GEMMA = {"attention_bias", "query_pre_attn_scalar", "final_logit_softcapping", *_WINDOWS}
# Transformers passes over the cap of scores in Gemma 3: whoever gives it means something else.
_GEMMA2 = frozenset({*_GEMMA, "attn_logit_softcapping"})
_GEMMA3 = frozenset({*_GEMMA, "rope_local_base_freq"})

FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM", 0, 0, False, frozenset({"attention_bias", "mlp_bias"}), _llama
    ),
    "mistral": Family("MistralForCausalLM", 8, 0, False, frozenset({"sliding_window"}), _mistral),
    "qwen2": Family("Qwen2ForCausalLM", 32, 0, False, frozenset(_WINDOWS), _qwen2),
    "qwen3": Family(
        "Qwen3ForCausalLM", 32, 128, False, frozenset({"attention_bias", *_WINDOWS}), _qwen3
    ),
    "gemma2": Family("Gemma2ForCausalLM", 4, 256, True, _GEMMA2, _gemma2),
    "gemma3_text": Family("Gemma3ForCausalLM", 4, 256, True, _GEMMA3, _gemma3),
}
