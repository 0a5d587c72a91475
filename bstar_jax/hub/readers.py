"""What the fields of each family mean: `config.json` -> the settings in which it differs.

A reader takes the fields and the number of layers, and gives the fields of the model's config that
its family sets, besides those that all families have. Where a field is absent, the value is the one
that Transformers takes.
"""

from __future__ import annotations

from bstar_jax.hub import rope
from bstar_jax.hub.fields import Fields

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


def llama(fields: Fields, layers: int) -> dict:
    """Llama: stretched wavelengths, and optional biases."""
    bias = fields.flag("attention_bias", False)
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read_rope(fields),
        "qkv_bias": bias,
        "output_bias": bias,
        "feed_forward_bias": fields.flag("mlp_bias", False),
    }


def mistral(fields: Fields, layers: int) -> dict:
    """Mistral: a window in every layer."""
    windowed = fields.values.get("sliding_window", 4096) is not None
    types = ["sliding_attention" if windowed else "full_attention"] * layers
    return {
        **_activation(fields, "hidden_act", "silu"),
        **rope.read_rope(fields),
        **_windows(fields, types, 4096),
    }


def qwen2(fields: Fields, layers: int) -> dict:
    """Qwen 2 and 2.5: biases of queries, keys and values; windows from some layer on."""
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


def qwen3(fields: Fields, layers: int) -> dict:
    """Qwen 3: norms of queries and keys."""
    bias = fields.flag("attention_bias", False)
    return {**qwen2(fields, layers), "qkv_bias": bias, "output_bias": bias, "qk_norm": True}


def _later_gemma(fields: Fields, logit_cap: float) -> dict:
    """Returns what Gemma 2 and 3 share; `logit_cap` is the cap if the file gives none."""
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


def gemma2(fields: Fields, layers: int) -> dict:
    """Gemma 2: windows in every other layer; capped scores and logits."""
    windows = _windows(fields, _layer_types(fields, _full_every(2, layers)), 4096)
    cap = {"attention_cap": _cap(fields, "attn_logit_softcapping", 50.0)}
    return {**_later_gemma(fields, 30.0), **rope.read_rope(fields), **windows, **cap}


def gemma3(fields: Fields, layers: int) -> dict:
    """Gemma 3: five windowed layers to one full, each kind with wavelengths of its own."""
    count = fields.integer("sliding_window_pattern", 6)
    windows = _windows(fields, _layer_types(fields, _full_every(max(count, 1), layers)), 4096)
    wavelengths = rope.read_rope_by_layer_type(fields, 1e6, 1e4)
    return {**_later_gemma(fields, 0.0), **wavelengths, **windows, "qk_norm": True}


def gemma(fields: Fields, layers: int) -> dict:
    """Gemma: a scaled embedding, norms of 1 + their parameter."""
    bias = fields.flag("attention_bias", False)
    # Published files say "gelu" where they mean its tanh approximation.
    legacy = fields.values.get("hidden_act") == "gelu"
    activation = {"activation": "gelu"}
    return {
        **(activation if legacy else _activation(fields, "hidden_act", "gelu_pytorch_tanh")),
        **rope.read_rope(fields),
        "qkv_bias": bias,
        "output_bias": bias,
        "norm_offset": True,
        "embedding_scale": True,
    }


def olmo2(fields: Fields, layers: int) -> dict:
    """OLMo 2: norms only behind attention and feed-forward; whole queries and keys normed."""
    return {**_olmo(fields), **rope.read_rope(fields)}


def olmo3(fields: Fields, layers: int) -> dict:
    """OLMo 3: three windowed layers to one full; only full layers are stretched."""
    windows = _windows(fields, _layer_types(fields, _full_every(4, layers)), 4096)
    return {**_olmo(fields), **rope.read_rope_by_layer_type(fields, 5e5, 5e5), **windows}


def _olmo(fields: Fields) -> dict:
    bias = fields.flag("attention_bias", False)
    return {
        **_activation(fields, "hidden_act", "silu"),
        "qkv_bias": bias,
        "output_bias": bias,
        "pre_norms": False,
        "post_norms": True,
        "qk_norm": True,
        "qk_norm_whole": True,
    }


def smollm3(fields: Fields, layers: int) -> dict:
    """SmolLM3: some layers know no positions; these may be windowed."""
    every = max(fields.integer("no_rope_layer_interval", 4), 1)
    letters = "".join("r" if (at + 1) % every else "n" for at in range(layers))
    listed = fields.values.get("no_rope_layers")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) < layers or any(
            value not in (0, 1) for value in listed
        ):  # fmt: skip
            fields.refuse("no_rope_layers", f"it lists {layers} layers: 1 for one that rotates")
        letters = "".join("r" if value else "n" for value in listed[:layers])
    is_used = fields.flag("use_sliding_window", False)
    is_used &= fields.values.get("sliding_window") is not None
    types = [
        "sliding_attention" if is_used and letter == "n" else "full_attention" for letter in letters
    ]
    types = _layer_types(fields, types)
    if "sliding_attention" in types and not is_used:
        fields.refuse("use_sliding_window", "layer_types has sliding_attention: both or neither")
    return {
        **llama(fields, layers),
        **rope.read_rope(fields, 2e6),
        **_windows(fields, types, None),
        "rope_pattern": shortest_pattern(letters),
    }


def granite(fields: Fields, layers: int) -> dict:
    """Granite: a Llama with four multipliers."""
    scores = fields.number("attention_multiplier", 1.0)
    if scores <= 0:
        fields.refuse("attention_multiplier", "it takes a number above 0")
    return {
        **llama(fields, layers),
        "query_divisor": scores**-2,
        "embedding_multiplier": fields.number("embedding_multiplier", 1.0),
        "residual_scale": fields.number("residual_multiplier", 1.0),
        "logit_divisor": fields.number("logits_scaling", 1.0),
    }


def phi3(fields: Fields, layers: int) -> dict:
    """Phi-3 and 4: joined matrices; a window in every layer or in none."""
    wavelengths = rope.read_rope(fields)
    if wavelengths["rope_scaling"] != "none":
        name = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
        fields.refuse(name, "the wavelengths of this family are never stretched here")
    windowed = fields.values.get("sliding_window") is not None
    types = ["sliding_attention" if windowed else "full_attention"] * layers
    return {
        **_activation(fields, "hidden_act", "silu"),
        **wavelengths,
        **_windows(fields, types, None),
    }
