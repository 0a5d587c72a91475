"""Broken, strange and missing checkpoints: each is refused by name, before a tensor is read."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bstar_jax import hub
from bstar_jax.config import UserError
from bstar_jax.hub import directory
from tests import builders, checkpoints

NORM = "model.norm.weight"


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """Headers alone may be read."""

    def refuse(*_):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(directory, "read_part", refuse)


@pytest.fixture
def source(tmp_path):
    return checkpoints.write(tmp_path / "in", "llama", dtype="bfloat16")


@pytest.fixture
def sharded(tmp_path):
    return checkpoints.write(tmp_path / "in", "llama", shards=True)


def refused(path, message, mesh=None):
    with pytest.raises(UserError) as error:
        hub.import_checkpoint(path, mesh)
    assert message in str(error.value), error.value


def rewrite(source, **changes):
    """Replaces tensors; None takes one out."""
    stored = {**checkpoints.tensors(source), **changes}
    kept = {name: tensor for name, tensor in stored.items() if tensor is not None}
    save_file(kept, source / "model.safetensors")


def test_a_missing_tensor(source):
    rewrite(source, **{NORM: None})
    refused(source, f"{source} lacks tensor {NORM}, which a model with its config.json has to have")


def test_an_extra_tensor(source):
    rewrite(source, score=np.zeros((2, 20), np.float32), other=np.zeros(3, np.float32))
    refused(source, "has tensor other and 1 more, which a model with its config.json has no place")


def test_a_layer_too_few_in_config(source):
    checkpoints.edit(source / "config.json", num_hidden_layers=2)
    refused(source, "has tensor model.layers.2.input_layernorm.weight and 8 more")


def test_a_wrong_shape(source):
    rewrite(source, **{NORM: np.zeros(21, np.float32)})
    refused(source, f"tensor {NORM} is [21], but config.json makes it [20]")


def test_a_vocabulary_that_is_not_the_embeddings(source):
    checkpoints.edit(source / "config.json", vocab_size=52)
    refused(source, "is [53, 20], but config.json makes it [52, 20]")


def test_a_tied_head_of_another_shape(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3")
    rewrite(source, **{"lm_head.weight": np.zeros((54, 20), np.float32)})
    refused(source, "tensor lm_head.weight is [54, 20], but config.json makes it [53, 20]")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float64])
def test_a_dtype_that_is_not_supported(source, dtype):
    from safetensors.torch import load_file, save_file

    stored = load_file(source / "model.safetensors")
    stored[NORM] = stored[NORM].to(dtype)
    save_file(stored, source / "model.safetensors")
    refused(source, "supported are F32, BF16, F16: take a checkpoint that is not quantized")


@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_a_file_cut_short(source, size):
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    refused(source, f"{file} ({file.stat().st_size} bytes) is broken or cut short")


def test_a_shard_that_is_missing(sharded):
    file = sorted(sharded.glob("*.safetensors"))[1]
    file.unlink()
    refused(sharded, f"{file} is missing, which model.safetensors.index.json names")


def test_a_shard_without_a_tensor_of_the_index(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    file = sorted(sharded.glob("*.safetensors"))[0]
    checkpoints.edit(
        sharded / "model.safetensors.index.json",
        weight_map={**index["weight_map"], "model.other": file.name},
    )
    refused(sharded, f"{file} lacks tensor model.other")


def test_a_tensor_in_two_shards(sharded):
    stored = checkpoints.tensors(sharded)
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    save_file({NORM: stored[NORM]}, first)
    save_file({NORM: stored[NORM]}, second)
    refused(sharded, f"tensor {NORM} is both in {first} and in {second}")


def test_an_index_without_a_map(sharded):
    (sharded / "model.safetensors.index.json").write_text("{}")
    refused(sharded, "has no weight_map")


def test_a_stray_file_beside_an_index(sharded):
    save_file({NORM: np.zeros(20, np.float32)}, sharded / "model.safetensors")
    refused(sharded, "has model.safetensors and also model.safetensors.index.json, which names")


@pytest.mark.parametrize("file", ["../outside.safetensors", "/outside.safetensors", 5, None, [1]])
def test_an_index_that_names_no_file_beside_it(sharded, file):
    checkpoints.edit(sharded / "model.safetensors.index.json", weight_map={NORM: file})
    refused(sharded, f"has {NORM} in {file!r}; it takes names of files beside it")


def test_pickled_weights_alone(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    refused(source, "weights in pytorch_model.bin, which can run code")


def test_no_weights(source):
    (source / "model.safetensors").unlink()
    refused(source, "has no weights: neither model.safetensors nor")


def test_a_kept_source_is_no_checkpoint(source, tmp_path):
    hub.keep_source(source, tmp_path / "kept")
    refused(tmp_path / "kept", "keeps the names of tensors, not the weights")


def test_no_config(source):
    (source / "config.json").unlink()
    refused(source, "has no config.json; give a directory with it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not a group of fields"),
        ("[" * 100_000, "has groups within groups without end"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "is not JSON"),
    ],
    ids=["cut", "list", "deep", "long"],
)
def test_a_broken_config(source, text, message):
    (source / "config.json").write_text(text)
    refused(source, f"{source / 'config.json'}")
    refused(source, message)


def test_a_mesh_that_does_not_divide(source):
    refused(source, "model.kv_heads is 2, but mesh.tensor is 4", builders.mesh(tensor=4))


def test_a_dtype_that_nobody_has(source):
    with pytest.raises(ValueError, match="float16"):
        hub.import_checkpoint(source, dtype="float16")


@pytest.mark.parametrize("name", ["./nothing", "/nothing/there", "a/b/c"])
def test_a_directory_that_is_not_there(name):
    refused(name, f"model.checkpoint is {name!r}, and there is no such directory; give the")


@pytest.mark.parametrize("name", ["someone/model", "no such name"])
def test_a_hub_name_without_network_says_how_to_give_a_directory(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(name, f"model.checkpoint is {name!r}; there is no such directory, and the hub did not")
    refused(name, "give the directory of a checkpoint that was fetched before")


def test_a_hub_name_fetches_only_what_is_needed(source, monkeypatch):
    asked = {}

    def fetch(name, **settings):
        asked.update(settings, name=name)
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert hub.locate("someone/model") == source
    assert asked["name"] == "someone/model"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])
    assert hub.locate(source) == source
