"""Rotary positions in `config.json`: as published, and as Transformers 5 writes them.

{"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", ...}}          published
{"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, ...}}       Transformers 5
{"rope_parameters": {"full_attention": {...}, "sliding_attention": {...}}} Transformers 5, Gemma 3
"""

from __future__ import annotations

import dataclasses
import math

from bstar_jax.config import ModelConfig
from bstar_jax.hub.fields import Fields

_FULL, _LOCAL = "full_attention", "sliding_attention"
# The fields of each type besides `rope_type` and `rope_theta`.
_TYPES = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
    ),
}  # fmt: skip


def read_rope(fields: Fields) -> dict:
    """The `rope_*` fields of the model's config, where all layers rotate alike.

    Raises:
      UserError: On a type or a field that is not supported.
    """
    form = "rope_scaling" if fields.group("rope_scaling").values else "rope_parameters"
    return _read_wavelengths(fields.group(form), fields, fields.number("rope_theta", 10000.0))


def read_rope_by_layer_type(fields: Fields) -> dict:
    """The same for Gemma 3, whose windowed layers have wavelengths of their own.

    Raises:
      UserError: On a type or a field that is not supported.
    """
    nested = fields.group("rope_parameters")
    for name in nested.values:
        if name not in (_FULL, _LOCAL):
            nested.refuse(name, f"this family has {_FULL} and {_LOCAL} here, each with its own")
    full, local = nested.group(_FULL), nested.group(_LOCAL)
    scaling = fields.group("rope_scaling")
    if scaling.values:
        full = dataclasses.replace(scaling, values={**full.values, **scaling.values})
    rope = _read_wavelengths(full, fields, fields.number("rope_theta", 1e6))
    local_rope = _read_wavelengths(local, fields, fields.number("rope_local_base_freq", 1e4))
    if local_rope["rope_scaling"] != "none":
        local.refuse("rope_type", "windowed layers are never stretched here: 'default'")
    return {**rope, "rope_local_theta": local_rope["rope_theta"]}


def _read_wavelengths(given: Fields, fields: Fields, theta: float) -> dict:
    """The `rope_*` fields of one set of wavelengths.

    Args:
      given: What the file says of these wavelengths.
      fields: All fields of the file.
      theta: The base where `given` names none.
    """
    kind = given.text("rope_type", given.text("type", "default"))
    if kind not in _TYPES:
        name = "rope_type" if "rope_type" in given.values else "type"
        given.refuse(name, f"supported are {', '.join(_TYPES)}")
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_TYPES["llama3"]}
    for name, value in given.values.items():
        if name not in known and value is not None:
            given.refuse(name, f"of type {kind} only {', '.join(_TYPES[kind]) or 'none'} is read")
    given.only("partial_rotary_factor", 1.0, "the whole head is rotated here")
    theta = given.number("rope_theta", theta)
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": "none"}
    scaled = {"rope_theta": theta, "rope_scaling": kind, "rope_factor": given.number("factor")}
    if kind == "linear":
        return scaled
    length = given.integer("original_max_position_embeddings", 0)
    return {
        **scaled,
        "rope_low_frequency": given.number("low_freq_factor"),
        "rope_high_frequency": given.number("high_freq_factor"),
        "rope_length": length or fields.integer("max_position_embeddings"),
    }


def write_rope(config: ModelConfig) -> dict:
    """The fields in the published form, which every version of Transformers reads."""
    scaling = None
    length = config.rope_length
    if config.rope_scaling != "none":
        scaling = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
        length = math.ceil(length * config.rope_factor)
    if scaling and config.rope_scaling == "llama3":
        scaling |= {
            "low_freq_factor": config.rope_low_frequency,
            "high_freq_factor": config.rope_high_frequency,
            "original_max_position_embeddings": config.rope_length,
        }
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "max_position_embeddings": length,
    }
