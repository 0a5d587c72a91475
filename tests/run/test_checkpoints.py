"""What was saved comes back bit for bit, on any mesh, and half of a save does not count."""

import functools
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from bstar_jax import model
from bstar_jax.config import OptimizerConfig, UserError
from bstar_jax.run.checkpoints import Checkpoints, SavePoint
from bstar_jax.training import optimizer
from bstar_jax.training.optimizer import TrainState
from tests import builders

ADAM = OptimizerConfig()


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))


def opened(directory, mesh=None, **settings):
    return Checkpoints(directory, builders.MODEL, mesh or builders.mesh(), **settings)


def state_on(mesh, seed=0):
    """A training state whose moments are not zero."""
    params = builders.for_training(builders.MODEL, mesh, builders.params(seed=seed))
    state = optimizer.init_state(builders.MODEL, ADAM, mesh, params)
    moments = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(2), state.optimizer)
    return TrainState(params, moments)


SHAPES = optimizer.shapes(builders.MODEL, ADAM)
MESHES = [(1, 1, 1), (2, 2, 2), (1, 4, 2), (8, 1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("reader", MESHES, ids=str)
@pytest.mark.parametrize("writer", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_parameters_come_back_on_any_mesh(tmp_path, writer, reader):
    mesh = builders.mesh(*writer)
    checkpoints = opened(tmp_path, mesh)
    checkpoints.save_params(3, builders.for_training(builders.MODEL, mesh, builders.params(seed=3)))
    checkpoints.close()
    mesh = builders.mesh(*reader)
    expected = builders.for_training(builders.MODEL, mesh, builders.params(seed=3))
    restored = opened(tmp_path, mesh).restore_params(3)
    equal(restored, expected)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert ours.sharding == theirs.sharding
    vocab = 50 if reader[2] == 1 else 512
    assert restored["embedding"].shape == (vocab, 16)


@pytest.mark.slow
@pytest.mark.parametrize("reader", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_a_training_state_comes_back_on_any_mesh(tmp_path, reader):
    writer = builders.mesh(1, 2, 2)
    state = state_on(writer)
    checkpoints = opened(tmp_path, writer)
    checkpoints.save_training(SavePoint(2, 40), state)
    checkpoints.close()
    mesh = builders.mesh(*reader)
    checkpoints = opened(tmp_path, mesh)
    assert checkpoints.save_point() == SavePoint(2, 40)
    restored = checkpoints.restore_training(SavePoint(2, 40), SHAPES)
    cut = functools.partial(model.cut_vocab, builders.MODEL)
    equal(cut(restored), cut(state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    if reader == (2, 2, 2):
        assert not np.any(restored.params["embedding"][50:])
        assert not restored.params["embedding"].is_fully_replicated


def test_what_is_on_disk_has_the_true_vocabulary(tmp_path):
    mesh = builders.mesh(2, 2, 2)
    checkpoints = opened(tmp_path, mesh)
    checkpoints.save_params(0, builders.for_training(builders.MODEL, mesh, builders.params()))
    checkpoints.close()
    with ocp.CheckpointManager(tmp_path / "params") as manager:
        raw = manager.restore(0, args=ocp.args.StandardRestore())
    equal(raw, builders.params())


def test_arrays_may_be_given_up_while_they_are_written(tmp_path):
    checkpoints = opened(tmp_path)
    state = state_on(builders.mesh())
    expected = jax.device_get(state)
    checkpoints.save_params(1, state.params)
    checkpoints.save_training(SavePoint(1, 5), state)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    checkpoints.wait()
    equal(checkpoints.restore_params(1), expected.params)
    equal(checkpoints.restore_training(SavePoint(1, 5), SHAPES), expected)


def test_the_newest_training_state_replaces_the_one_before(tmp_path):
    checkpoints = opened(tmp_path)
    assert checkpoints.save_point() is None
    for point in (SavePoint(0, 7), SavePoint(1, 3), SavePoint(1, 20), SavePoint(2, 0)):
        checkpoints.save_training(point, state_on(builders.mesh()))
        checkpoints.wait()
        assert checkpoints.save_point() == point
    assert len(list((tmp_path / "training").iterdir())) == 1
    checkpoints.close()
    assert opened(tmp_path).save_point() == SavePoint(2, 0)


def test_an_iteration_that_is_not_there_is_named_with_those_that_are(tmp_path):
    checkpoints = opened(tmp_path)
    for iteration in (0, 2, 5):
        checkpoints.save_params(iteration, builders.params())
    checkpoints.wait()
    assert checkpoints.iterations() == [0, 2, 5]
    with pytest.raises(UserError, match=r"no checkpoint of iteration 1; there are \[0, 2, 5\]"):
        checkpoints.restore_params(1)


def test_saving_an_iteration_again_keeps_what_stands(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save_params(1, builders.params())
    checkpoints.wait()
    checkpoints.save_params(1, builders.params())
    checkpoints.wait()
    equal(checkpoints.restore_params(1), builders.params())


@pytest.mark.parametrize(
    ("keep", "left"), [(0, [0, 1, 2, 3]), (1, [0, 3]), (2, [0, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_prune_keeps_warm_up_and_the_newest(tmp_path, keep, left):
    checkpoints = opened(tmp_path, keep=keep)
    for iteration in range(4):
        checkpoints.save_params(iteration, builders.params())
    checkpoints.wait()
    checkpoints.prune()
    assert checkpoints.iterations() == left
    checkpoints.close()
    assert opened(tmp_path).iterations() == left


def test_a_reader_sees_a_run_and_changes_nothing(tmp_path):
    checkpoints = opened(tmp_path)
    checkpoints.save_params(0, builders.params())
    checkpoints.wait()
    before = snapshot(tmp_path)
    reader = opened(tmp_path, read_only=True)
    assert reader.iterations() == [0] and reader.save_point() is None
    equal(reader.restore_params(0), builders.params())
    reader.close()
    assert snapshot(tmp_path) == before


def test_a_reader_of_a_run_without_checkpoints_finds_none(tmp_path):
    reader = opened(tmp_path / "none", read_only=True)
    assert reader.iterations() == [] and reader.save_point() is None
    assert not (tmp_path / "none").exists()


def snapshot(directory: pathlib.Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


@pytest.fixture
def torn(tmp_path):
    """A run whose iteration 2 and training state (2, 9) were killed on their way to disk."""
    checkpoints = opened(tmp_path)
    checkpoints.save_params(1, builders.params())
    checkpoints.save_training(SavePoint(1, 9), state_on(builders.mesh()))
    checkpoints.close()
    for folder, whole, name in (("params", "1", "2"), ("training", "100000009", "200000009")):
        source = tmp_path / folder / whole
        target = tmp_path / folder / f"{name}.orbax-checkpoint-tmp"
        shutil.copytree(source, target)
        (target / "commit_success.txt").unlink(missing_ok=True)
    return tmp_path


@pytest.mark.parametrize("read_only", [False, True])
def test_half_of_a_save_does_not_count(torn, read_only):
    checkpoints = opened(torn, read_only=read_only)
    assert checkpoints.iterations() == [1]
    assert checkpoints.save_point() == SavePoint(1, 9)
    equal(checkpoints.restore_params(1), builders.params())


def test_half_of_a_save_is_swept_away_by_the_next_writer(torn):
    before = snapshot(torn)
    opened(torn, read_only=True).close()
    assert snapshot(torn) == before
    checkpoints = opened(torn)
    checkpoints.save_params(3, builders.params())
    checkpoints.save_training(SavePoint(3, 9), state_on(builders.mesh()))
    checkpoints.close()
    names = [path.name for path in torn.glob("*/*")]
    assert sorted(names) == ["1", "3", "300000009"]


def test_a_save_that_was_killed_is_made_again(torn):
    checkpoints = opened(torn)
    checkpoints.save_params(2, builders.params(seed=2))
    checkpoints.save_training(SavePoint(2, 9), state_on(builders.mesh(), seed=2))
    checkpoints.close()
    again = opened(torn)
    assert again.iterations() == [1, 2] and again.save_point() == SavePoint(2, 9)
    equal(again.restore_params(2), builders.params(seed=2))
