"""The decoder is the formula, whatever its layout, and reads nothing that it must not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bstar_jax import model, sharding
from bstar_jax.config import ModelConfig
from bstar_jax.run.checkpoints import place_params
from tests import builders
from tests.rounding import (
    assert_near,
    assert_tensors_near,
    depth_of_forward,
    depth_of_gradient,
)

pytestmark = pytest.mark.numerical

UNTIED = ModelConfig(
    vocab_size=50, width=16, layers=3, heads=4, kv_heads=1, head_width=6, feed_forward=24,
    rope_theta=50.0, norm_epsilon=1e-3, tied=False,
)  # fmt: skip
CONFIGS = pytest.mark.parametrize(
    "config",
    [
        builders.MODEL,
        UNTIED,
        dataclasses.replace(builders.MODEL, kv_heads=4, layers=1),
        dataclasses.replace(builders.MODEL, heads=2, kv_heads=2, tied=False),
    ],
    ids=["tied", "untied", "one key-value head a head", "two heads"],
)
forward = jax.jit(model.forward, static_argnums=0)


def tokens(rows=3, length=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 50, (rows, length)).astype(np.int32)


# The formula, in f64 NumPy, token by token and head by head.


def norm(x_D, scale_D, epsilon):
    return x_D / np.sqrt(np.mean(x_D**2) + epsilon) * scale_D


def turn(x_E, position, theta):
    half = len(x_E) // 2
    turned = np.empty_like(x_E)
    for i in range(half):
        angle = position / theta ** (i / half)
        pair = complex(x_E[i], x_E[i + half]) * np.exp(1j * angle)
        turned[i], turned[i + half] = pair.real, pair.imag
    return turned


def attention(weights, config, x_LD):
    length, share = len(x_LD), config.heads // config.kv_heads
    mixed_LD = np.zeros_like(x_LD)
    for head in range(config.heads):
        group = head // share
        q_LE = x_LD @ weights["query"][:, head]
        k_LE = x_LD @ weights["key"][:, group]
        v_LE = x_LD @ weights["value"][:, group]
        for at in range(length):
            q = turn(q_LE[at], at, config.rope_theta)
            scores = [q @ turn(k_LE[to], to, config.rope_theta) for to in range(at + 1)]
            mass = np.exp(np.array(scores) / np.sqrt(len(q)))
            mixed_LD[at] += (mass / mass.sum()) @ v_LE[: at + 1] @ weights["output"][head]
    return mixed_LD


def by_hand(config, params, tokens_L):
    """Logits [L, V] of one text."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def normed(x_LD, scale):
        return np.array([norm(x, scale, config.norm_epsilon) for x in x_LD])

    x_LD = params["embedding"][tokens_L]
    for layer in range(config.layers):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        x_LD = x_LD + attention(
            block["attention"], config, normed(x_LD, block["attention_norm"]["scale"])
        )
        feed = block["feed_forward"]
        inner_LD = normed(x_LD, block["feed_forward_norm"]["scale"])
        gate_LF = inner_LD @ feed["gate"]
        x_LD = x_LD + (gate_LF / (1 + np.exp(-gate_LF)) * (inner_LD @ feed["up"])) @ feed["down"]
    hidden_LD = normed(x_LD, params["final_norm"]["scale"])
    return hidden_LD @ (params["embedding"].T if config.tied else params["head"])


@CONFIGS
def test_logits_are_those_of_the_formula(config):
    params, tokens_BL = builders.params(config), tokens()
    got = np.asarray(forward(config, params, tokens_BL))
    expected = np.array([by_hand(config, params, row) for row in tokens_BL])
    assert got.dtype == np.float32 and got.shape == (3, 9, 50)
    assert_near(got, expected, depth_of_forward(config, 9))


def test_bfloat16_is_near_and_its_logits_are_f32():
    config = dataclasses.replace(builders.MODEL, dtype="bfloat16")
    exact = forward(builders.MODEL, builders.params(), tokens())
    near = forward(config, builders.params(), tokens())
    assert near.dtype == jnp.float32
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


# What a token reads.


def test_no_logit_depends_on_a_later_token():
    tokens_BL = tokens(1, 8)
    before = np.asarray(forward(builders.MODEL, builders.params(), tokens_BL))
    for place in range(8):
        changed_BL = tokens_BL.copy()
        changed_BL[0, place] = (changed_BL[0, place] + 1) % 50
        after = np.asarray(forward(builders.MODEL, builders.params(), changed_BL))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(axis=2).all()


@pytest.mark.slow
def test_gradients_flow_to_earlier_tokens_of_the_same_text_alone():
    config, params = builders.MODEL, builders.params()
    segments_BL = jnp.asarray([[1, 1, 1, 2, 2, 2, 0, 0]])
    tokens_BL = jnp.asarray([[3, 5, 7, 9, 11, 13, 15, 17]])  # each its own embedding row

    def logit_L(embedding):
        logits = model.forward(config, {**params, "embedding": embedding}, tokens_BL, segments_BL)
        return logits[0, :, 0]  # token 0 stands nowhere: its row takes part as the head alone

    jacobian_LVD = jax.jit(jax.jacrev(logit_L))(params["embedding"])
    reads_LL = np.abs(jacobian_LVD[:, tokens_BL[0]]).max(axis=2) > 0
    same_LL = np.asarray(segments_BL[0][:, None] == segments_BL[0][None])
    expected_LL = np.tril(same_LL)
    expected_LL[6:] = np.eye(8)[6:]
    np.testing.assert_array_equal(reads_LL, expected_LL)


@pytest.mark.parametrize(
    "config",
    [builders.MODEL, builders.GEMMA, builders.OLMO],
    ids=["plain", "windows", "norms behind"],
)
def test_packed_texts_equal_texts_in_rows_of_their_own(config):
    lengths = (4, 1, 6)
    texts = [tokens(1, length, seed=length)[0] for length in lengths]
    padding = np.zeros(2, np.int32)
    packed = np.concatenate([*texts, padding])[None]
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [padding])
    positions = np.concatenate([np.arange(n) for n in lengths] + [padding])
    run = functools.partial(forward, config, builders.params(config))
    together = run(packed, segments[None], positions[None])[0]
    alone = np.zeros((3, 6), np.int32)
    for row, text in enumerate(texts):
        alone[row, : len(text)] = text
    apart = run(alone)
    for row, n in enumerate(lengths):
        start = sum(lengths[:row])
        assert_near(together[start : start + n], apart[row, :n], depth_of_forward(config, 13))


def test_every_row_of_a_batch_is_alike():
    tokens_BL = tokens(4)
    order = np.array([2, 0, 3, 1])
    run = functools.partial(forward, builders.MODEL, builders.params())
    np.testing.assert_array_equal(run(tokens_BL)[order], run(tokens_BL[order]))


def test_positions_count_only_by_their_differences():
    run = functools.partial(forward, builders.MODEL, builders.params())
    segments_BL, positions_BL = np.ones((3, 9), np.int32), np.tile(np.arange(9), (3, 1))
    here, there = (run(tokens(), segments_BL, positions_BL + shift) for shift in (0, 40))
    # The angle of a turn has the rounding of its position.
    assert_near(here, there, depth_of_forward(builders.MODEL, 9), size=48)
    stretched = run(tokens(), segments_BL, 2 * positions_BL)
    assert np.abs(stretched - here).max() > 1e-3


# What changes nothing.


@pytest.mark.parametrize("config", [builders.MODEL, UNTIED], ids=["tied", "untied"])
def test_vocabulary_padding_changes_nothing(config):
    params = builders.params(config)
    padded = model.pad_vocab(config, params, 512)
    assert padded["embedding"].shape == (512, 16)
    got, expected = (forward(config, each, tokens()) for each in (padded, params))
    assert_near(got, expected, depth_of_forward(config, 9))
    jax.tree.map(np.testing.assert_array_equal, model.cut_vocab(config, padded), params)


def test_mask_padding_hides_the_columns_beyond_the_vocabulary():
    logits = jnp.ones((2, 3, 6))
    masked = np.asarray(model.mask_padding(logits, 4))
    assert np.isneginf(masked[..., 4:]).all() and (masked[..., :4] == 1).all()
    assert model.mask_padding(logits, 6) is logits


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_the_backward_pass_computes_again_changes_no_gradient(remat):
    def gradient(config):
        def loss(params):
            return jnp.mean(forward(config, params, tokens()) ** 2)

        return jax.jit(jax.grad(loss))(builders.params())

    small = dataclasses.replace(builders.MODEL, layers=2)
    kept, again = gradient(small), gradient(dataclasses.replace(small, remat=remat))
    assert_tensors_near(again, kept, depth_of_gradient(small, rows=3, length=9))


# Parameters.


@pytest.fixture(scope="module")
def started():
    config = dataclasses.replace(UNTIED, scalar_head=True)
    return config, jax.jit(functools.partial(model.init, config))(jax.random.key(1))


def test_init_fills_what_the_config_says(started):
    _, params = started
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    assert shapes == {
        "embedding": (50, 16),
        "blocks.attention_norm.scale": (3, 16),
        "blocks.attention.query": (3, 16, 4, 6),
        "blocks.attention.key": (3, 16, 1, 6),
        "blocks.attention.value": (3, 16, 1, 6),
        "blocks.attention.output": (3, 4, 6, 16),
        "blocks.feed_forward_norm.scale": (3, 16),
        "blocks.feed_forward.gate": (3, 16, 24),
        "blocks.feed_forward.up": (3, 16, 24),
        "blocks.feed_forward.down": (3, 24, 16),
        "final_norm.scale": (16,),
        "head": (16, 50),
        "scalar": (16,),
    }
    assert model.count_parameters(params) == sum(np.prod(shape) for shape in shapes.values())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_no_two_weights_of_a_start_are_alike(started):
    _, params = started
    weights = [leaf for leaf in jax.tree.leaves(params) if len(np.unique(leaf)) > 1]
    assert len(weights) == 9
    for leaf in weights:
        assert abs(np.mean(leaf)) < 4 * np.std(leaf) / np.sqrt(leaf.size)
    everything = np.concatenate([np.ravel(leaf / np.std(leaf)) for leaf in weights])
    assert len(np.unique(everything)) > 0.99 * len(everything)
    query = params["blocks"]["attention"]["query"]
    assert not np.array_equal(query[0], query[1])


def test_a_start_depends_on_the_key_and_on_no_mesh(started):
    config, params = started
    init = jax.jit(functools.partial(model.init, config))
    jax.tree.map(np.testing.assert_array_equal, init(jax.random.key(1)), params)
    other = init(jax.random.key(2))
    assert not np.array_equal(other["embedding"], params["embedding"])
    config = dataclasses.replace(config, kv_heads=2)  # tensor must divide it
    mesh = builders.mesh(2, 2, 2)
    key = jax.random.key(1)
    shapes = jax.eval_shape(functools.partial(model.init, config), key)
    places = sharding.shardings(mesh, shapes, model.logical_axes(config, shapes), sharding.DISK)
    spread = jax.jit(functools.partial(model.init, config), out_shardings=places)(key)
    alone = jax.jit(functools.partial(model.init, config))(key)
    jax.tree.map(np.testing.assert_array_equal, spread, alone)


def test_the_scalar_head_is_one_value_a_token():
    config = dataclasses.replace(builders.MODEL, scalar_head=True)
    params = builders.params(config)

    @jax.jit
    def values(params, tokens_BL):
        hidden, decoder = model.forward_hidden(config, params, tokens_BL)
        return hidden, decoder.values(hidden)

    hidden, values_BL = values(params, tokens())
    assert_near(values_BL, np.asarray(hidden) @ params["scalar"], config.width)


def test_every_array_of_a_training_state_finds_its_axes():
    params = builders.params(UNTIED)
    table = dict(
        zip(
            [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)],
            model.logical_axes(UNTIED, params),
            strict=True,
        )
    )
    assert table["['embedding']"] == ("vocab", "width")
    assert table["['blocks']['attention']['key']"] == ("layers", "width", "kv_heads", "head_width")
    assert table["['head']"] == ("width", "vocab")
    moments = optax.adam(1e-3).init(params)
    axes = model.logical_axes(UNTIED, moments)
    assert [len(names) for names in axes] == [leaf.ndim for leaf in jax.tree.leaves(moments)]
    assert axes.count(("vocab", "width")) == 2 and axes.count(()) == 1


def test_logits_are_the_same_on_a_mesh():
    mesh = builders.mesh(2, 2, 2)
    params = place_params(builders.MODEL, mesh, builders.params())
    tokens_BL = tokens(4)
    with jax.set_mesh(mesh):
        spread = forward(builders.MODEL, params, sharding.put_rows(mesh, tokens_BL))
    alone = forward(builders.MODEL, builders.params(), tokens_BL)
    assert_near(spread, alone, depth_of_forward(builders.MODEL, 9))


def test_wrong_shapes_are_refused_by_name():
    with pytest.raises(TypeError, match="tokens_BL"):
        model.forward(builders.MODEL, builders.params(), jnp.zeros((4,), jnp.int32))
