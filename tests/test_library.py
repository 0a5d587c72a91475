"""The library: names that are there when they are used, and the block of README as it stands."""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers

import bstar_jax
from bstar_jax import Config, Query, hub, read_run, records
from bstar_jax.config import ModelConfig, UserError, load_config, to_dict
from tests import builders, checkpoints, structure, tiny

ROOT = structure.ROOT
TINY = ROOT / "tests" / "tiny.py"
JAX_AND_ITS_USERS = {"jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping", "transformers"}


def imported_by(program):
    """Packages that a program has imported at its end, in a fresh process."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_library_imports_nothing_more():
    heavy = JAX_AND_ITS_USERS | {"numpy", "pyarrow", "absl", "ml_collections", "yaml"}
    assert not imported_by("import bstar_jax; dir(bstar_jax)") & heavy


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", ["Query, Task, Grade", "Config, SourceConfig, load_config, read_run, grade_responses"]
)
def test_names_that_need_no_jax_import_none(names):
    assert not imported_by(f"from bstar_jax import {names}") & JAX_AND_ITS_USERS


def test_every_name_is_there_and_none_is_a_module():
    for name in bstar_jax.__all__:
        value = getattr(bstar_jax, name)
        assert getattr(value, "__name__", name) == name
        assert not (ROOT / "bstar_jax" / f"{name}.py").exists()
        assert not (ROOT / "bstar_jax" / name).exists()
    assert set(bstar_jax.__all__) <= set(dir(bstar_jax))
    with pytest.raises(AttributeError, match="no attribute 'self_trian'"):
        bstar_jax.self_trian  # noqa: B018  # asked for, so that it fails
    for name in ("main", "evaluate", "grade", "export", "plan"):
        assert importlib.import_module(f"bstar_jax.{name}").main
        assert name not in bstar_jax.__all__


# Settings from Python.


def test_a_config_is_loaded_with_changes():
    changes = {"improve.steps": 2, "task.fields.question": "problem"}
    changed = load_config(f"{TINY}:single_cell", changes)
    assert changed == load_config(f"{TINY}:single_cell").changed(changes)
    assert (changed.improve.steps, changed.task.fields.question) == (2, "problem")
    with pytest.raises(UserError, match="no setting 'improve.step'; the nearest is"):
        load_config(TINY, {"improve.step": 2})


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (jnp.float32, "float32"),
        (jnp.bfloat16, "bfloat16"),
        (np.float32, "float32"),
        (np.dtype("float32"), "float32"),
        (jnp.dtype("bfloat16"), "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("file", "file"),
    ],
)
def test_a_dtype_may_be_what_jax_takes(given, name):
    model = ModelConfig(dtype=given)
    assert (model.dtype, model) == (name, ModelConfig(dtype=name))


@pytest.mark.parametrize("given", [jnp.float16, np.int32, float, "half", None, 32])
def test_another_dtype_is_refused(given):
    with pytest.raises(UserError, match=r"model\.dtype is .* it takes"):
        ModelConfig(dtype=given)


def test_the_dtype_of_the_file_needs_a_file_and_is_that_of_it(tmp_path):
    with pytest.raises(UserError, match=r"there is no model\.checkpoint whose dtype"):
        Config(model=ModelConfig(dtype="file"))
    for stored, computed in (
        ({"torch_dtype": "bfloat16", "dtype": None}, "bfloat16"),
        ({"dtype": "bfloat16", "torch_dtype": None}, "bfloat16"),
        ({"dtype": "float16", "torch_dtype": None}, "float32"),
        ({"dtype": None, "torch_dtype": None}, "float32"),
    ):
        source = checkpoints.write(tmp_path / str(len(list(tmp_path.iterdir()))), "qwen3")
        checkpoints.edit(source / "config.json", **stored)
        adopted = hub.adopt_architecture(ModelConfig(checkpoint="x", dtype="file"), source)
        assert adopted.dtype == computed, stored


def test_parameters_are_imported_in_a_dtype_as_jax_has_it(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3", dtype="bfloat16")
    for given, dtype in ((jnp.float32, "float32"), (np.dtype("float32"), "float32"),
                         (jnp.bfloat16, "bfloat16"), ("file", "bfloat16")):  # fmt: skip
        _, params = bstar_jax.import_checkpoint(source, dtype=given)
        assert params["embedding"].dtype == dtype
    with pytest.raises(ValueError, match="it takes float32, bfloat16 or file"):
        bstar_jax.import_checkpoint(source, dtype=jnp.float16)


# A run from Python, and what is read of it.


def blocks(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def carried_out(block, folder):
    """The names that a block of a document leaves, run in a folder."""
    names = {}
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        exec(block, names)
    finally:
        os.chdir(before)
    return names


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """README's block, run with the tiny config in a folder of its own: (folder, its names)."""
    folder = tmp_path_factory.mktemp("library")
    (block,) = [each for each in blocks("README.md") if each.startswith("import bstar_jax")]
    assert 0 < len(block.strip().splitlines()) <= 10
    assert "configs/arithmetic.py" in block
    return folder, carried_out(block.replace("configs/arithmetic.py", str(TINY)), folder)


@pytest.mark.slow
def test_the_block_of_the_readme_trains_answers_and_reads(made):
    _, names = made
    answers, done = names["answers"], names["done"]
    heldout = names["run"].task.splits["heldout"]
    assert answers["prompt"].to_pylist() == [
        query.prompt for query in heldout[:2] for _ in range(4)
    ]
    assert answers["query_id"].to_pylist()[::4] == [query.query_id for query in heldout[:2]]
    assert done.config == tiny.GRID.changed({"loop.iterations": 1})
    monitored = [row for row in done.metrics.to_pylist() if row["phase"] == "monitor"]
    assert [row["iteration"] for row in monitored] == [0, 1]
    assert all(0 <= row["pass@1"] <= 1 for row in monitored)


@pytest.mark.slow
def test_the_blocks_of_the_library_page_do_what_they_say(made, capsys):
    folder, _ = made
    reading, grading = blocks("docs/library.md")
    names = carried_out(reading, folder)
    assert names["steps"] == tiny.GRID.improve.steps
    assert len(names["chosen"]) == 1 and names["chosen"][0] in tiny.GRID.calibrate.temperatures
    assert 0 < names["right"].num_rows == sum(names["rows"]["correct"].to_pylist())
    capsys.readouterr()
    carried_out(grading, folder)
    assert capsys.readouterr().out == "[('correct', 1.0), ('unparseable', 0.0)]\n"


def test_the_page_names_the_whole_library():
    page = (ROOT / "docs/library.md").read_text()
    named = {name for name in bstar_jax.__all__ if f"`{name}" in page}
    sections = {name for name in bstar_jax.__all__ if name.endswith(("Config", "Names"))}
    assert named | sections == set(bstar_jax.__all__)


@pytest.mark.slow
def test_a_run_is_read_as_it_is_stored(made):
    folder, _ = made
    done = read_run(folder / "runs/mine")
    assert (done.iterations("monitor"), done.iterations("generate")) == ([0, 1], [1])
    stored = folder / "runs/mine/iterations"
    for phase, iteration, place in (
        ("monitor", -1, "0001"), ("monitor", -2, "0000"), ("monitor", 0, "0000"),
        ("generate", 1, "0001"), ("calibrate", -1, "0001"),
    ):  # fmt: skip
        ours, theirs = (
            done.rollouts(phase, iteration),
            pq.ParquetFile(stored / place / f"{phase}.parquet"),
        )
        assert ours.to_pylist() == theirs.read().to_pylist()
    assert done.rollouts("generate").schema == records.SCHEMA
    for phase, iteration, message in (
        ("generate", 0, "of iteration 0; it has those of 1, and -1 is the last"),
        ("generate", -2, "of iteration -2"),
        ("generates", -1, "it has those of calibrate, generate, monitor"),
    ):
        with pytest.raises(UserError, match=message):
            done.rollouts(phase, iteration)
    with pytest.raises(UserError, match="holds no run"):
        read_run(folder / "nothing")


@pytest.mark.slow
def test_balance_has_a_row_for_each_cell_of_the_file(made):
    folder, _ = made
    balance = read_run(folder / "runs/mine").balance
    content = json.loads((folder / "runs/mine/iterations/0001/balance.json").read_text())
    score_TKHW = np.array(content["score"])
    assert isinstance(balance, pa.Table) and balance.num_rows == score_TKHW.size
    grid = tiny.GRID.calibrate
    for row in balance.to_pylist():
        place = (
            grid.temperatures.index(row["temperature"]),
            grid.top_ks.index(row["top_k"]),
            grid.thresholds.index(row["threshold"]),
            grid.process_weights.index(row["process_weight"]),
        )
        assert row["score"] == score_TKHW[place] and row["low"] <= row["score"] <= row["high"]
    (chosen,) = [row for row in balance.to_pylist() if row["chosen"]]
    assert chosen["score"] == score_TKHW.max() == content["chosen"]["balance_score"]


def test_of_a_phase_that_ran_again_the_last_rows_count(tmp_path):
    rows = [
        {"iteration": 1, "phase": "improve", "wall_seconds": 1.0, "step": 3, "loss": 2.0},
        {"iteration": 1, "phase": "improve", "wall_seconds": 1.0, "step": 6, "loss": 1.5},
        {"iteration": 1, "phase": "improve", "wall_seconds": 1.0, "step": 3, "loss": 1.0},
        {"iteration": 1, "phase": "monitor", "wall_seconds": 2.0, "pass@1": 0.5},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"iteration": 2, "pha')
    (tmp_path / "config.json").write_text(json.dumps({"config": to_dict(Config())}))
    metrics = read_run(tmp_path).metrics
    assert metrics.select(["phase", "step", "loss", "pass@1"]).to_pylist() == [
        {"phase": "improve", "step": 3, "loss": 1.0, "pass@1": None},
        {"phase": "improve", "step": 6, "loss": 1.5, "pass@1": None},
        {"phase": "monitor", "step": None, "loss": None, "pass@1": 0.5},
    ]
    assert read_run(tmp_path).balance.num_rows == 0


@pytest.mark.slow
def test_a_checkpoint_answers_greedily_as_transformers_does(tmp_path):
    source = checkpoints.write(tmp_path / "in", "qwen3")
    made = transformers.AutoModelForCausalLM.from_pretrained(source)
    prompts = ["Eve has 8 . finds 4 .", "Eve has 3 ."]
    rows = bstar_jax.generate(source, prompts, temperature=0.0, max_tokens=6)
    for prompt, response, count in zip(
        prompts, rows["response"].to_pylist(), rows["num_tokens"].to_pylist(), strict=True
    ):
        tokens = builders.WORDS.encode_prompt(prompt)
        drawn = []
        while len(drawn) < 6 and (not drawn or drawn[-1] not in builders.WORDS.end_ids):
            logits = checkpoints.logits(made, np.array([tokens + drawn]))
            drawn.append(int(logits[0, -1].argmax()))
        assert count == len(drawn)
        text = [token for token in drawn if token not in builders.WORDS.end_ids]
        assert response == builders.WORDS.decode(text)
    assert rows.equals(bstar_jax.generate(source, prompts, temperature=0.0, max_tokens=6))


# Grades without a run.


def test_responses_are_graded_without_a_run():
    queries = [Query(prompt="2 + 2", reference="4"), Query(prompt="1 + 2", reference="3")]
    grades = bstar_jax.grade_responses(
        [queries[0], queries[1], queries[0], queries[1]],
        ["=> 4.0", "=> 4", "none", "3 => 3"],
        reward="number",
        answer_marker="=>",
    )
    assert [grade.reason for grade in grades] == ["correct", "wrong", "unparseable", "correct"]
    assert bstar_jax.grade_responses([], []) == []
    with pytest.raises(ValueError, match="2 queries, 1 responses"):
        bstar_jax.grade_responses(queries, ["=> 4"])
    with pytest.raises(ValueError, match="reward is 'judge'"):
        bstar_jax.grade_responses(queries, ["4", "3"], reward="judge")


@pytest.mark.slow
def test_responses_are_graded_by_a_function_of_a_file(tmp_path):
    (tmp_path / "length.py").write_text(
        "def share(query, response, finish_reason):\n"
        "    return min(len(response) / query.fields['wanted'], 1.0)\n"
    )
    query = Query(prompt="Write.", fields={"wanted": 4})
    grades = bstar_jax.grade_responses(
        [query] * 3, ["ab", "abcd", "a"], reward=f"{tmp_path / 'length.py'}:share", correct_at=0.5
    )
    assert [(grade.score, grade.correct) for grade in grades] == [
        (0.5, True), (1.0, True), (0.25, False),
    ]  # fmt: skip
