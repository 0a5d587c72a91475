"""A whole run from a checkpoint of Transformers to one that Transformers goes on with."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from bstar_jax import evaluate, export
from bstar_jax.records import Rollouts
from bstar_jax.run.journal import read_rows
from tests import builders
from tests.builders import WORDS
from tests.doors.test_evaluate import ROOT

HERE = ("--config.mesh.data=-1", "--config.mesh.fsdp=1", "--config.mesh.tensor=1", "--quiet")
SIZES = {
    "vocab_size": WORDS.vocab_size, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "bos_token_id": None, "eos_token_id": WORDS.end_id, "pad_token_id": WORDS.pad_id,
    "initializer_range": 0.2,
}  # fmt: skip
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=8)),
}


def checkpoint(directory, family):
    """A random model with the words of stories, as Transformers writes it."""
    torch.manual_seed(0)
    MODELS[family]().save_pretrained(directory)
    WORDS.save(directory)
    return directory


def run_main(directory, source, *flags):
    done = subprocess.run(
        [
            sys.executable, "-m", "bstar_jax.main", "--config=tests/tiny.py:single_cell", "--quiet",
            f"--workdir={directory}", f"--config.model.checkpoint={source}",
            "--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.mesh.tensor=2",
            "--config.log.tensorboard=False", *flags,
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"XLA_FLAGS": builders.xla_flags(4)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return directory


def greedy(directory):
    """The greedy answers to held-out stories that the run wrote last: prompts and responses."""
    rows = Rollouts.read(directory / "iterations" / "0002" / "monitor.parquet")
    rows = rows.filter(rows.array("temperature") == 0)
    return rows.column("prompt"), rows.column("response")


def greedy_of_transformers(directory, prompts):
    """What Transformers answers, with nothing but the directory."""
    words = transformers.AutoTokenizer.from_pretrained(directory)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    answers = []
    for prompt in prompts:
        ids = words(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            drawn = loaded.generate(ids, do_sample=False, max_new_tokens=28)
        answers.append(words.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("llama", ()),
        (
            "qwen3",
            (
                "--config.model.lora_rank=16",
                "--config.model.lora_alpha=32",
                "--config.sft.steps=200",
                "--config.sft.learning_rate=2e-2",
            ),
        ),
        (
            "qwen3",
            (
                "--config.model.trained=weights",
                "--config.training.row_tokens=96",
                "--config.training.micro_rows=8",
            ),
        ),
    ],
    ids=["all parameters of a Llama", "adapters of a Qwen 3", "the weights of a Qwen 3, packed"],
)
def test_a_run_from_a_checkpoint_becomes_one(tmp_path, family, flags):
    source = checkpoint(tmp_path / "source", family)
    run = run_main(tmp_path / "run", source, *flags)
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["phase"] == "sft"]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    output = tmp_path / "output"
    export.main(["export", str(run), f"--output={output}", *HERE])
    prompts, responses = greedy(run)
    assert greedy_of_transformers(output, prompts) == responses
    assert (output / "config.json").read_bytes() == (source / "config.json").read_bytes()
    before, after = (load_file(place / "model.safetensors") for place in (source, output))
    changed = {name for name, tensor in before.items() if (tensor != after[name]).any()}
    if flags:
        assert changed and all(name.endswith("_proj.weight") for name in changed)
    else:
        assert changed == before.keys()
        # The run holds all that it needs of where it came from.
        shutil.rmtree(source)
        scores = tmp_path / "scores.json"
        evaluate.main(["evaluate", str(run), f"--json={scores}", *HERE])
        assert json.loads(scores.read_text())["iteration"] == 2


@pytest.mark.slow
def test_a_checkpoint_is_scored_without_a_run(tmp_path):
    source = checkpoint(tmp_path / "source", "llama")
    scores = tmp_path / "scores.json"
    evaluate.main(
        ["evaluate", f"--checkpoint={source}", "--config=tests/tiny.py:single_cell", "--quiet",
         f"--json={scores}"]
    )  # fmt: skip
    figures = json.loads(scores.read_text())
    assert (
        figures["iteration"] == 0 and 0 <= figures["pass@1"] <= 1 and np.isfinite(figures["greedy"])
    )
