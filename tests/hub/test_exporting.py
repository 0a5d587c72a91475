"""Directories that are written: those of runs without a source, and what is refused."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from bstar_jax import hub, model
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import safetensors_files
from bstar_jax.model import adapters
from tests import builders, checkpoints

LLAMAS = {
    "default": ModelConfig(vocab_size=19, width=16, layers=2, heads=4, kv_heads=2, feed_forward=24),
    "untied, biased, wide heads, llama3": ModelConfig(
        vocab_size=19, width=16, layers=2, heads=4, kv_heads=1, head_width=6, feed_forward=24,
        tied=False, qkv_bias=True, output_bias=True, feed_forward_bias=True,
        rope_scaling="llama3", rope_factor=4.0, rope_length=16, norm_epsilon=1e-5,
    ),
    "yarn": ModelConfig(
        vocab_size=19, width=16, layers=2, heads=2, kv_heads=2, feed_forward=24, rope_theta=300.0,
        rope_scaling="yarn", rope_factor=4.0, rope_length=16, rope_amplitude=1.3,
        rope_high_frequency=3.0,
    ),
    "linear": ModelConfig(
        vocab_size=19, width=16, layers=2, heads=2, kv_heads=2, feed_forward=24, rope_theta=300.0,
        rope_scaling="linear", rope_factor=2.0, query_divisor=8.0,
    ),
}  # fmt: skip
IDS = {"eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", LLAMAS)
def test_a_model_from_random_parameters_is_a_llama(tmp_path, name):
    config, params = LLAMAS[name], builders.params(LLAMAS[name])
    hub.export_checkpoint(config, params, None, tmp_path / "out", special_ids=IDS)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert (loaded.config.eos_token_id, loaded.config.bos_token_id) == (1, None)
    tokens_BL = np.random.default_rng(0).integers(0, 19, (2, 24))
    theirs = checkpoints.logits(loaded, tokens_BL)
    ours = np.asarray(model.forward(config, params, jnp.asarray(tokens_BL)))
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()
    again, values = hub.import_checkpoint(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float32"
    assert hub.adopt_architecture(ModelConfig(), tmp_path / "out") == again
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, values)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True}, "model.qk_norm is True, and a Llama, .* has False there"),
        ({"window": 4}, "model.window is 4"),
        ({"activation": "gelu"}, "model.activation is 'gelu'"),
        ({"qkv_bias": True}, "model.output_bias is False"),
        ({"logit_cap": 3.0}, "model.logit_cap is 3.0"),
        ({"rope_pattern": "rn"}, "model.rope_pattern is 'rn'"),
        ({"residual_scale": 0.5}, "model.residual_scale is 0.5"),
        ({"query_divisor": 5.0}, "model.query_divisor is 5.0"),
        ({"heads": 6, "head_width": 4}, "model.heads is 6"),
    ],
)
def test_what_no_llama_is_needs_a_source(tmp_path, changes, message):
    fields = {"vocab_size": 19, "width": 16, "layers": 2, "feed_forward": 24, **changes}
    config = ModelConfig(**fields)
    with pytest.raises(UserError, match=message):
        hub.export_checkpoint(config, builders.params(config), "", tmp_path / "out")
    assert not os.listdir(tmp_path)


def exported(tmp_path, config=builders.MODEL, params=None, **settings):
    params = builders.params(config) if params is None else params
    hub.export_checkpoint(config, params, None, tmp_path / "out", **settings)


def test_an_output_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserError, match="exists and is not empty; nothing is overwritten"):
        exported(tmp_path)
    assert os.listdir(tmp_path / "out") == ["mine"]
    (tmp_path / "out" / "mine").unlink()
    exported(tmp_path)
    assert "model.safetensors" in os.listdir(tmp_path / "out")


def test_an_export_that_fails_leaves_nothing(tmp_path):
    def fail(_):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        exported(tmp_path, add=fail)
    assert not os.listdir(tmp_path)
    (tmp_path / ".out.writing").mkdir()  # what a kill leaves
    (tmp_path / ".out.writing" / "half").write_text("x")
    exported(tmp_path, add=lambda place: (place / "more").write_text("x"))
    assert os.listdir(tmp_path) == ["out"]
    assert set(os.listdir(tmp_path / "out")) == {"config.json", "model.safetensors", "more"}


def test_parameters_of_another_config_are_refused(tmp_path):
    other = LLAMAS["default"]
    with pytest.raises(UserError, match="parameter .* is .*, but the config makes it"):
        exported(tmp_path, params=builders.params(other))
    more = {**builders.params(), "spare": jnp.zeros(3)}
    with pytest.raises(UserError, match="parameter spare is none of the config's"):
        exported(tmp_path, params=more)


def test_a_scalar_head_and_adapters_are_refused(tmp_path):
    with pytest.raises(UserError, match="have scalar, .*drop the scalar head first"):
        exported(tmp_path, params={**builders.params(), "scalar": jnp.zeros((16, 1))})
    config = ModelConfig(vocab_size=19, width=16, layers=2, feed_forward=24, lora_rank=2)
    with pytest.raises(UserError, match="have blocks.attention.key_lora_in"):
        exported(tmp_path, config)


def test_a_source_of_another_architecture_is_refused(tmp_path):
    source = checkpoints.write(tmp_path / "in", "llama")
    config, params = hub.import_checkpoint(source)
    checkpoints.edit(source / "config.json", rms_norm_eps=1e-5)
    with pytest.raises(UserError, match="model.norm_epsilon is 1e-06, but the source .* has 1e-05"):
        hub.export_checkpoint(config, params, source, tmp_path / "out")


def test_a_value_beyond_the_dtype_of_its_file_is_refused(tmp_path):
    source = checkpoints.write(tmp_path / "in", "llama", dtype="float16")
    config, params = hub.import_checkpoint(source)
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[3].set(7e4)
    with pytest.raises(UserError, match="model.norm.weight has a value of 70000, and .* 65504"):
        hub.export_checkpoint(config, params, source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


def test_a_written_file_is_that_of_the_safetensors_library(tmp_path):
    rng = np.random.default_rng(0)
    dtypes = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    tensors = {
        f"{letter}.{name}": rng.standard_normal((3, place + 1)).astype(jnp.dtype(dtype))
        for place, letter in enumerate("zay")
        for name, dtype in dtypes.items()
    }
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    layout = {name: (name.split(".")[1], tensor.shape) for name, tensor in tensors.items()}
    safetensors_files.write_tensors(tmp_path / "ours", layout, tensors.get)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with pytest.raises(ValueError, match="a.F32 is"):
        safetensors_files.write_tensors(
            tmp_path / "ours", layout, lambda name: np.zeros(4, np.float32)
        )


def test_an_adapter_for_peft_is_the_sum_that_sampling_reads(tmp_path):
    """PEFT adds alpha / r B A to a weight of the base model's; so do we, under the same names."""
    source = checkpoints.write(tmp_path / "in", "qwen2")
    config, base = hub.import_checkpoint(source)
    config = dataclasses.replace(
        config, lora_rank=3, lora_alpha=6.0, lora_targets=("query", "output", "down")
    )
    random = builders.params(config)
    params = adapters.combine(base, adapters.trained(config, random))
    hub.export_adapter(config, adapters.trained(config, params), str(source), tmp_path / "adapter")
    hub.export_checkpoint(
        adapters.merged_model(config),
        adapters.merge_into_weights(config, params),
        source,
        tmp_path / "merged",
    )
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (3, 6.0, "LORA")
    assert settings["target_modules"] == ["down_proj", "o_proj", "q_proj"]
    added = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(added) == 2 * 3 * config.layers
    before, after = checkpoints.tensors(source), checkpoints.tensors(tmp_path / "merged")
    for name, weight in before.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in added:
            weight = (
                weight + 2 * added[f"{module}.lora_B.weight"] @ added[f"{module}.lora_A.weight"]
            )
        np.testing.assert_allclose(after[name], weight, atol=1e-5)


def test_adapters_of_joined_matrices_are_none_of_peft(tmp_path):
    source = checkpoints.write(tmp_path / "in", "phi3")
    config, _ = hub.import_checkpoint(source)
    config = dataclasses.replace(config, lora_rank=2, lora_targets=("query",))
    params = adapters.trained(config, builders.params(config))
    with pytest.raises(UserError, match="qkv_proj.weight joins 3 matrices.* drop --adapter"):
        hub.export_adapter(config, params, str(source), tmp_path / "adapter")


def test_a_model_without_adapters_has_none_to_export(tmp_path):
    with pytest.raises(UserError, match="lora_rank is 0, so there is no adapter"):
        hub.export_adapter(builders.MODEL, {}, "base", tmp_path / "adapter")
