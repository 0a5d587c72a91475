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
    "yarn": (
        "factor", "beta_slow", "beta_fast", "original_max_position_embeddings", "attention_factor",
        "mscale", "mscale_all_dim", "truncate",
    ),
}  # fmt: skip


def read_rope(fields: Fields, theta: float = 1e4) -> dict:
    """The `rope_*` fields of the model's config, where all layers rotate alike.

    Args:
      fields: The fields of the language model.
      theta: The base where the file is silent.

    Raises:
      UserError: On a type or a field that is not supported.
    """
    given = _both_forms(fields.group("rope_parameters"), fields.group("rope_scaling"))
    return _read_wavelengths(given, fields, fields.number("rope_theta", theta))


def read_rope_by_layer_type(fields: Fields, theta: float, local_theta: float) -> dict:
    """The same for families whose windowed layers have wavelengths of their own.

    Args:
      fields: The fields of the language model.
      theta: The base of full layers where the file is silent.
      local_theta: That of windowed layers.

    Raises:
      UserError: On a type or a field that is not supported.
    """
    nested = fields.group("rope_parameters")
    for name in nested.values:
        if name not in (_FULL, _LOCAL):
            nested.refuse(name, f"this family has {_FULL} and {_LOCAL} here, each with its own")
    full, local = nested.group(_FULL), nested.group(_LOCAL)
    full = _both_forms(full, fields.group("rope_scaling"))
    rope = _read_wavelengths(full, fields, fields.number("rope_theta", theta))
    local_theta = fields.number("rope_local_base_freq", local_theta)
    local_rope = _read_wavelengths(local, fields, local_theta)
    if local_rope["rope_scaling"] != "none":
        local.refuse("rope_type", "windowed layers are never stretched here: 'default'")
    return {**rope, "rope_local_theta": local_rope["rope_theta"]}


def _both_forms(parameters: Fields, scaling: Fields) -> Fields:
    """One set of wavelengths where a file has both forms, which must not contradict each other.

    Raises:
      UserError: If they name different types or values.
    """
    if not (parameters.values and scaling.values):
        return scaling if scaling.values else parameters
    merged: dict[str, object] = {}
    for form in (parameters, scaling):
        for name, value in form.values.items():
            known = "rope_type" if name == "type" else name
            if value is not None and merged.setdefault(known, value) != value:
                rule = f"{parameters.prefix}{known} is {merged[known]!r}, and both are of one model"
                scaling.refuse(name, rule)
    return dataclasses.replace(scaling, values=merged)


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
    known |= {*_TYPES[kind]}
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
    scaled["rope_length"] = length or fields.integer("max_position_embeddings")
    if kind == "yarn":
        return {**scaled, **_read_yarn(given)}
    return {
        **scaled,
        "rope_low_frequency": given.number("low_freq_factor"),
        "rope_high_frequency": given.number("high_freq_factor"),
    }


def _read_yarn(given: Fields) -> dict:
    """The fields that "yarn" alone has, with the values that Transformers takes by default."""
    given.only("truncate", True, "the range of pairs is rounded here")
    factor = given.number("factor")
    one, other = given.number("mscale", 0.0), given.number("mscale_all_dim", 0.0)
    amplitude = _magnitude(factor, one) / _magnitude(factor, other) if one and other else None
    if amplitude is None:
        amplitude = _magnitude(factor, 1.0)
    return {
        "rope_low_frequency": given.number("beta_slow", 1.0),
        "rope_high_frequency": given.number("beta_fast", 32.0),
        "rope_amplitude": given.number("attention_factor", amplitude),
    }


def _magnitude(factor: float, share: float) -> float:
    """0.1 share ln(factor) + 1, the equation of section 3.4 of arXiv:2309.00071."""
    return 0.1 * share * math.log(factor) + 1.0 if factor > 1 else 1.0


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
    if scaling and config.rope_scaling == "yarn":
        scaling |= {
            "beta_slow": config.rope_low_frequency,
            "beta_fast": config.rope_high_frequency,
            "attention_factor": config.rope_amplitude,
            "original_max_position_embeddings": config.rope_length,
        }
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "max_position_embeddings": length,
    }
