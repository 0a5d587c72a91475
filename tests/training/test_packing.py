"""Packed training is unpacked training, and parts of a step add up to the whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import model
from bstar_jax.config import Config, OptimizerConfig, TrainingConfig, UserError, from_dict
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Batch, StepBatch
from bstar_jax.training.fit import fit, train_step
from bstar_jax.training.losses import response_loss, step_loss
from bstar_jax.training.optimizer import Schedule
from bstar_jax.training.packing import arrange, first_fit, pack, row_count
from tests import builders
from tests.rounding import assert_near, assert_tensors_near, depth_of_gradient

pytestmark = pytest.mark.numerical

ADAM = OptimizerConfig(clip_norm=0.5, weight_decay=0.1)
SCHEDULE = Schedule(peak=3e-3, warmup=3, steps=20, final=0.1)
SCORED = dataclasses.replace(builders.MODEL, scalar_head=True)
STEP_LOSS = functools.partial(step_loss, language_weight=0.5)
ROWS, LENGTH = 16, 24
DEPTH = depth_of_gradient(builders.MODEL, ROWS, LENGTH)  # of a step


def batch_at(step, kind=Batch):
    """Random texts of 2 to 24 tokens, a function of the step."""
    rng = np.random.default_rng([5, step])
    tokens_BL = rng.integers(2, builders.MODEL.vocab_size, (ROWS, LENGTH + 1)).astype(np.int32)
    end_B1 = rng.integers(2, LENGTH + 1, (ROWS, 1))
    start_B1 = rng.integers(1, end_B1)
    column_1L = np.arange(LENGTH)[None]
    weights_BL = ((column_1L >= start_B1) & (column_1L < end_B1)).astype(np.float32)
    segments_BL = (column_1L < end_B1).astype(np.int32)
    if kind is Batch:
        return Batch(tokens_BL[:, :-1], tokens_BL[:, 1:], weights_BL, segments_BL)
    labels_BL = rng.random(weights_BL.shape).astype(np.float32)
    right_B1 = rng.random((ROWS, 1)) < 0.5
    language_BL = (right_B1 & (column_1L >= start_B1 - 1) & (column_1L < end_B1 - 1)).astype("f4")
    return StepBatch(tokens_BL[:, :-1], labels_BL, weights_BL, language_BL, segments_BL)


def trained(mesh, config=builders.MODEL, kind=Batch, steps=20, **training):
    params = builders.for_training(config, mesh, builders.params(config))
    state = optimizer.init_state(config, ADAM, mesh, params)
    loss = response_loss if kind is Batch else STEP_LOSS
    ((state, progress),) = fit(
        config, ADAM, SCHEDULE, state, lambda step: batch_at(step, kind), loss=loss,
        mesh=mesh, training=TrainingConfig(**training), first=0, steps=steps, every=100,
    )  # fmt: skip
    return model.cut_vocab(config, jax.device_get(state.params)), progress


@functools.cache
def plain(kind=Batch):
    return trained(builders.mesh(), SCORED if kind is StepBatch else builders.MODEL, kind)


# Laws.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "training"),
    [
        ((1, 1, 1), {"row_tokens": 64}),
        ((1, 1, 1), {"row_tokens": 40, "micro_rows": 2}),
        ((1, 1, 1), {"micro_rows": 4}),
        ((2, 2, 2), {"micro_rows": 8}),
        ((2, 2, 2), {"row_tokens": 32, "micro_rows": 4}),
    ],
)
def test_packed_in_parts_and_sharded_training_equals_plain_training(sizes, training):
    params, progress = trained(builders.mesh(*sizes), **training)
    expected, other = plain()
    assert_near(progress.loss, other.loss, 20 * DEPTH)
    assert progress.tokens == other.tokens
    assert_tensors_near(params, expected, 20 * DEPTH)


@pytest.mark.slow
def test_packed_training_of_a_process_model_equals_plain_training():
    expected, other = plain(StepBatch)
    params, progress = trained(builders.mesh(), SCORED, StepBatch, row_tokens=50, micro_rows=3)
    assert_near(progress.loss, other.loss, 20 * DEPTH)
    assert_tensors_near(params, expected, 20 * DEPTH)


@pytest.mark.slow
def test_texts_of_a_row_do_not_read_each_other():
    packed = jax.tree.map(jnp.asarray, pack(batch_at(0), 64, 1))
    params, config = builders.params(), builders.MODEL

    def hidden(tokens_BL):
        return model.forward_hidden(
            config, params, tokens_BL, packed.segments_BL, packed.positions_BL
        )[0]

    is_second = packed.segments_BL == 2
    assert is_second.any()
    changed = jnp.where(is_second, 2, packed.tokens_BL)
    before, after = hidden(packed.tokens_BL), hidden(changed)
    np.testing.assert_array_equal(before[~is_second], after[~is_second])
    assert np.any(before[is_second] != after[is_second])


@pytest.mark.slow
@pytest.mark.parametrize("micro_rows", [1, 2, 8])
def test_parts_of_a_step_add_up_to_the_whole(micro_rows):
    """Parts have unequal weight: a mean of their means would be another number."""
    batch = batch_at(1)
    mesh = builders.mesh()
    params = builders.for_training(builders.MODEL, mesh, builders.params())

    def gradient_norm_and_loss(rows):
        state = optimizer.init_state(builders.MODEL, ADAM, mesh, jax.tree.map(jnp.copy, params))
        state, measured = train_step(builders.MODEL, ADAM, state, batch, 1e-3, micro_rows=rows)
        return state.params, measured

    (whole, a), (parts, b) = gradient_norm_and_loss(0), gradient_norm_and_loss(micro_rows)
    assert_near(b["loss"], a["loss"], DEPTH)
    assert_near(b["grad_norm"], a["grad_norm"], DEPTH)
    assert_tensors_near(parts, whole, DEPTH)


# Packing.


def test_every_text_lies_whole_in_one_row():
    batch = batch_at(2)
    packed = pack(batch, 64, 1)
    texts = [tuple(row[:count]) for row, count in zip(batch.tokens_BL, batch.segments_BL.sum(1),
                                                     strict=True)]  # fmt: skip
    found = []
    for row in range(len(packed.tokens_BL)):
        for number in range(1, packed.segments_BL[row].max() + 1):
            (place,) = np.nonzero(packed.segments_BL[row] == number)
            assert (np.diff(place) == 1).all()
            assert packed.positions_BL[row, place].tolist() == list(range(len(place)))
            found.append(tuple(packed.tokens_BL[row, place]))
    assert sorted(found) == sorted(texts)
    for name in ("weights_BL", "targets_BL"):
        before, after = getattr(batch, name), getattr(packed, name)
        assert sorted(before[batch.segments_BL > 0]) == sorted(after[packed.segments_BL > 0])
    assert not packed.weights_BL[packed.segments_BL == 0].any()
    assert packed.segments_BL.sum() and len(packed.tokens_BL) < ROWS


def test_packing_is_a_function_of_the_batch():
    first, again = pack(batch_at(3), 40, 1), pack(batch_at(3), 40, 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.mark.parametrize("seed", range(20))
def test_first_fit_uses_at_most_eleven_ninths_of_what_the_tokens_need(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 101, 64).tolist()
    rows = first_fit(lengths, 100)
    assert sorted(text for row in rows for text in row) == list(range(64))
    assert all(sum(lengths[text] for text in row) <= 100 for row in rows)
    # No texts of more than half a row share one, so this many rows are needed whoever packs.
    fewest = max(-(-sum(lengths) // 100), sum(length > 50 for length in lengths))
    assert len(rows) <= 11 / 9 * fewest + 1


def test_the_drawn_example():
    assert first_fit([4, 2, 1, 5], 5) == [[3], [0, 2], [1]]


def test_a_text_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="a text has 6 tokens, a row 5"):
        first_fit([3, 6], 5)


@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 8, 32])
def test_row_counts_are_few_and_not_much_too_large(multiple):
    counts = [row_count(rows, multiple) for rows in range(1, 513)]
    for rows, count in enumerate(counts, start=1):
        assert count % multiple == 0
        assert rows <= count < rows + max(rows / 8, multiple) + multiple
    assert len(set(counts)) <= 65


def test_plain_rows_lose_needless_padding_and_packed_ones_are_as_long_as_asked():
    batch = batch_at(4)
    plainly = arrange(batch, TrainingConfig(), 4)
    assert plainly.positions_BL is None and len(plainly.tokens_BL) == ROWS
    packed = arrange(batch, TrainingConfig(row_tokens=48), 4)
    assert packed.tokens_BL.shape[1] == 48 and len(packed.tokens_BL) % 4 == 0


# Settings.


def test_rows_too_short_for_a_text_are_refused_at_the_start():
    with pytest.raises(UserError, match=r"training.row_tokens is 99, but .* = 100 tokens"):
        from_dict({"generate": {"max_prompt_tokens": 60, "max_tokens": 40},
                   "training": {"row_tokens": 99}})  # fmt: skip
    from_dict({"generate": {"max_prompt_tokens": 60, "max_tokens": 40},
               "training": {"row_tokens": 100}})  # fmt: skip


def test_parts_that_do_not_divide_a_step_are_refused_with_the_nearest_that_do():
    with pytest.raises(UserError, match=r"micro_rows is 24 and sft.batch is 64; .*micro_rows=16"):
        from_dict({"sft": {"batch": 64}, "training": {"micro_rows": 24}})
    with pytest.raises(UserError, match=r"micro_rows is 7 and improve.batch is 60; .*micro_rows=6"):
        from_dict({"sft": {"steps": 0}, "improve": {"batch": 60}, "training": {"micro_rows": 7}})
    from_dict({"training": {"micro_rows": 24, "row_tokens": 4096}})
    assert Config().training == TrainingConfig()


def test_parts_that_the_mesh_cannot_share_are_refused():
    message = "training.micro_rows is 6, but mesh.data x mesh.fsdp = 4 .*nearest that divides is 8"
    with pytest.raises(UserError, match=message):
        trained(builders.mesh(2, 2, 2), micro_rows=6, row_tokens=64)
