"""The fused loss is the plain one: values, gradients, every mesh; and it never holds all logits."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax.config import ModelConfig
from bstar_jax.training import cross_entropy
from bstar_jax.training.cross_entropy import chunking, total_cross_entropy
from tests import builders
from tests.rounding import assert_near, assert_tensors_near

pytestmark = pytest.mark.numerical

TRUE, PADDED = 500, 512
CONFIG = ModelConfig(vocab_size=TRUE, width=16, layers=1, heads=4, kv_heads=2, feed_forward=32)
SMALL_CHUNK = 4 * PADDED * 13  # 13 tokens, which do not divide the batch


def plain(config, hidden_BLD, weight_DV, targets_BL, weights_BL):
    """The formula, as a reader would write it."""
    weight_DV = weight_DV.astype(hidden_BLD.dtype)
    logits_BLV = jnp.matmul(hidden_BLD, weight_DV, preferred_element_type=jnp.float32)
    if config.logit_cap:
        logits_BLV = config.logit_cap * jnp.tanh(logits_BLV / config.logit_cap)
    logits_BLV = logits_BLV[..., : config.vocab_size]
    target_BL1 = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)
    cross_entropy_BL = jax.nn.logsumexp(logits_BLV, axis=-1) - target_BL1[..., 0]
    return jnp.sum(cross_entropy_BL * weights_BL)


def inputs(dtype="float32", shape=(8, 10), padded=PADDED):
    rng = np.random.default_rng(0)
    targets_BL = rng.integers(0, TRUE, shape)
    targets_BL[0, :2] = 0, TRUE - 1
    weights_BL = rng.random(shape) * (rng.random(shape) < 0.7)
    return (
        jnp.asarray(2 * rng.standard_normal((*shape, 16)), dtype),
        jnp.asarray(rng.standard_normal((16, padded)), jnp.float32),
        jnp.asarray(targets_BL, jnp.int32),
        jnp.asarray(weights_BL, jnp.float32),
    )


def both(function):
    """Value and gradients by hidden states, head and weights, compiled."""
    return jax.jit(jax.value_and_grad(function, argnums=(1, 2, 4)), static_argnums=0)


# Terms added up: a score's, the softmax's; back, a token's over the vocabulary, a weight's over
# the tokens.
DEPTH = 2 * (16 + TRUE) + 80


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("chunk", [cross_entropy.CHUNK_BYTES, SMALL_CHUNK])
def test_loss_and_gradients_are_those_of_the_formula(monkeypatch, cap, chunk):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", chunk)
    config = dataclasses.replace(CONFIG, logit_cap=cap)
    expected = both(plain)(config, *inputs())
    got = both(total_cross_entropy)(config, *inputs())
    assert_tensors_near(got, expected, DEPTH)
    # Padding of the vocabulary gets nothing, exactly.
    assert not np.any(got[1][1][:, TRUE:]) and np.any(got[1][1][:, TRUE - 1])
    value = jax.jit(total_cross_entropy, static_argnums=0)(config, *inputs())
    assert_near(value, expected[0], DEPTH)


def test_half_precision_sums_in_f32():
    """What is rounded is the score's change and nothing else, so f32 is 2^-8 away, no more."""
    hidden, *others = inputs("bfloat16")
    # The head is rounded as its products see it; the same numbers in f32 are the truth.
    others[0] = others[0].astype(jnp.bfloat16).astype(jnp.float32)
    expected = both(plain)(CONFIG, hidden.astype(jnp.float32), *others)
    got = both(total_cross_entropy)(CONFIG, hidden, *others)
    assert got[1][0].dtype == jnp.bfloat16 and got[1][1].dtype == jnp.float32
    assert_tensors_near((got[0], got[1][2]), (expected[0], expected[1][2]), DEPTH)
    assert_tensors_near(got[1], expected[1], 0.5, dtype="bfloat16")  # one of the two is rounded


@pytest.mark.parametrize("sizes", [(2, 2, 2), (8, 1, 1), (1, 1, 8), (1, 4, 2)])
@pytest.mark.parametrize("chunk", [cross_entropy.CHUNK_BYTES, SMALL_CHUNK])
def test_sharded_equals_unsharded(monkeypatch, sizes, chunk):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", chunk)
    config = dataclasses.replace(CONFIG, logit_cap=3.0)
    expected = both(plain)(config, *inputs())
    with jax.set_mesh(builders.mesh(*sizes)):
        # A function of its own: what was traced without the mesh is no answer here.
        got = both(lambda *arguments: total_cross_entropy(*arguments))(config, *inputs())
    assert_tensors_near(got, expected, DEPTH)


def sizes_of(text):
    """Elements of every array in a compiled program."""
    return {int(np.prod([int(size) for size in shape.split(",")]))
            for shape in re.findall(r"\[(\d+(?:,\d+)*)\]", text)}  # fmt: skip


@pytest.mark.parametrize("is_spread", [False, True])
def test_no_array_holds_more_scores_than_a_chunk(monkeypatch, is_spread):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", SMALL_CHUNK)
    mesh = builders.mesh(2, 1, 2) if is_spread else builders.mesh()
    arguments = inputs(shape=(16, 32))

    def loss(hidden_BLD, weight_DV):
        return total_cross_entropy(CONFIG, hidden_BLD, weight_DV, *arguments[2:])

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        text = step.lower(*arguments[:2]).compile().as_text()
    # The states [16, 32, 16], with those that fill the last chunk up, and the head [16, 512].
    assert max(sizes_of(text)) <= 40 * 13 * 16 < 16 * 32 * TRUE // 16


def test_a_head_that_is_not_trained_costs_no_product():
    hidden, *others = inputs()

    def products(by):
        step = jax.jit(
            jax.grad(lambda h, w: total_cross_entropy(CONFIG, h, w, *others[1:]), argnums=by)
        )
        return len(re.findall(r"= \S+ dot\(", step.lower(hidden, others[0]).compile().as_text()))

    assert products((0, 1)) == 3 and products(0) == 2


@pytest.mark.parametrize(
    ("tokens", "words", "parts"),
    [(4096, 151936, (10, 410)), (3136, 64, (1, 3136)), (1, 10**9, (1, 1)), (2, 10**9, (2, 1))],
)
def test_chunks_cover_the_tokens_within_the_limit(tokens, words, parts):
    chunks, size = chunking(tokens, words)
    assert (chunks, size) == parts
    assert chunks * size >= tokens > (chunks - 1) * size
    assert size == 1 or 4 * size * words <= cross_entropy.CHUNK_BYTES + 4 * words
