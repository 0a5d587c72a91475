"""From `config.json` to the architecture of a model, and back for models without a checkpoint.

Where a field is absent, the value is the one that Transformers takes. A field that changes the
computation and is not supported is refused by name; one that does not (lengths, caches, token ids,
initial deviations) is ignored.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Mapping

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import rope
from bstar_jax.hub.dtypes import published_dtype
from bstar_jax.hub.families import FAMILIES, LLAMA, Family, why_not_read
from bstar_jax.hub.fields import Fields, read_json

_DEFAULTS = ModelConfig.architecture()
ARCHITECTURE = tuple(_DEFAULTS)
"""Names of the fields of the model's config that a checkpoint decides."""

# More layers than any model has; a list is made of them before the tensors are looked at.
_MOST_LAYERS = 10_000

# Values at which these fields have no effect; any other value is refused.
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
# Fields with one of these in their names are refused too, unless null, false, 0, 1 or empty.
_CHANGING = re.compile(
    "alibi|audio_|bidirectional|clip_|dropout|expert|logits_scal|moe_|mrope|multiplier|pdrop|"
    "quantiz|softcap|vision_"
)
# Except these: a language model has no such part.
_HARMLESS = frozenset({"classifier_dropout"})

# Fields that a Llama's config.json expresses, and those without effect where no layer is windowed.
_SAID_BY_LLAMA = frozenset(
    "vocab_size width layers heads kv_heads head_width feed_forward rope_theta rope_scaling "
    "rope_factor rope_low_frequency rope_high_frequency rope_length rope_amplitude qkv_bias "
    "output_bias feed_forward_bias norm_epsilon query_divisor tied rope_local_theta "
    "window_pattern qk_norm_whole".split()
)


def read_architecture(path: pathlib.Path) -> ModelConfig:
    """The architecture of a checkpoint, from its `config.json` alone.

    Args:
      path: A directory.

    Returns:
      A config whose `checkpoint` is "" and whose `vocab_size` is that of the embedding.

    Raises:
      UserError: If the file is missing or broken, its family is not supported, or a field changes
        the computation in a way that is not supported.
    """
    fields = _read_fields(path)
    family = _find_family(fields)
    fields = _language_fields(fields, family)
    _refuse_unsupported(fields, family.reads)
    stated, usual = {**family.defaults, **fields.values}, family.defaults.get
    fields = dataclasses.replace(fields, values=stated)
    layers = fields.integer("num_hidden_layers", most=_MOST_LAYERS)
    heads = fields.integer("num_attention_heads")
    width = fields.integer("hidden_size")
    common = {
        "vocab_size": fields.integer("vocab_size"),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": fields.integer("num_key_value_heads", heads),
        "head_width": fields.integer("head_dim", usual("head_dim", width // max(heads, 1))),
        "feed_forward": fields.integer("intermediate_size"),
        "norm_epsilon": fields.number("rms_norm_eps", usual("rms_norm_eps", 1e-6)),
        "tied": fields.flag("tie_word_embeddings", usual("tie_word_embeddings", False)),
        "activation": "silu",
    }
    try:
        return ModelConfig(**{**common, **family.read(fields, layers)})
    except UserError as error:
        raise UserError(f"{fields.file}: as the model's config, {error}") from error


def read_family(path: pathlib.Path) -> Family:
    """The family of a checkpoint, from its `config.json` alone.

    Raises:
      UserError: If the file is missing or broken, or its family is not supported.
    """
    return _find_family(_read_fields(path))


def adopt_architecture(
    config: ModelConfig, source: str | os.PathLike, stated: Collection[str] = ()
) -> ModelConfig:
    """A run's model with the architecture of the checkpoint that it starts from.

    Example: ModelConfig(checkpoint="/models/q", dtype="bfloat16") -> that of /models/q, computed
    in bfloat16.

    Args:
      config: The model as the run has it. Fields of its architecture are left at their defaults,
        or have the values of the checkpoint.
      source: The directory of the checkpoint, or what `keep_source` kept of it.
      stated: Names of settings, such as "model.width", that are compared with the checkpoint even
        where they are the default.

    Raises:
      UserError: If a field has another value, with both values; or as `read_architecture` does.
    """
    found = read_architecture(pathlib.Path(source))
    for name, default in _DEFAULTS.items():
        given, stored = getattr(config, name), getattr(found, name)
        if given != stored and (given != default or f"model.{name}" in stated):
            raise UserError(
                f"model.{name} is {given!r}, but the checkpoint {source} has {stored!r}; the "
                f"architecture is that of the checkpoint: drop model.{name}"
            )
    if config.dtype == "file":
        config = dataclasses.replace(config, dtype=published_dtype(pathlib.Path(source)))
    return dataclasses.replace(config, **{name: getattr(found, name) for name in ARCHITECTURE})


def check_architecture(config: ModelConfig, found: ModelConfig, source: pathlib.Path) -> None:
    """Refuses a model that is not the one whose `config.json` is to be copied.

    Raises:
      UserError: With the first field that differs, and both values.
    """
    for name in ARCHITECTURE:
        if getattr(config, name) != getattr(found, name):
            raise UserError(
                f"model.{name} is {getattr(config, name)!r}, but the source {source} has "
                f"{getattr(found, name)!r}; give the checkpoint that the model started from"
            )


def write_llama_config(config: ModelConfig, special_ids: Mapping[str, int]) -> dict:
    """A `config.json` for a model that started from random parameters, which is always a Llama.

    Args:
      config: The model.
      special_ids: `bos_token_id`, `eos_token_id` and `pad_token_id`, as far as they exist.

    Returns:
      The fields from which `read_architecture` makes this model.

    Raises:
      UserError: If the model is not a Llama.
    """
    for name, value in _DEFAULTS.items():
        if name not in _SAID_BY_LLAMA and getattr(config, name) != value:
            _refuse_as_llama(name, getattr(config, name), value)
    if config.query_divisor not in (0.0, config.width_per_head):
        _refuse_as_llama("query_divisor", config.query_divisor, 0.0)
    if config.output_bias != config.qkv_bias:
        allowed = f"{config.qkv_bias}, that of qkv_bias"
        _refuse_as_llama("output_bias", config.output_bias, allowed)
    if config.width % config.heads:
        _refuse_as_llama("heads", config.heads, f"a divisor of width {config.width}")
    return {
        "architectures": [LLAMA.model_class],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.width_per_head,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        **rope.write_rope(config),
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.feed_forward_bias,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **special_ids,
    }


def _read_fields(path: pathlib.Path) -> Fields:
    """The fields of the language model in a checkpoint's `config.json`."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path} is no checkpoint: it has no config.json; give a directory with it")
    return Fields(file, read_json(file))


def _find_family(fields: Fields) -> Family:
    kind = fields.text("model_type", "")
    if kind not in FAMILIES:
        supported = f"supported are {', '.join(FAMILIES)}"
        fields.refuse("model_type", why_not_read(kind) or supported)
    family = FAMILIES[kind]
    classes = fields.values.get("architectures") or [family.model_class]
    if not isinstance(classes, list) or family.model_class not in classes:
        fields.refuse("architectures", f"of {kind} only {family.model_class} is supported")
    return family


def _language_fields(fields: Fields, family: Family) -> Fields:
    """The fields of the language model, which some families keep in a group of their own."""
    if not family.group:
        return fields
    _refuse_unsupported(fields, frozenset({family.group, "vision_config"}))
    group = fields.group(family.group)
    group.only("model_type", f"{fields.text('model_type')}_text", "only its own kind is read")
    tied = {"tie_word_embeddings": fields.flag("tie_word_embeddings", True)}
    return dataclasses.replace(group, values={**group.values, **tied})


def _refuse_unsupported(fields: Fields, reads: frozenset[str]) -> None:
    """Raises `UserError` on a field that changes the computation in an unsupported way.

    Args:
      fields: The fields of a file or group.
      reads: Those that have a meaning there.
    """
    for name, value in fields.values.items():
        if name in reads | _HARMLESS or not value:
            continue
        if name in _NEUTRAL:
            fields.only(name, _NEUTRAL[name], "it changes the computation, and is not supported")
        elif _CHANGING.search(name) and (value is True or value != 1):
            fields.refuse(name, "it changes the computation, and is not supported")


def _refuse_as_llama(name: str, value: object, allowed: object) -> None:
    raise UserError(
        f"model.{name} is {value!r}, and a Llama, as which a model that started from random "
        f"parameters is written, has {allowed!r} there; it can be exported where it started from "
        "a checkpoint of its family"
    )
