"""The recomputation agrees with a real run, and notices when the run was tampered with."""

import itertools
import json
import pathlib
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.fidelity import counting
from bstar_jax.config import from_dict
from bstar_jax.console import Console
from bstar_jax.iterate import self_train
from bstar_jax.phases.opening import open_run

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = "benchmarks.fidelity.recompute"

# Small enough for seconds; K below the number of responses, so that estimators have work to do.
SETTINGS = {
    "seed": 5,
    "task": {"train_queries": 64},
    "model": {"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "feed_forward": 64},
    "sft": {"steps": 80, "batch": 32, "examples": 64, "warmup_steps": 10, "learning_rate": 1e-2},
    "loop": {"iterations": 1},
    "calibrate": {
        "queries": 24,
        "responses": 6,
        "temperatures": (0.5, 1.1),
        "top_ks": (0, 8),
        "thresholds": (-0.7, 0.25),
        "process_weights": (0.5, 1.0),
    },
    "generate": {"queries": 24, "responses": 6},
    "balance": {"target_correct": 2, "cap": 3, "bootstrap": 50},
    "improve": {"steps": 2, "batch": 8},
    "monitor": {"queries": 16, "responses": 10, "ks": (1, 3, 6), "s": 2},
    "log": {"tensorboard": False},
}
REFERENCE = {"rules": "reference", "target_total": 40, "target_correct": 2, "bootstrap": 50}


def _train(directory, **changed):
    config = from_dict({**SETTINGS, **changed})
    with open_run(directory, config, Console(quiet=True)) as run:
        self_train(run)
    return directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("runs") / "paper")


def _recompute(run):
    result = run.parent / f"{run.name}.json"
    command = [sys.executable, "-m", SCRIPT, str(run), "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    items = json.loads(result.read_text())[str(run)] if result.exists() else None
    return done, items


def _rewrite(file, name, change):
    table = pq.read_table(file, partitioning=None)
    place = table.schema.get_field_index(name)
    column = pa.array(change(table.column(name).to_pylist()), table.schema.types[place])
    pq.write_table(table.set_column(place, table.schema.field(place), column), file)


def _flip_first_selected(values):
    values[values.index(True)] = False
    return values


@pytest.mark.slow
def test_a_run_agrees_with_its_recomputation(finished):
    done, result = _recompute(finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["iterations"] == [0, 1] and result["wrong"] == []
    items = result["items"]
    assert items["balance score of every cell"]["compared"] == 2 * 2 * 2 * 2
    assert items["selected in calibrate.parquet"]["compared"] == 24 * 6 * 4
    assert {"monitor pass@6-2", "monitor best@6", "monitor reward@6-2"} <= set(items)


@pytest.mark.slow
def test_the_run_has_something_to_disagree_about(finished):
    """Guards the tests above and below: scores differ, and correct answers exist."""
    folder = finished / "iterations" / "0001"
    assert np.ptp(json.loads((folder / "balance.json").read_text())["score"]) > 0
    table = pq.read_table(folder / "monitor.parquet", partitioning=None)
    assert 0 < pc.sum(table["correct"]).as_py() < table.num_rows


@pytest.mark.slow
def test_reference_rules_and_a_single_cell_agree(tmp_path):
    one = {**SETTINGS["calibrate"], "temperatures": (0.9,), "top_ks": (0,), "thresholds": (-0.7,)}
    one["process_weights"] = (1.0,)
    single = _train(tmp_path / "single", calibrate=one)
    reference = _train(tmp_path / "reference", balance=REFERENCE)
    for run in (single, reference):
        done, result = _recompute(run)
        assert done.returncode == 0, done.stdout + done.stderr
        assert result["items"]["selected in generate.parquet"]["compared"] == 24 * 6
    assert not (single / "iterations" / "0001" / "balance.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "column", "change", "item"),
    [
        ("generate", "selected", _flip_first_selected, "selected in generate.parquet"),
        ("calibrate", "correct", lambda v: [not one for one in v], "balance score of every cell"),
        ("calibrate", "reward", lambda v: [v[0] + 3e-6, *v[1:]], "reward in calibrate.parquet"),
        ("monitor", "correct", lambda v: [not one for one in v], "monitor pass@1"),
        ("monitor", "response", lambda v: ["# 1"] * len(v), "monitor pass@6-2"),
    ],
)
def test_a_tampered_column_is_caught(finished, tmp_path, name, column, change, item):
    copy = shutil.copytree(finished, tmp_path / "copy")
    _rewrite(copy / "iterations" / "0001" / f"{name}.parquet", column, change)
    done, result = _recompute(copy)
    assert done.returncode == 1
    assert item in result["wrong"], result["wrong"]


@pytest.mark.slow
def test_a_tampered_score_and_a_missing_row_are_caught(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    file = copy / "iterations" / "0001" / "balance.json"
    stored = json.loads(file.read_text())
    stored["score"][1][1][0][1] += 2e-6
    file.write_text(json.dumps(stored))
    done, result = _recompute(copy)
    assert done.returncode == 1 and result["wrong"] == ["balance score of every cell"]

    rows = copy / "iterations" / "0001" / "monitor.parquet"
    pq.write_table(pq.read_table(rows, partitioning=None).slice(1), rows)
    # The greedy response of the first query is the first row.
    done, _ = _recompute(copy)
    assert done.returncode == 1


def test_it_imports_nothing_of_the_package():
    listing = f"import sys, {SCRIPT}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", listing],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"bstar_jax", "jax", "flax", "optax"}


@pytest.mark.slow
def test_counting_equals_going_through_all_subsets():
    rng = np.random.default_rng(7)
    for _ in range(20):
        n = int(rng.integers(3, 8))
        k = int(rng.integers(1, n + 1))
        s = int(rng.integers(1, k + 1))
        texts = rng.integers(0, 4, n).tolist()
        correct = [text % 2 == 0 for text in texts]
        rewards = rng.integers(0, 3, n).tolist()
        subsets = list(itertools.combinations(range(n), k))
        copies = [texts.count(text) for text in {0, 2} & set(texts)]
        assert counting.pass_at(n, sum(correct), k) == _share(
            any(correct[i] for i in subset) for subset in subsets
        )
        assert counting.pass_at_distinct(n, copies, k, s) == _share(
            len({texts[i] for i in subset if correct[i]}) >= s for subset in subsets
        )
        assert counting.top_correct(rewards, correct, k, s) == _share(
            _top_all_correct(subset, rewards, correct, s) for subset in subsets
        )


def _share(hits):
    hits = list(hits)
    return Fraction(sum(hits), len(hits))


def _top_all_correct(subset, rewards, correct, s):
    """Over all orders of the subset, which break ties evenly: are the S highest all correct?"""
    orders = list(itertools.permutations(subset))
    hits = 0
    for order in orders:
        top = sorted(order, key=lambda i: -rewards[i])[:s]
        hits += all(correct[i] for i in top)
    return Fraction(hits, len(orders))
