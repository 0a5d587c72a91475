"""Whole runs in this process: the six phases, and what the settings of the loop change."""

import functools
import io
import json

import jax
import numpy as np
import pytest

from bstar_jax import tasks
from bstar_jax.config import CheckpointConfig, MeshConfig
from bstar_jax.console import Console
from bstar_jax.iterate import self_train
from bstar_jax.phases.opening import open_run
from bstar_jax.phases.training import improve
from bstar_jax.records import Rollouts
from bstar_jax.run.checkpoints import place_params
from bstar_jax.run.data import selected_data
from bstar_jax.training.optimizer import TrainState
from tests import tiny

pytestmark = pytest.mark.optimized

CONFIG = tiny.GRID.changed(
    {"mesh": MeshConfig(2, 2, 2), "checkpoint": CheckpointConfig(), "log.tensorboard": False}
)
PHASES = ["calibrate", "generate", "grade", "select", "improve", "monitor"]


def trained(directory, config=CONFIG):
    """A run to its end: (metrics rows, parameters of each iteration on the host)."""
    console = Console(quiet=True, stdout=io.StringIO(), stderr=io.StringIO())
    with open_run(directory, config, console) as run:
        self_train(run)
        assert run.workspace.iterations_left(config.loop.iterations) == []
        checkpoints = run.policy.checkpoints
        iterations = checkpoints.iterations()
        params = {t: jax.device_get(checkpoints.restore_params(t)) for t in iterations}
        return run.workspace.metrics.rows(), params


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    return directory, *trained(directory)


def row_of(rows, iteration, phase):
    return [row for row in rows if (row["iteration"], row["phase"]) == (iteration, phase)][-1]


def assert_same_results(ours, theirs):
    """The files of all iterations, timings aside."""
    names = sorted(path.relative_to(theirs) for path in theirs.glob("iterations/*/*"))
    assert names == sorted(path.relative_to(ours) for path in ours.glob("iterations/*/*"))
    for name in names:
        if name.suffix == ".json":
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
        else:
            assert Rollouts.read(ours / name).table.equals(Rollouts.read(theirs / name).table), name


def assert_same_params(ours, theirs):
    assert ours.keys() == theirs.keys()
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_every_iteration_has_its_six_phases_in_order(finished):
    directory, rows, params = finished
    order = list(dict.fromkeys((row["iteration"], row["phase"]) for row in rows))
    expected = [(0, "sft"), (0, "monitor")]
    assert order == expected + [(t, phase) for t in (1, 2) for phase in PHASES]
    files = {path.name for path in (directory / "iterations/0001").iterdir()}
    assert files == {"calibrate.parquet", "balance.json", "generate.parquet", "monitor.parquet"}
    assert [path.name for path in (directory / "iterations/0000").iterdir()] == ["monitor.parquet"]
    assert sorted(params) == [0, 1, 2]
    for earlier, later in ((0, 1), (1, 2)):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params[earlier], params[later])
        assert all(distance > 0 for distance in jax.tree.leaves(moved))


def test_the_choice_is_what_samples_and_selects(finished):
    directory, rows, _ = finished
    for t in (1, 2):
        chosen = json.loads((directory / f"iterations/{t:04d}/balance.json").read_text())["chosen"]
        rollouts = Rollouts.read(directory / f"iterations/{t:04d}/generate.parquet")
        assert set(rollouts.column("temperature")) == {np.float32(chosen["temperature"])}
        assert set(rollouts.column("top_k")) == {chosen["top_k"]}
        assert set(rollouts.column("iteration")) == {t} and set(rollouts.column("split")) == {
            "train"
        }
        selected = rollouts.filter(rollouts.column("selected"))
        assert len(selected) == row_of(rows, t, "select")["selected"] > 0
        assert (selected.array("reward") > chosen["threshold"]).all()
        assert set(selected.column("finish_reason")) == {"stop"}
        assert None not in selected.column("answer")
        texts = list(zip(selected.column("query_id"), selected.column("response"), strict=True))
        assert len(set(texts)) == len(texts)
        assert row_of(rows, t, "calibrate")["temperature"] == chosen["temperature"]


def test_splits_never_meet(finished):
    directory, _, _ = finished
    ids = {
        name: set(Rollouts.read(directory / f"iterations/0001/{name}.parquet").column("query_id"))
        for name in ("calibrate", "generate", "monitor")
    }
    assert {name: len(found) for name, found in ids.items()} == {
        "calibrate": 8, "generate": 32, "monitor": 8,
    }  # fmt: skip
    assert not ids["calibrate"] & ids["generate"] | ids["monitor"] & ids["generate"]
    again = Rollouts.read(directory / "iterations/0002/calibrate.parquet")
    assert set(again.column("query_id")) == ids["calibrate"]


@pytest.mark.slow
def test_the_same_config_makes_the_same_run(finished, tmp_path):
    directory, _, params = finished
    _, again = trained(tmp_path)
    assert_same_results(tmp_path, directory)
    assert_same_params(again, params)


@pytest.mark.slow
def test_a_run_that_grows_is_the_run_that_was_long_from_the_start(finished, tmp_path):
    directory, _, params = finished
    for iterations in (0, 1, 2):
        trained(tmp_path, CONFIG.changed({"loop.iterations": iterations}))
    assert_same_results(tmp_path, directory)
    _, again = trained(tmp_path)  # which is over
    assert_same_params(again, params)


@pytest.mark.slow
def test_another_seed_makes_another_run(finished, tmp_path):
    directory, _, params = finished
    config = CONFIG.changed({"seed": 1, "loop.iterations": 0})
    _, other = trained(tmp_path, config)
    assert not np.array_equal(other[0]["embedding"], params[0]["embedding"])
    name = "iterations/0000/monitor.parquet"
    ours, theirs = Rollouts.read(tmp_path / name), Rollouts.read(directory / name)
    assert ours.column("prompt") != theirs.column("prompt")


# Settings of the loop: runs that change several at once, as whole runs are dear.


def run_with(tmp_path_factory, changes):
    """(its directory, its config, metrics rows, parameters of each iteration on the host)."""
    directory, config = tmp_path_factory.mktemp("changed"), CONFIG.changed(changes)
    return directory, config, *trained(directory, config)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    changes = {"calibrate": tiny.single_cell().calibrate, "checkpoint.keep": 1}
    return run_with(tmp_path_factory, changes)


@pytest.fixture(scope="module")
def hinted(tmp_path_factory):
    changes = {"generate.rationalize": True, "generate.max_prompt_tokens": 32}
    changes |= {"balance.rules": "reference", "balance.target_total": 12, "loop.iterations": 1}
    return run_with(tmp_path_factory, changes)


EVERY_RATE = {"improve.warmup_steps": 3, "log.every": 1}


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory):
    changes = {"improve.data": "accumulated", "improve.reference_share": 0.25}
    return run_with(tmp_path_factory, EVERY_RATE | changes)


@pytest.fixture(scope="module")
def from_warm_up(tmp_path_factory):
    changes = {"improve.init_from": "warmup", "improve.optimizer_from": "fresh"}
    return run_with(tmp_path_factory, EVERY_RATE | changes)


@pytest.mark.slow
def test_a_baseline_is_one_cell_and_still_has_the_curve(baseline):
    directory, _, rows, _ = baseline
    for t in (1, 2):
        files = {path.name for path in (directory / f"iterations/{t:04d}").iterdir()}
        assert files == {"generate.parquet", "monitor.parquet"}
        assert row_of(rows, t, "calibrate")["balance_score"] is None
        assert 0 <= row_of(rows, t, "select")["balance_score"] <= 1


@pytest.mark.slow
def test_failed_queries_get_one_more_try_with_the_answer_given_away(hinted):
    rollouts = Rollouts.read(hinted[0] / "iterations/0001/generate.parquet")
    retried = np.array(rollouts.column("rationalized"))
    ids, correct = np.array(rollouts.column("query_id")), np.array(rollouts.column("correct"))
    solved = set(ids[correct & ~retried])
    assert set(ids[retried]) == set(ids) - solved and 0 < len(solved) < 32
    assert (rollouts.array("sample_index")[retried] == 8).all()
    assert sum(retried) == 32 - len(solved) and sum(~retried) == 32 * 8
    task = tasks.load(
        "arithmetic", seed=0, sft_examples=256, calibration_queries=8, heldout_queries=8,
        train_queries=64,
    )  # fmt: skip
    prompts = [task.query_by_id[query_id].prompt for query_id in ids]
    assert rollouts.column("prompt") == prompts


def learning_rates(rows, iteration):
    return [
        row["learning_rate"]
        for row in rows
        if (row["iteration"], row["phase"]) == (iteration, "improve")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_from", ["last", "fresh"])
def test_the_schedule_spans_the_run_or_each_iteration(accumulated, from_warm_up, optimizer_from):
    _, config, rows, _ = from_warm_up if optimizer_from == "fresh" else accumulated
    assert config.improve.optimizer_from == optimizer_from
    peak = CONFIG.improve.learning_rate
    growing = [peak / 3, peak * 2 / 3, peak, peak, peak, peak]
    assert learning_rates(rows, 1) == pytest.approx(growing)
    assert learning_rates(rows, 2) == pytest.approx(
        growing if optimizer_from == "fresh" else [peak] * 6
    )


@pytest.mark.slow
def test_rounds_that_start_from_warm_up_do_not_depend_on_each_other(from_warm_up, tmp_path):
    directory, fresh, _, params = from_warm_up
    # The second round again, from a first that ended in anything.
    selected = Rollouts.read(directory / "iterations/0002/generate.parquet")
    selected = selected.filter(selected.column("selected"))
    console = Console(quiet=True, stdout=io.StringIO(), stderr=io.StringIO())
    with open_run(tmp_path / "other", fresh, console) as run:
        place = functools.partial(jax.tree.map, jax.numpy.asarray)
        policy = run.policy
        policy.checkpoints.save_params(0, place_params(policy.model, policy.mesh, place(params[0])))
        policy.checkpoints.wait()
        anything = place_params(policy.model, policy.mesh, place(params[1]))
        state = TrainState(anything, None)
        again = improve(run.config, run.task, run.workspace, policy, 2, state, selected)
        again = jax.device_get(again.params)
    jax.tree.map(np.testing.assert_array_equal, again, params[2])


@pytest.mark.slow
def test_accumulated_data_holds_every_iteration_and_humans_their_share(accumulated):
    directory, config, rows, params = accumulated
    assert row_of(rows, 2, "improve")["step"] == 6 and sorted(params) == [0, 1, 2]
    learnt = set()
    for t in (1, 2):
        rollouts = Rollouts.read(directory / f"iterations/{t:04d}/generate.parquet")
        selected = rollouts.filter(rollouts.column("selected"))
        learnt |= set(zip(selected.column("prompt"), selected.column("response"), strict=True))
    console = Console(quiet=True, stdout=io.StringIO(), stderr=io.StringIO())
    with open_run(directory, config, console) as run:
        found = selected_data(run.config, run.workspace, run.policy.tokenizer, 2, selected)
        assert len(found) == len(learnt) > len(selected)


@pytest.mark.slow
def test_the_rules_of_the_reference_choose_again_on_what_was_generated(hinted):
    directory, _, rows, _ = hinted
    stored = json.loads((directory / "iterations/0001/balance.json").read_text())
    assert stored["rules"] == "reference"
    row = row_of(rows, 1, "select")
    assert row["threshold"] in CONFIG.calibrate.thresholds and 1 <= row["cap"] <= 64


@pytest.mark.slow
def test_only_the_newest_parameters_stay_where_that_is_asked(baseline):
    assert sorted(baseline[-1]) == [0, 2]
