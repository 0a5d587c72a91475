"""Devices are laid out as asked, and what does not divide is refused with both numbers."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bstar_jax import model, sharding
from bstar_jax.config import MeshConfig, UserError
from bstar_jax.phases.opening import choose_sampling_mesh
from bstar_jax.processes import ALONE
from tests import builders


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((2, -1, 1), (2, 4, 1)),
        ((1, 1, -1), (1, 1, 8)),
        ((4, 1, 2), (4, 1, 2)),
    ],
)
def test_one_size_may_be_what_is_left_over(asked, got):
    mesh = sharding.make_mesh(MeshConfig(*asked))
    assert tuple(mesh.shape.values()) == got
    assert tuple(mesh.shape) == sharding.MESH_AXES
    assert mesh.devices.ravel().tolist() == jax.devices()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((3, 1, 1), r"3 devices, but there are 8; .* the nearest that do are \(4, 1, 2\)"),
        ((-1, 3, 1), r"is \(-1, 3, 1\), 3 devices, but there are 8"),
        ((1, 1, 1), r"is \(1, 1, 1\), 1 devices, but there are 8"),
        ((-1, 16, 1), "16 devices, but there are 8"),
        ((0, 1, 1), r"is \(0, 1, 1\); sizes are 1 or more"),
        ((-1, -1, 1), "one of them may be -1"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(MeshConfig(*asked))


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a host, and maybe of a slice, as far as the mesh looks at it."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "gpu"


def chips(hosts, each, slices=1):
    """Devices numbered without regard to hosts, as some backends do."""
    count = hosts * each
    return [Chip(place, place % hosts, place % hosts * slices // hosts) for place in range(count)]


def test_hosts_and_slices_are_kept_together():
    mesh = sharding.make_mesh(MeshConfig(2, 4, 2), chips(4, 4, slices=2))
    for slice_index, part in enumerate(mesh.devices):
        assert {chip.slice_index for chip in part.ravel()} == {slice_index}
    for row in mesh.devices.reshape(-1, 2):
        assert len({chip.process_index for chip in row}) == 1


@pytest.mark.parametrize(
    ("sizes", "where", "process", "shape", "shards"),
    [
        ((1, 8, 2), "auto", 1, (1, 2, 2), (2, 3)),
        ((4, 1, 4), "auto", 3, (1, 1, 4), (3,)),
        ((2, 2, 4), "host", 0, (1, 1, 4), (0,)),
        ((1, 8, 2), "global", 1, (1, 8, 2), tuple(range(8))),
        ((1, 2, 8), "auto", 1, (1, 2, 8), (0, 1)),
    ],
)
def test_a_process_samples_on_its_own_devices_if_it_can(sizes, where, process, shape, shards):
    mesh = sharding.make_mesh(MeshConfig(*sizes), chips(4, 4))
    site = sharding.sampling_mesh(mesh, where, process)
    assert tuple(site.mesh.shape.values()) == shape
    assert (site.shards, site.total) == (shards, sizes[0] * sizes[1])
    if where != "global" and sizes[2] <= 4:
        assert {chip.process_index for chip in site.mesh.devices.ravel()} == {process}


def test_one_process_samples_on_the_whole_mesh():
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    assert sharding.sampling_mesh(mesh) == sharding.SamplingMesh(mesh, (0, 1, 2, 3), 4)


def test_devices_that_take_no_program_alone_sample_with_all_others(monkeypatch):
    mesh = sharding.make_mesh(MeshConfig(1, 8, 2), chips(4, 4))
    said = []
    console = types.SimpleNamespace(warn=said.append)
    for refused, shape in (("", (1, 2, 2)), ("limited routing", (1, 8, 2))):
        monkeypatch.setattr(sharding, "refusal", lambda _, refused=refused: refused)
        site = choose_sampling_mesh(mesh, "auto", console, ALONE)
        assert tuple(site.mesh.shape.values()) == shape
    assert len(said) == 1 and "limited routing" in said[0] and "mesh.sampling=global" in said[0]
    assert choose_sampling_mesh(mesh, "host", console, ALONE).mesh.size == 4  # as was insisted on


def test_these_devices_take_programs():
    assert sharding.refusal(builders.mesh(1, 2, 2)) == ""


def test_products_across_hosts_cannot_be_sampled_on_one():
    mesh = sharding.make_mesh(MeshConfig(1, 2, 8), chips(4, 4))
    with pytest.raises(UserError, match="mesh.tensor=8 devices of several processes share"):
        sharding.sampling_mesh(mesh, "host", 0)


def test_storage_spreads_the_width_and_sampling_gathers_it():
    axes = ("layers", "width", "heads", "head_width")
    assert sharding.spec(axes) == PartitionSpec(None, "fsdp", "tensor", None)
    assert sharding.spec(axes, sharding.SAMPLING) == PartitionSpec(None, None, "tensor", None)
    assert sharding.spec(("vocab", "width"), sharding.DISK) == PartitionSpec(None, "fsdp")
    assert sharding.spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)
    assert sharding.spec(()) == PartitionSpec()


def test_every_axis_of_the_model_is_in_the_tables():
    config = dataclasses.replace(builders.MODEL, tied=False, scalar_head=True)
    names = {name for axes in model.logical_axes(config, builders.params(config)) for name in axes}
    for table in (sharding.STORAGE, sharding.SAMPLING, sharding.DISK):
        assert names <= set(table)
        used = {axis for value in table.values() if value for axis in np.atleast_1d(value)}
        assert used <= set(sharding.MESH_AXES)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (1, 4, 2), (2, 1, 4)], ids=str)
def test_parameters_hold_the_same_numbers_wherever_they_lie(sizes):
    # A width of 16, and four key-value heads: every size here divides them.
    config = dataclasses.replace(builders.MODEL, kv_heads=4)
    mesh = builders.mesh(*sizes)
    sharding.check_model(mesh, config)
    for place in (builders.for_training, builders.for_sampling):
        placed = place(config, mesh, builders.params(config))
        cut = model.cut_vocab(config, placed)
        jax.tree.map(np.testing.assert_array_equal, cut, builders.params(config))
    stored = builders.for_training(config, mesh, builders.params(config))
    gate = stored["blocks"]["feed_forward"]["gate"]
    assert gate.addressable_shards[0].data.shape == (2, 16 // sizes[1], 32 // sizes[2])
    sampled = builders.for_sampling(config, mesh, builders.params(config))
    gate = sampled["blocks"]["feed_forward"]["gate"]
    assert gate.addressable_shards[0].data.shape == (2, 16, 32 // sizes[2])


def test_rows_are_spread_and_copies_are_whole():
    mesh = builders.mesh(2, 2, 2)
    rows = sharding.put_rows(mesh, {"a": np.arange(8), "b": np.zeros((4, 3))})
    assert rows["a"].addressable_shards[0].data.shape == (2,)
    assert rows["b"].addressable_shards[0].data.shape == (1, 3)
    np.testing.assert_array_equal(rows["a"], np.arange(8))
    assert sharding.put_copies(mesh, np.arange(8)).sharding.is_fully_replicated
    assert sharding.row_shards(mesh) == 4


def test_constrain_places_activations_on_the_mesh_in_force():
    array = jnp.zeros((4, 6, 8))
    assert sharding.constrain(array, "batch", "length", None) is array
    place = jax.jit(lambda array: sharding.constrain(array, "batch", "length", "feed_forward"))
    with jax.set_mesh(builders.mesh(2, 2, 2)):
        assert place(array).addressable_shards[0].data.shape == (1, 6, 4)


@pytest.mark.parametrize(("rows", "nearest"), [(5, 4), (7, 8), (1, 4), (63, 64)])
def test_rows_that_do_not_divide_are_refused_with_the_nearest(rows, nearest):
    mesh = builders.mesh(2, 2, 2)
    message = f"sft.batch is {rows}, but .* = 4 devices .* nearest that divides is {nearest}$"
    with pytest.raises(UserError, match=message):
        sharding.check_rows(mesh, "sft.batch", rows)
    sharding.check_rows(mesh, "sft.batch", nearest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 18, "head_width": 4}, "model.width is 18, but mesh.fsdp is 4"),
        ({"heads": 3, "kv_heads": 1, "head_width": 4}, "model.heads is 3, but mesh.tensor is 2"),
        ({"kv_heads": 1}, "model.kv_heads is 1, but mesh.tensor is 2"),
        ({"feed_forward": 31}, "model.feed_forward is 31, but mesh.tensor is 2"),
    ],
)
def test_models_that_do_not_divide_are_refused_with_both_numbers(change, message):
    config = dataclasses.replace(builders.MODEL, **change)
    with pytest.raises(UserError, match=message):
        sharding.check_model(builders.mesh(1, 4, 2), config)
    sharding.check_model(builders.mesh(), config)


@pytest.mark.parametrize(
    ("vocab", "tensor", "padded"),
    [(50, 1, 50), (50, 2, 512), (512, 2, 512), (513, 2, 1024), (151_936, 8, 153_600)],
)
def test_the_vocabulary_is_padded_to_whole_blocks_a_device(vocab, tensor, padded):
    config = dataclasses.replace(builders.MODEL, vocab_size=vocab)
    assert sharding.padded_vocab(config, builders.mesh(1, 1, tensor)) == padded
