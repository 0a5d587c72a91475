"""config.json to the model's config: published files, both forms, and what is refused by name."""

import dataclasses
import json
import math

import pytest

from bstar_jax import hub
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import names
from bstar_jax.hub.readers import shortest_pattern
from tests import checkpoints

# As published, the fields that say nothing about the computation included.
_COMMON = {
    "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.45.0",
}  # fmt: skip
LLAMA = {
    **_COMMON, "architectures": ["LlamaForCausalLM"], "attention_bias": False,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008], "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
}  # fmt: skip
MISTRAL = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
QWEN2 = {
    **_COMMON, "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
    "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3 = {
    **_COMMON, "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
GEMMA2 = {
    **_COMMON, "architectures": ["Gemma2ForCausalLM"], "attention_bias": False,
    "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0, "head_dim": 128, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 4608, "intermediate_size": 36864,
    "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 32,
    "num_hidden_layers": 46, "num_key_value_heads": 16, "query_pre_attn_scalar": 144,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000,
}  # fmt: skip
GEMMA3 = {
    **_COMMON, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
    "attn_logit_softcapping": None, "cache_implementation": "hybrid",
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
}  # fmt: skip
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
    "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
    "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
    "vision_config": {
        "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
        "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27,
        "patch_size": 14, "vision_use_head": False,
    },
}  # fmt: skip
GEMMA1 = {
    **_COMMON, "architectures": ["GemmaForCausalLM"], "attention_bias": False, "bos_token_id": 2,
    "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu", "hidden_activation": None,
    "hidden_size": 2048, "intermediate_size": 16384, "max_position_embeddings": 8192,
    "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18,
    "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 10000.0, "vocab_size": 256000,
}  # fmt: skip
OLMO3 = {
    **_COMMON, "architectures": ["Olmo3ForCausalLM"], "attention_bias": False,
    "eos_token_id": 100257, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
    "max_position_embeddings": 65536, "model_type": "olmo3", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1,
                     "factor": 8.0, "original_max_position_embeddings": 8192,
                     "rope_type": "yarn"},
    "rope_theta": 500000, "sliding_window": 4096, "tie_word_embeddings": False,
    "vocab_size": 100278,
}  # fmt: skip
GRANITE = {
    **_COMMON, "architectures": ["GraniteForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.1, "attention_multiplier": 0.0078125, "embedding_multiplier": 12.0,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12800, "logits_scaling": 16.0,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "granite",
    "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
    "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "rope_theta": 10000000.0, "tie_word_embeddings": True, "vocab_size": 49155,
}  # fmt: skip
# Sizes of MiniCPM5 1B, which has 1,080,632,832 parameters.
MINICPM5 = {
    **_COMMON, "architectures": ["LlamaForCausalLM"], "attention_bias": False, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 1536, "intermediate_size": 4608,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 16, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "rope_scaling": None, "rope_theta": 5000000.0, "tie_word_embeddings": False,
    "vocab_size": 130560,
}  # fmt: skip
_GEMMA = {
    "tied": True, "activation": "gelu", "post_norms": True, "norm_offset": True,
    "embedding_scale": True,
}  # fmt: skip
PUBLISHED = {
    "Llama 3.2 1B": (LLAMA, ModelConfig(
        vocab_size=128256, width=2048, layers=16, heads=32, kv_heads=8, head_width=64,
        feed_forward=8192, rope_theta=5e5, rope_scaling="llama3", rope_factor=32.0,
        rope_length=8192, norm_epsilon=1e-5, tied=True,
    )),
    "Mistral 7B": (MISTRAL, ModelConfig(
        vocab_size=32000, width=4096, layers=32, heads=32, kv_heads=8, head_width=128,
        feed_forward=14336, window=4096, norm_epsilon=1e-5, tied=False,
    )),
    "Qwen2.5 0.5B": (QWEN2, ModelConfig(
        vocab_size=151936, width=896, layers=24, heads=14, kv_heads=2, head_width=64,
        feed_forward=4864, rope_theta=1e6, qkv_bias=True, tied=True,
    )),
    "Qwen3 0.6B": (QWEN3, ModelConfig(
        vocab_size=151936, width=1024, layers=28, heads=16, kv_heads=8, head_width=128,
        feed_forward=3072, rope_theta=1e6, qk_norm=True, tied=True,
    )),
    "Gemma 2 27B": (GEMMA2, ModelConfig(
        vocab_size=256000, width=4608, layers=46, heads=32, kv_heads=16, head_width=128,
        feed_forward=36864, window=4096, window_pattern="wf", query_divisor=144.0,
        attention_cap=50.0, logit_cap=30.0, **_GEMMA,
    )),
    "Gemma 3 1B": (GEMMA3, ModelConfig(
        vocab_size=262144, width=1152, layers=26, heads=4, kv_heads=1, head_width=256,
        feed_forward=6912, window=512, window_pattern="wwwwwf", rope_theta=1e6,
        rope_local_theta=1e4, qk_norm=True, **_GEMMA,
    )),
    "Gemma 3 4B": (GEMMA3_4B, ModelConfig(
        vocab_size=262208, width=2560, layers=34, heads=8, kv_heads=4, head_width=256,
        feed_forward=10240, window=1024, window_pattern="wwwwwf", rope_theta=1e6,
        rope_local_theta=1e4, rope_scaling="linear", rope_factor=8.0, qk_norm=True,
        **_GEMMA,
    )),
    "Gemma 2B": (GEMMA1, ModelConfig(
        vocab_size=256000, width=2048, layers=18, heads=8, kv_heads=1, head_width=256,
        feed_forward=16384, embedding_scale=True, norm_offset=True, activation="gelu",
    )),
    "OLMo 3 7B": (OLMO3, ModelConfig(
        vocab_size=100278, width=4096, layers=32, heads=32, kv_heads=32, head_width=128,
        feed_forward=11008, window=4096, window_pattern="wwwf", rope_theta=5e5,
        rope_local_theta=5e5, rope_scaling="yarn", rope_factor=8.0, rope_low_frequency=1.0,
        rope_high_frequency=32.0, rope_length=8192, rope_amplitude=1.2079441541679836,
        qk_norm=True, qk_norm_whole=True, pre_norms=False, post_norms=True, tied=False,
    )),
    "Granite 3.2 8B": (GRANITE, ModelConfig(
        vocab_size=49155, width=4096, layers=40, heads=32, kv_heads=8, head_width=128,
        feed_forward=12800, rope_theta=1e7, embedding_multiplier=12.0, residual_scale=0.22,
        query_divisor=16384.0, logit_divisor=16.0, norm_epsilon=1e-5,
    )),
    "MiniCPM5 1B": (MINICPM5, ModelConfig(
        vocab_size=130560, width=1536, layers=24, heads=16, kv_heads=2, head_width=128,
        feed_forward=4608, rope_theta=5e6, tied=False,
    )),
}  # fmt: skip


def read(directory, fields):
    (directory / "config.json").write_text(json.dumps(fields))
    return hub.read_architecture(directory)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_the_model_that_it_says(tmp_path, name):
    fields, expected = PUBLISHED[name]
    assert read(tmp_path, fields) == expected


def test_the_sizes_of_minicpm5_make_its_number_of_parameters(tmp_path):
    shapes = names.shapes(read(tmp_path, MINICPM5)).values()
    assert sum(math.prod(shape) for shape in shapes) == 1_080_632_832


@pytest.mark.parametrize("case", sorted(set(checkpoints.CASES) - {"gemma3, with vision"}))
def test_the_form_of_transformers_5_and_the_published_one_are_the_same_model(tmp_path, case):
    checkpoints.model(case).config.save_pretrained(tmp_path)
    new = hub.read_architecture(tmp_path)
    rope = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    local = rope.get("sliding_attention")
    scaling = dict(rope.get("full_attention", rope))
    theta = scaling.pop("rope_theta")
    old = {"rope_parameters": ..., "rope_theta": theta}
    old["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    if local and case.startswith("gemma3"):
        old["rope_local_base_freq"] = local["rope_theta"]
    checkpoints.edit(tmp_path / "config.json", **old)
    assert hub.read_architecture(tmp_path) == new
    if scaling["rope_type"] != "default":
        kind = scaling.pop("rope_type")
        checkpoints.edit(tmp_path / "config.json", rope_scaling={**scaling, "type": kind})
        assert hub.read_architecture(tmp_path) == new


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "gpt2"}, 'model_type is "gpt2"; supported are llama, mistral'),
        ({"model_type": "mixtral"}, "it has mixtures of experts, which are not read; take a dense"),
        ({"model_type": "qwen3_moe"}, "it has mixtures of experts"),
        ({"model_type": "qwen3_5"}, "it has layers of gated delta nets, which are not read; take"),
        ({"model_type": "qwen3_next"}, "it has layers of gated delta nets"),
        ({"model_type": "gemma3n_text"}, "take Gemma 3 (gemma3, gemma3_text)"),
        ({"model_type": "gemma4"}, "take Gemma 3 (gemma3, gemma3_text)"),
        ({"model_type": "lfm2"}, "short convolutions in place of attention"),
        ({"model_type": "granitemoehybrid"}, "take Granite 3 or 4.1 (granite)"),
        ({"model_type": ...}, "model_type is null"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM"),
        ({"hidden_act": "relu"}, 'hidden_act is "relu"; supported are silu'),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}},
            "truncate is false; the range of pairs is rounded here",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 'rope_scaling.type is "dynamic"'),
        ({"rope_scaling": {"rope_type": "longrope"}}, 'rope_type is "longrope"'),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, 'factor is "2"; it takes a'),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 3}}, "beta_fast"),
        ({"rope_scaling": None, "rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rot"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; it changes"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config is {"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"vision_config": {"depth": 2}}, "vision_config"),
        ({"sliding_window": 4096}, "sliding_window is 4096; it changes"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping is 30.0"),
        ({"residual_multiplier": 0.5}, "residual_multiplier is 0.5"),
        ({"hidden_size": ...}, "hidden_size is missing; it takes a whole number"),
        ({"hidden_size": "2048"}, 'hidden_size is "2048"; it takes a whole number'),
        ({"num_key_value_heads": 5}, "kv_heads must divide heads"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; it takes true or false"),
        ({"architectures": 5}, "architectures is 5; of llama only LlamaForCausalLM"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is Infinity; it takes a finite number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; it is at most 10000"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776; it is at most 2147483647"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 32.0}},
            "rope_scaling.rope_type is \"llama3\"; rope_parameters.rope_type is 'linear', and both",
        ),
    ],
)  # fmt: skip
def test_what_changes_the_computation_and_is_not_supported_is_refused(tmp_path, fields, message):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    checkpoints.edit(tmp_path / "config.json", **fields)
    with pytest.raises(UserError) as error:
        hub.read_architecture(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path / "config.json") in str(error.value)


@pytest.mark.parametrize(
    ("base", "fields", "message"),
    [
        (QWEN2, {"layer_types": ["full_attention"]}, "it lists 24 layers"),
        (QWEN2, {"layer_types": ["chunked_attention"] * 24}, "each one of full_attention"),
        (QWEN2, {"layer_types": ["sliding_attention"] * 24}, "use_sliding_window is false"),
        (QWEN2, {"attention_bias": True}, "attention_bias is true"),
        (MISTRAL, {"layer_types": ["full_attention"] * 32}, "layer_types is "),
        (GEMMA2, {"hidden_activation": "gelu"}, 'hidden_activation is "gelu"'),
        (GEMMA2, {"sliding_window": None}, "sliding_window is null"),
        (GEMMA3, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        (GEMMA3_4B, {"text_config": {"model_type": "gemma3n_text"}}, "text_config.model_type is"),
        (GEMMA3_4B, {"quantization_config": {"bits": 4}}, "quantization_config is"),
        (GEMMA3_4B, {"text_config": {"final_logit_softcapping": 30.0}}, "final_logit_softcapping"),
        (GRANITE, {"attention_multiplier": 0}, "attention_multiplier is 0; it takes a number"),
        (OLMO3, {"rope_local_base_freq": 1e4}, "rope_local_base_freq is 10000.0"),
        (GEMMA3, {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters.rope_theta is 10000"),
        (
            GEMMA3,
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "sliding_attention.rope_type",
        ),
    ],
)
def test_families_refuse_what_is_not_theirs(tmp_path, base, fields, message):
    with pytest.raises(UserError, match="config.json: ") as error:
        read(tmp_path, {**base, **fields})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_dropout": 0},
        {"num_experts_per_tok": None, "quantization_config": None, "moe_layers": []},
        {"partial_rotary_factor": 1.0, "sliding_window": None, "residual_multiplier": 1.0},
        {"classifier_dropout": 0.1, "something_new": 7},
        {"rope_scaling": {"rope_type": "default"}},
    ],
)
def test_fields_that_change_nothing_are_passed_over(tmp_path, fields):
    plain = read(tmp_path, {**LLAMA, "rope_scaling": None})
    assert read(tmp_path, {**LLAMA, "rope_scaling": None, **fields}) == plain


@pytest.mark.parametrize("kind", ["default", "linear"])
@pytest.mark.parametrize("base", [LLAMA, GEMMA3], ids=["llama", "gemma3"])
def test_both_forms_of_rotary_fields_in_one_file_are_one_description(tmp_path, base, kind):
    scaling = {"rope_type": kind} if kind == "default" else {"type": kind, "factor": 4.0}
    stated = {"rope_theta": 1234567.0}
    nested = {"full_attention": stated} if base is GEMMA3 else stated
    plain = {name: value for name, value in base.items() if name != "rope_theta"}
    found = read(tmp_path, {**plain, "rope_scaling": scaling, "rope_parameters": nested})
    assert found.rope_theta == 1234567.0
    assert found.rope_scaling == ("none" if kind == "default" else "linear")
    assert found.rope_factor == (1.0 if kind == "default" else 4.0)


@pytest.mark.parametrize(
    ("letters", "pattern"), [("w", "w"), ("wfwfw", "wf"), ("ffww", "ffww"), ("wwfwwfww", "wwf")]
)
def test_a_pattern_is_the_shortest_that_repeats(letters, pattern):
    assert shortest_pattern(letters) == pattern


def test_a_run_takes_the_architecture_of_its_checkpoint_and_keeps_its_own_settings(tmp_path):
    found = read(tmp_path, GEMMA3)
    settings = ModelConfig(
        checkpoint=str(tmp_path), dtype="bfloat16", remat="dots", lora_rank=4, lora_targets=("up",)
    )
    ours = hub.adopt_architecture(settings, tmp_path)
    kept = {"dtype": "bfloat16", "remat": "dots", "lora_rank": 4, "lora_targets": ("up",)}
    assert ours == dataclasses.replace(found, checkpoint=str(tmp_path), **kept)
    same = dataclasses.replace(settings, width=1152, qk_norm=True, vocab_size=262144)
    assert hub.adopt_architecture(same, tmp_path) == ours


def test_a_setting_that_contradicts_the_checkpoint_is_refused_with_both_values(tmp_path):
    read(tmp_path, GEMMA3)
    with pytest.raises(UserError, match="model.width is 128, but .* has 1152; .* drop model.width"):
        hub.adopt_architecture(ModelConfig(width=128), tmp_path)
    assert hub.adopt_architecture(ModelConfig(), tmp_path).width == 1152
    with pytest.raises(UserError, match="model.width is 96, but .* has 1152; .* drop model.width"):
        hub.adopt_architecture(ModelConfig(), tmp_path, ["model.width"])
