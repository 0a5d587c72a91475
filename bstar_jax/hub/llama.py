"""A model that started from random parameters, said as a Llama: `config.json` in its words."""

from __future__ import annotations

from collections.abc import Mapping

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import rope

# Fields of the model's config that a Llama has at this value.
_FIXED = {
    "activation": "silu",
    "window": 0,
    "qk_norm": False,
    "post_norms": False,
    "norm_offset": False,
    "embedding_scale": False,
    "attention_cap": 0.0,
    "logit_cap": 0.0,
}


def write_config(config: ModelConfig, special_ids: Mapping[str, int]) -> dict:
    """The fields of a `config.json` from which `read_config` makes this model.

    Args:
      config: The model.
      special_ids: `bos_token_id`, `eos_token_id`, `pad_token_id`: those that there are.

    Raises:
      UserError: If the model is no Llama.
    """
    for name, value in _FIXED.items():
        if getattr(config, name) != value:
            _refuse(name, getattr(config, name), value)
    if config.query_divisor not in (0.0, config.width_per_head):
        _refuse("query_divisor", config.query_divisor, 0.0)
    if config.output_bias != config.qkv_bias:
        _refuse("output_bias", config.output_bias, f"{config.qkv_bias}, that of qkv_bias")
    if config.width % config.heads:
        _refuse("heads", config.heads, f"a divisor of width {config.width}")
    return {
        "architectures": ["LlamaForCausalLM"],
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
        **rope.write(config),
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.feed_forward_bias,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
        **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
        **special_ids,
    }


def _refuse(name: str, value, allowed):
    raise UserError(
        f"model.{name} is {value!r}, and a Llama, as which a model that started from random "
        f"parameters is written, has {allowed!r} there; it can be exported where it started from "
        "a checkpoint of its family"
    )
