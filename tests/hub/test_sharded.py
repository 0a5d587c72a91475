"""Reading a checkpoint onto a mesh: slices equal the whole, and no device reads another's."""

import collections
import math
import pathlib
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from bstar_jax import hub, sharding
from bstar_jax.hub import directory, importing, names
from tests import builders, checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[2]
CASES = ["llama, tied, biased, llama3", "qwen2, tied, windows", "gemma2", "olmo2", "phi3"]
MESHES = {"data 2 x fsdp 2 x tensor 2": (2, 2, 2), "fsdp 4": (1, 4, 1), "tensor 2": (1, 1, 2)}


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
@pytest.mark.parametrize("case", CASES)
def test_slices_on_a_mesh_are_those_of_the_whole(tmp_path, case, mesh):
    source = checkpoints.write(tmp_path, case, dtype="bfloat16", shards=True)
    mesh = builders.mesh(*mesh)
    config, whole = hub.import_checkpoint(source)
    _, sliced = hub.import_checkpoint(source, mesh)
    whole, sliced = names.leaves(whole), names.leaves(sliced)
    assert whole.keys() == sliced.keys()
    rows = sharding.padded_vocab(config, mesh)
    for path, array in sliced.items():
        axes = names.axes(config)[path]
        expected = np.asarray(whole[path])
        padding = [(0, rows - size if axis == "vocab" else 0)
                   for axis, size in zip(axes, expected.shape, strict=True)]  # fmt: skip
        expected = np.pad(expected, padding)
        assert array.sharding == jax.NamedSharding(mesh, sharding.spec(axes)), path
        assert (np.asarray(array) == expected).all(), path
        for shard in array.addressable_shards:
            assert (np.asarray(shard.data) == expected[shard.index]).all(), path


def test_every_byte_is_read_once_however_many_devices_share_it(tmp_path, monkeypatch):
    source = checkpoints.write(tmp_path, "llama", dtype="bfloat16")
    read = collections.Counter()
    largest = collections.Counter()
    read_part = directory.read_part

    def count(stored, name, part):
        array = read_part(stored, name, part)
        read[name] += array.size
        largest[name] = max(largest[name], array.size)
        return array

    monkeypatch.setattr(directory, "read_part", count)
    hub.import_checkpoint(source, builders.mesh(2, 2, 2))
    stored = {name: tensor.size for name, tensor in checkpoints.tensors(source).items()}
    assert read == stored
    slices = {"self_attn.q_proj.weight": 4, "mlp.down_proj.weight": 4, "input_layernorm.weight": 2}
    for name, parts in slices.items():
        name = f"model.layers.1.{name}"
        assert largest[name] == math.ceil(stored[name] / parts)


def test_blocks_of_a_file_make_the_same_parameters(tmp_path, monkeypatch):
    source = checkpoints.write(tmp_path, "qwen2, tied, windows")
    _, whole = hub.import_checkpoint(source)
    monkeypatch.setattr(importing, "_BLOCK_BYTES", 100)
    _, blocks = hub.import_checkpoint(source, builders.mesh(fsdp=2))
    same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), whole, blocks)
    assert all(jax.tree.leaves(same))


def test_what_was_imported_on_a_mesh_exports_with_the_true_vocabulary(tmp_path):
    source = checkpoints.write(tmp_path / "in", "llama", dtype="bfloat16")
    config, params = hub.import_checkpoint(source, builders.mesh(2, 2, 2))
    assert params["embedding"].shape[0] == 512 != config.vocab_size
    hub.export_checkpoint(config, params, source, tmp_path / "out")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


_MEASURE = """
import resource, sys
import jax, jax.numpy as jnp
from bstar_jax import hub
jnp.zeros(8).block_until_ready()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
_, params = hub.import_checkpoint(sys.argv[1])
print(peak() - before - sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.slow
def test_little_memory_is_needed_beside_the_parameters(tmp_path):
    source = checkpoints.write(tmp_path, "llama")
    sizes = {
        "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
    }  # fmt: skip
    checkpoints.edit(source / "config.json", **sizes)
    layout = names.by_name(hub.read_architecture(source), names.LLAMA_NAMES)
    zeros = {
        name: np.ones(names.file_shape(parts), ml_dtypes.bfloat16) for name, parts in layout.items()
    }
    save_file(zeros, source / "model.safetensors")
    file = (source / "model.safetensors").stat().st_size
    assert file > 300e6
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(source)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < file / 4
