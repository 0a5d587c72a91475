"""Checkpoints in and out: the same logits as Transformers, and the same bytes when written back."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from bstar_jax import hub, model
from bstar_jax.config import UserError
from tests import checkpoints, flights
from tests.builders import WORDS

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
VARIANTS, ALIKE = checkpoints.VARIANTS, checkpoints.ALIKE
SELDOM = VARIANTS | ALIKE - checkpoints.OTHER_FORMS


@pytest.mark.parametrize("case", checkpoints.cases(slow=SELDOM))
def test_logits_are_those_of_transformers_at_every_position(tmp_path, case):
    made = checkpoints.model(case)
    made.save_pretrained(tmp_path)
    config, params = hub.import_checkpoint(tmp_path)
    tokens_BL = np.random.default_rng(0).integers(0, config.vocab_size, (2, 14))
    theirs = checkpoints.logits(made, tokens_BL)
    ours = np.asarray(model.forward(config, params, jnp.asarray(tokens_BL)))
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{case}: {difference:.2e}")
    assert difference <= 2e-5


@pytest.mark.parametrize("case", checkpoints.cases(slow=ALIKE, without=VARIANTS))
def test_packed_and_padded_texts_have_the_logits_of_transformers(tmp_path, case):
    made = checkpoints.model(case)
    made.save_pretrained(tmp_path)
    config, params = hub.import_checkpoint(tmp_path)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, config.vocab_size, length) for length in (7, 5, 10)]
    rows = [np.concatenate([texts[0], texts[1], [0, 0]]), np.concatenate([texts[2], [0] * 4])]
    segments = [[1] * 7 + [2] * 5 + [0, 0], [1] * 10 + [0] * 4]
    positions = [[*range(7), *range(5), 0, 0], [*range(10), 0, 0, 0, 0]]
    tables = (jnp.asarray(np.array(table, np.int32)) for table in (rows, segments, positions))
    ours = np.asarray(model.forward(config, params, *tables))
    for text, got in zip(texts, (ours[0, :7], ours[0, 7:12], ours[1, :10]), strict=True):
        theirs = checkpoints.logits(made, text[None])[0]
        assert np.abs(got - theirs).max() <= 2e-5 * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize("case", checkpoints.cases(without=VARIANTS | ALIKE))
def test_greedy_responses_are_those_of_transformers(tmp_path, case):
    """64 tokens through our cache and theirs, behind prompts of several lengths."""
    made = checkpoints.model(case)
    made.save_pretrained(tmp_path)
    config, params = hub.import_checkpoint(tmp_path)
    prompts = [[5], [7, 3, 9, 20], [*range(2, 15)]]
    drawn, _ = flights.fly(config, params, prompts, [(0.0, 0)], max_tokens=64, end_id=-1)
    for prompt, ours in zip(prompts, drawn.tokens_DWL[:, 0], strict=True):
        ids = torch.tensor([prompt])
        theirs = made.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert theirs[0, len(prompt) :].tolist() == ours.tolist()


@pytest.mark.parametrize(
    ("dtype", "shards"),
    [("float32", False), ("bfloat16", True), ("float16", False)],
    ids=["f32 in one file", "bf16 in several", "f16 in one file"],
)
@pytest.mark.parametrize("case", checkpoints.cases(without=VARIANTS))
def test_import_then_export_is_the_identity(tmp_path, case, dtype, shards):
    source = checkpoints.write(tmp_path / "in", case, dtype=dtype, shards=shards)
    assert (source / "model.safetensors").exists() is not shards
    hub.export_checkpoint(*hub.import_checkpoint(source), source, tmp_path / "out")
    before, after = checkpoints.tensors(source), checkpoints.tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype == DTYPES[dtype], name
        assert tensor.tobytes() == after[name].tobytes(), name
    for file in source.iterdir():
        if not shards or "model" not in file.name:
            assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("case", checkpoints.cases(without=VARIANTS))
def test_transformers_loads_what_was_exported_with_no_flag(tmp_path, case):
    source = checkpoints.write(tmp_path / "in", case)
    hub.export_checkpoint(*hub.import_checkpoint(source), source, tmp_path / "out")
    loaded, notes = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    made = checkpoints.model(case)
    made.load_state_dict(loaded.state_dict(), strict=True)
    for name, weight in checkpoints.model(case).state_dict().items():
        assert (weight == loaded.state_dict()[name]).all(), name
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words("8 - 3")["input_ids"] == WORDS.encode("8 - 3")


@pytest.mark.parametrize("case", ["llama", "qwen2, tied, windows", "gemma3"])
def test_a_kept_source_serves_as_well_as_the_checkpoint(tmp_path, case):
    source = checkpoints.write(tmp_path / "in", case, dtype="bfloat16", shards=True)
    hub.keep_source(source, tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*.safetensors"))
    listed = json.loads((tmp_path / "kept" / "tensors.json").read_text())
    assert listed["model.norm.weight"] == {"dtype": "BF16", "shape": [20]}
    config, params = hub.import_checkpoint(source)
    assert hub.read_architecture(tmp_path / "kept") == config
    hub.export_checkpoint(config, params, tmp_path / "kept", tmp_path / "out")
    before, after = checkpoints.tensors(source), checkpoints.tensors(tmp_path / "out")
    assert {name: tensor.tobytes() for name, tensor in before.items()} == {
        name: tensor.tobytes() for name, tensor in after.items()
    }
    for name in ("config.json", "generation_config.json", "tokenizer.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_a_checkpoint_with_other_weights_is_not_the_one_that_was_kept(tmp_path):
    source = checkpoints.write(tmp_path / "in", "llama", shards=True)
    hub.keep_source(source, tmp_path / "kept")
    hub.check_same(source, tmp_path / "kept")
    file = sorted(source.glob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file.name} is not the file that the run started from"):
        hub.check_same(source, tmp_path / "kept")
    file.unlink()
    with pytest.raises(UserError, match=f"{file.name} is not the file"):
        hub.check_same(source, tmp_path / "kept")


def test_what_was_trained_is_what_is_exported(tmp_path):
    source = checkpoints.write(tmp_path / "in", "llama", dtype="bfloat16")
    config, params = hub.import_checkpoint(source)
    params["blocks"]["attention"]["query"] = params["blocks"]["attention"]["query"].at[1].add(1.0)
    hub.export_checkpoint(config, params, source, tmp_path / "out")
    before, after = checkpoints.tensors(source), checkpoints.tensors(tmp_path / "out")
    name = "model.layers.1.self_attn.q_proj.weight"
    changed = [other for other in before if (before[other] != after[other]).any()]
    assert changed == [name]
    expected = (before[name].astype(np.float32) + 1).astype(ml_dtypes.bfloat16)
    assert (after[name] == expected).all()


def test_shards_hold_no_more_than_their_size_and_have_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.exporting, "SHARD_BYTES", 8000)
    source = checkpoints.write(tmp_path / "in", "llama")
    config, params = hub.import_checkpoint(source)
    hub.export_checkpoint(config, params, source, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(file.stat().st_size < 8000 + 2000 for file in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    total = sum(tensor.nbytes for tensor in checkpoints.tensors(source).values())
    assert index["metadata"]["total_size"] == total
    again, values = hub.import_checkpoint(tmp_path / "out")
    assert again == config
    assert (values["head"] == params["head"]).all()
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "file"])
def test_parameters_have_the_dtype_asked_for(tmp_path, dtype):
    source = checkpoints.write(tmp_path, "qwen3", dtype="float16")
    _, params = hub.import_checkpoint(source, dtype=dtype)
    wanted = jnp.dtype("float16" if dtype == "file" else dtype)
    assert params["embedding"].dtype == params["final_norm"]["scale"].dtype == wanted
    stored = checkpoints.tensors(source)["model.norm.weight"]
    assert (np.asarray(params["final_norm"]["scale"]) == stored.astype(wanted)).all()


def test_extras_that_transformers_passes_over_are_kept(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3")
    stored = checkpoints.tensors(source)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].copy()
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.arange(4, dtype=np.float32)
    save_file(stored, source / "model.safetensors", metadata={"format": "pt"})
    config, params = hub.import_checkpoint(source)
    hub.keep_source(source, tmp_path / "kept")
    hub.export_checkpoint(config, params, source, tmp_path / "out")
    hub.export_checkpoint(config, params, tmp_path / "kept", tmp_path / "again")
    content = (source / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == content
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == content
