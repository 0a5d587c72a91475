"""Adapters act as the sum that they are merged to, and training sees nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import model
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.model import adapters
from tests import builders
from tests.rounding import assert_near, depth_of_forward

pytestmark = pytest.mark.numerical

CONFIG = dataclasses.replace(builders.QWEN, lora_rank=3, lora_alpha=5.0)
FEW = dataclasses.replace(CONFIG, lora_targets=("value", "down"))
forward = jax.jit(model.forward, static_argnums=0)


def tokens(rows=3, length=9):
    return np.random.default_rng(0).integers(0, 50, (rows, length)).astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, FEW], ids=["all", "few"])
def test_merged_weights_compute_what_adapters_do(config):
    params = builders.params(config)
    beside = forward(config, params, tokens())
    merged = forward(
        adapters.merged_model(config), adapters.merge_into_weights(config, params), tokens()
    )
    plain = forward(adapters.merged_model(config), adapters.frozen(config, params), tokens())
    assert_near(merged, beside, depth_of_forward(config, 9))
    assert np.abs(plain - beside).max() > 0.01


def test_a_merge_is_the_formula():
    params = builders.params(FEW)
    merged = adapters.merge_into_weights(FEW, params)
    down = params["blocks"]["feed_forward"]
    expected = down["down"] + 5 / 3 * np.einsum(
        "yfr,yrd->yfd", down["down_lora_in"], down["down_lora_out"]
    )
    assert_near(merged["blocks"]["feed_forward"]["down"], expected, 1 + FEW.lora_rank)
    np.testing.assert_array_equal(merged["blocks"]["feed_forward"]["up"], down["up"])
    names = jax.tree.leaves_with_path(merged)
    assert not any("lora" in jax.tree_util.keystr(path) for path, _ in names)
    assert jax.tree.structure(merged) == jax.tree.structure(builders.params(builders.QWEN))


def test_what_is_trained_and_what_is_frozen_are_everything():
    params = builders.params(FEW)
    trained, frozen = adapters.trained(FEW, params), adapters.frozen(FEW, params)
    names = {path[-1].key for path, _ in jax.tree.leaves_with_path(trained)}
    assert names == {"value_lora_in", "value_lora_out", "down_lora_in", "down_lora_out"}
    jax.tree.map(np.testing.assert_array_equal, adapters.combine(frozen, trained), params)
    assert jax.tree.map(jnp.shape, trained) == jax.tree.map(
        lambda leaf: leaf.shape, adapters.trained_shapes(FEW)
    )


def test_without_adapters_all_is_trained():
    params = builders.params()
    assert adapters.trained(builders.MODEL, params) is params
    assert adapters.frozen(builders.MODEL, params) == {}
    assert adapters.merge_into_weights(builders.MODEL, params) is params


def test_the_weights_of_the_layers_alone_may_be_trained():
    config = dataclasses.replace(builders.QWEN, trained="weights")
    params = builders.params(builders.QWEN)
    trained, frozen = adapters.trained(config, params), adapters.frozen(config, params)
    assert trained.keys() == {"blocks"} and len(jax.tree.leaves(trained)) == 14
    assert frozen.keys() == {"embedding", "blocks", "final_norm", "head"}
    jax.tree.map(np.testing.assert_array_equal, adapters.combine(frozen, trained), params)


def test_a_start_changes_nothing_yet():
    start = jax.jit(functools.partial(adapters.init_adapters, CONFIG))(jax.random.key(0))
    params = adapters.combine(builders.params(builders.QWEN), start)
    same = forward(adapters.merged_model(CONFIG), builders.params(builders.QWEN), tokens())
    assert_near(forward(CONFIG, params, tokens()), same, depth_of_forward(CONFIG, 9))
    entering = start["blocks"]["attention"]["output_lora_in"]
    assert entering.shape == (2, 4, 4, 3) and len(np.unique(entering)) == entering.size


def test_adapters_lie_on_a_mesh_as_their_weights_do():
    axes = dict(
        zip(
            [path[-1].key for path, _ in jax.tree.leaves_with_path(builders.params(CONFIG))],
            model.logical_axes(CONFIG, builders.params(CONFIG)),
            strict=True,
        )
    )
    assert axes["query_lora_in"] == ("layers", "width", "rank")
    assert axes["query_lora_out"] == ("layers", "rank", "heads", "head_width")


def test_an_unknown_target_is_refused():
    with pytest.raises(UserError, match="lora_targets has 'embedding'; it takes query, key"):
        ModelConfig(lora_targets=("embedding",))
