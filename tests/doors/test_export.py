"""The door that writes a run's checkpoint for Transformers."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from bstar_jax import export, hub, model, tokenizer
from bstar_jax.config import ModelConfig, TaskConfig, UserError
from bstar_jax.console import Console
from bstar_jax.phases.opening import open_run
from tests import builders, checkpoints, tiny


def begin(directory, config, change=None):
    """A run with a checkpoint of iteration 0; gives what an export has to hold."""
    with open_run(directory, config, Console(quiet=True)) as run:
        policy = run.policy
        run.workspace.begin(run.config, policy)
        params = policy.initial_params()
        if change:
            params = change(params)
        policy.checkpoints.save_params(0, params)
        policy.checkpoints.wait()
        return policy.merged_model, policy.merged(params)


def run_door(target, output, *flags):
    export.main(["export", str(target), f"--output={output}", "--quiet", *flags])


@pytest.mark.slow
def test_a_run_from_random_parameters_gives_a_llama_with_its_tokenizer(tmp_path):
    config, params = begin(tmp_path / "run", tiny.GRID)
    run_door(f"{tmp_path / 'run'}@0", tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens_BL = np.random.default_rng(0).integers(0, config.vocab_size, (2, 9))
    theirs = checkpoints.logits(loaded, tokens_BL)
    ours = np.asarray(model.forward(config, params, jnp.asarray(tokens_BL)))
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words("8 - 3")["input_ids"] == builders.WORDS.encode("8 - 3")
    assert (loaded.config.eos_token_id, loaded.config.pad_token_id) == (1, 0)


def from_checkpoint(source):
    model_config = ModelConfig(checkpoint=str(source))
    return tiny.GRID.changed({"model": model_config, "task": TaskConfig(train_queries=64)})


@pytest.mark.slow
def test_a_run_from_a_checkpoint_gives_that_checkpoint_where_nothing_was_trained(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3", dtype="bfloat16")
    begin(tmp_path / "run", from_checkpoint(source))
    run_door(tmp_path / "run", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(source))
    for file in source.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_a_run_from_a_checkpoint_gives_what_it_learnt(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3", dtype="bfloat16")

    def double(params):
        return jax.tree.map(lambda leaf: leaf * 2, params)

    begin(tmp_path / "run", from_checkpoint(source), double)
    run_door(tmp_path / "run", tmp_path / "out")
    before, after = checkpoints.tensors(source), checkpoints.tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all((after[name] == 2 * tensor).all() for name, tensor in before.items())


def test_the_tokenizer_is_the_runs(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3")
    builders.WORDS.save(tmp_path / "words")
    checkpoints.edit(tmp_path / "words" / "tokenizer_config.json", pad_token="<end>")
    (source / "merges.txt").write_text("of another tokenizer\n")
    config = from_checkpoint(source)
    begin(tmp_path / "run", config.changed({"tokenizer.path": str(tmp_path / "words")}))
    run_door(tmp_path / "run", tmp_path / "out")
    assert tokenizer.load(tmp_path / "out").pad_id == 1
    assert not (tmp_path / "out" / "merges.txt").exists()
    assert hub.read_architecture(tmp_path / "out") == hub.read_architecture(source)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())


@pytest.mark.parametrize(
    ("target", "flags", "message"),
    [
        ("run@9", (), "no checkpoint of iteration 9; there are \\[0\\]"),
        ("run@x", (), "what follows @ is an iteration"),
        ("nothing", (), "holds no run"),
        ("run", ("--config.sft.steps=30",), "sft.steps determines how the run was made"),
        ("run", ("--output=",), "say which, as --output=DIR"),
        ("run", ("--output=/usr",), "/usr exists and is not empty; nothing is overwritten"),
    ],
)
def test_bad_input_is_refused(tmp_path, target, flags, message):
    if "x" not in target:
        begin(tmp_path / "run", tiny.GRID)
    with pytest.raises(UserError, match=message):
        run_door(tmp_path / target, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_a_run_directory_is_asked_for():
    with pytest.raises(UserError, match="takes one run directory"):
        export.main(["export"])


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with open_run(tmp_path / "run", tiny.GRID, Console(quiet=True)) as opened:
        opened.workspace.begin(opened.config, opened.policy)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run_door(tmp_path / "run", tmp_path / "out")
