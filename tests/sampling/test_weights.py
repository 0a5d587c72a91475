"""The weights that sampling reads lie where it wants them, are as small as said, cost little."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig, UserError
from bstar_jax.kernels.int8 import Int8, quantise
from bstar_jax.sampling import weights
from bstar_jax.sampling.weights import logprob_change, rollout_config, rollout_params
from tests import builders
from tests.rounding import assert_near, depth_of_forward

pytestmark = pytest.mark.numerical

UNTIED = dataclasses.replace(builders.MODEL, tied=False, scalar_head=True)
forward = jax.jit(model.forward, static_argnums=0)


def is_int8(leaf):
    return isinstance(leaf, Int8)


def tokens(rows=3, length=9, vocab=50, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, vocab, (rows, length)), jnp.int32)


# Int8.


@pytest.mark.parametrize("summed", [(1,), (1, 2), (3,)])
def test_int8_is_the_nearest_of_127_steps_a_channel(summed):
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((2, 5, 4, 6)).astype(np.float32) * np.exp(rng.normal(size=6))
    weight = weight.astype(np.float32)
    got = quantise(jnp.asarray(weight), summed)
    scale = np.abs(weight).max(axis=summed, keepdims=True) / 127
    assert got.values.dtype == jnp.int8 and got.scale.shape == scale.shape
    np.testing.assert_allclose(got.scale, scale, rtol=1e-6)
    back = np.asarray(got.astype(jnp.float32))
    assert (np.abs(back - weight) <= scale / 2 * (1 + 1e-4)).all()
    largest = np.abs(weight) == np.abs(weight).max(axis=summed, keepdims=True)
    np.testing.assert_allclose(back[largest], weight[largest], rtol=1e-6)
    assert np.abs(got.values).max() == 127


@pytest.mark.slow
def test_int8_keeps_a_channel_of_zeros_and_the_example():
    got = quantise(jnp.asarray([[1.0, -0.5], [-2.0, 0.0], [0.0, 0.0]]), (1,))
    np.testing.assert_array_equal(got.values, [[127, -64], [-127, 0], [0, 0]])
    np.testing.assert_array_equal(got.astype(jnp.bfloat16)[2], [0, 0])
    np.testing.assert_array_equal(got[1].astype(jnp.float32), got.astype(jnp.float32)[1])


def test_a_tree_with_int8_passes_through_jit_unchanged():
    rolled = rollout_params(UNTIED, builders.params(UNTIED), None, weights="int8")
    again = jax.jit(lambda tree: tree)(rolled)
    assert jax.tree.structure(again) == jax.tree.structure(rolled)
    jax.tree.map(np.testing.assert_array_equal, again, rolled)


# Where they lie, and how large they are.


@pytest.mark.parametrize("kind", weights.WEIGHTS)
def test_every_array_lies_on_the_sampling_map(kind):
    mesh = builders.mesh(2, 2, 2)
    stored = builders.for_training(UNTIED, mesh, builders.params(UNTIED))
    rolled = rollout_params(UNTIED, stored, mesh, weights=kind)
    axes = model.logical_axes(UNTIED, stored)
    leaves = jax.tree.leaves(rolled, is_leaf=is_int8)
    for leaf, names in zip(leaves, axes, strict=True):
        values = leaf.values if is_int8(leaf) else leaf
        place = sharding.spec(names, sharding.SAMPLING)
        assert values.sharding.is_equivalent_to(
            jax.sharding.NamedSharding(mesh, place), values.ndim
        )
        if is_int8(leaf):  # a channel's scale lies with the channel
            parts = [shard.data.shape for shard in leaf.scale.addressable_shards]
            whole = [shard.data.shape for shard in values.addressable_shards]
            for part, of, size in zip(parts, whole, [leaf.scale.shape] * 8, strict=True):
                assert all(
                    p == (1 if s == 1 else w) for p, w, s in zip(part, of, size, strict=True)
                )
    # The same numbers as without a mesh, and what was given is still there.
    alone = rollout_params(UNTIED, builders.params(UNTIED), None, weights=kind)
    padded = model.cut_vocab(UNTIED, stored)
    jax.tree.map(np.testing.assert_array_equal, padded, builders.params(UNTIED))
    for part in ("attention", "feed_forward"):
        got, expected = rolled["blocks"][part], alone["blocks"][part]
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_int8_is_a_quarter_of_the_bytes_and_bfloat16_half():
    config = ModelConfig(vocab_size=64, width=64, layers=2, heads=4, kv_heads=2, tied=False)
    before = builders.params(config)

    def size(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    half = rollout_params(config, before, None, weights="bfloat16")
    quarter = rollout_params(config, before, None, weights="int8")
    assert size(half) == pytest.approx(size(before) / 2, rel=0.01)
    for part in ("attention", "feed_forward"):
        # A scale a channel comes on top.
        assert size(quarter["blocks"][part]) == pytest.approx(
            size(before["blocks"][part]) / 4, rel=0.07
        )
    assert half["final_norm"]["scale"].dtype == jnp.float32
    assert quarter["embedding"].dtype == jnp.bfloat16 and is_int8(quarter["head"])


def test_weights_are_cast_before_they_are_gathered():
    mesh = builders.mesh(2, 2, 2)
    stored = builders.for_training(UNTIED, mesh, builders.params(UNTIED))
    text = weights._program(UNTIED, mesh, True).lower(stored).compile().as_text()
    gathered = re.findall(r"= (\w+)\[([\d,]*)\]\S* all-gather\(", text)

    def count(shape):
        return int(np.prod([int(size) for size in shape.split(",")]))

    assert sum(kind == "s8" for kind, _ in gathered) == 8
    # The embedding travels as bf16, which the CPU's compiler widens.
    embedding = stored["embedding"].size // 2
    wide = [count(shape) for kind, shape in gathered if kind == "f32" and count(shape) < embedding]
    assert max(wide) <= UNTIED.layers * UNTIED.width


def test_the_program_is_compiled_once():
    mesh = builders.mesh(2, 2, 2)
    for seed in (0, 1):
        stored = builders.for_training(UNTIED, mesh, builders.params(UNTIED, seed))
        rollout_params(UNTIED, stored, mesh, weights="int8")
    assert weights._program(UNTIED, mesh, True)._cache_size() == 1


# What they compute.


def test_bfloat16_weights_compute_exactly_what_a_bfloat16_model_computes():
    config, params = builders.MODEL, builders.params()
    rolled = rollout_params(config, params, None, weights="bfloat16")
    rolled_config = rollout_config(config, "bfloat16")
    assert rolled_config == dataclasses.replace(config, dtype="bfloat16")
    got, expected = (forward(rolled_config, tree, tokens()) for tree in (rolled, params))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_int8_weights_compute_what_their_products_say():
    config = UNTIED
    rolled = rollout_params(config, builders.params(config), None, weights="int8")
    by_hand = jax.tree.map(
        lambda leaf: leaf.values * leaf.scale if is_int8(leaf) else leaf.astype(jnp.float32),
        rolled,
        is_leaf=is_int8,
    )
    got, expected = (forward(config, tree, tokens()) for tree in (rolled, by_hand))
    assert_near(got, expected, depth_of_forward(config, 9))


@pytest.mark.slow
def test_logits_are_the_same_on_a_mesh():
    mesh = builders.mesh(2, 2, 2)
    stored = builders.for_training(UNTIED, mesh, builders.params(UNTIED))
    spread = rollout_params(UNTIED, stored, mesh, weights="int8")
    alone = rollout_params(UNTIED, builders.params(UNTIED), None, weights="int8")
    tokens_BL = tokens(4)
    with jax.set_mesh(mesh):
        got = forward(UNTIED, spread, sharding.put_rows(mesh, tokens_BL))
    assert_near(got, forward(UNTIED, alone, tokens_BL), depth_of_forward(UNTIED, 9))


# What they cost.


def change(config, params, tokens_BL, kind):
    rolled = rollout_params(config, params, None, weights=kind)
    changes = logprob_change(config, params, rollout_config(config, kind), rolled, tokens_BL)
    return [float(value) for value in changes]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mean", "most"), [("bfloat16", 0.012, 0.08), ("int8", 0.02, 0.1)])
def test_random_weights_move_log_probabilities_little(kind, mean, most):
    config = ModelConfig(vocab_size=512, width=64, layers=4, heads=4, kv_heads=2, feed_forward=192)
    params = model.init(config, jax.random.key(0))
    got = change(config, params, tokens(16, 49, 512), kind)
    assert mean / 3 < got[0] < mean and most / 5 < got[1] < most


def counting(rows, seed):
    """Texts that count in steps of 1 to 7, modulo 64."""
    rng = np.random.default_rng(seed)
    first, step = rng.integers(0, 64, (rows, 1)), rng.integers(1, 8, (rows, 1))
    return jnp.asarray((first + step * np.arange(12)[None]) % 64, jnp.int32)


@pytest.fixture(scope="module")
def trained():
    """A model that has learnt to count."""
    config = ModelConfig(
        vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, feed_forward=64, remat="none"
    )
    adam = optax.adam(1e-2)

    def loss(params, tokens_BL):
        logits = model.forward(config, params, tokens_BL)[:, :-1]
        wrong = optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BL[:, 1:])
        return wrong.mean()

    @jax.jit
    def learn(params, moments, tokens_BL):
        value, slope = jax.value_and_grad(loss)(params, tokens_BL)
        moves, moments = adam.update(slope, moments)
        return optax.apply_updates(params, moves), moments, value

    params = model.init(config, jax.random.key(0))
    moments = adam.init(params)
    for step in range(150):
        params, moments, value = learn(params, moments, counting(32, step))
    assert value < 0.6
    return config, params


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mean", "most"), [("bfloat16", 0.01, 0.16), ("int8", 0.018, 0.5)])
def test_trained_weights_move_log_probabilities_little(trained, kind, mean, most):
    # The bounds are about twice the largest seen over 4 seeds and 9 sets of texts.
    config, params = trained
    got = change(config, params, counting(32, 1000), kind)
    assert got[0] < mean and got[1] < most


def test_the_same_weights_change_nothing_and_a_change_is_measured_by_hand():
    config, params = builders.MODEL, builders.params()
    tokens_BL = tokens()
    assert change(config, params, tokens_BL, "same") == [0, 0]
    other = builders.params(seed=1)
    mean, most = logprob_change(config, params, config, other, tokens_BL)

    def by_hand(params):
        logits_BLV = np.asarray(forward(config, params, tokens_BL), np.float64)
        return [
            logits_BLV[b, at - 1, tokens_BL[b, at]] - np.log(np.exp(logits_BLV[b, at - 1]).sum())
            for b in range(3)
            for at in range(1, 9)
        ]

    differences = np.abs(np.subtract(by_hand(params), by_hand(other)))
    expected = [differences.mean(), differences.max()]
    assert_near([mean, most], expected, depth_of_forward(config, 9))


def test_unknown_weights_are_refused():
    with pytest.raises(UserError, match="weights is 'int4'; choose one of"):
        rollout_params(builders.MODEL, builders.params(), None, weights="int4")
