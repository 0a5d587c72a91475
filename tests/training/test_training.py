"""What is learnt is what was written, in a known order, wherever the arrays lie."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import model
from bstar_jax.config import OptimizerConfig, UserError
from bstar_jax.training import optimizer
from bstar_jax.training.batches import (
    Batch,
    Example,
    StepExample,
    TooLong,
    cut_padding,
    encode,
    encode_steps,
    row_order,
    too_long_message,
)
from bstar_jax.training.fit import fit, train_step
from bstar_jax.training.losses import binary_cross_entropy, response_loss, step_loss
from bstar_jax.training.optimizer import Schedule, TrainState
from tests import builders
from tests.rounding import assert_near, assert_tensors_near, depth_of_forward, depth_of_gradient

pytestmark = pytest.mark.numerical

ADAM = OptimizerConfig(clip_norm=0.5, weight_decay=0.1)
SCHEDULE = Schedule(peak=3e-3, warmup=3, steps=20, final=0.1)
DEPTH = depth_of_gradient(builders.MODEL, rows=8, length=10)  # of a step
WORD = {word: builders.WORDS.encode(word)[0] for word in ("Ann", "has", "3", ".", "#")}


def mean_loss(config, params, batch):
    return response_loss(config, params, batch.normalized())


loss_of = jax.jit(mean_loss, static_argnums=0)
value_and_grad = jax.jit(jax.value_and_grad(mean_loss, argnums=1), static_argnums=0)


def batch_at(step, rows=8, length=10):
    """Random tokens with random weights, prompts and padding, a function of the step."""
    rng = np.random.default_rng([7, step])
    tokens_BL = rng.integers(2, builders.MODEL.vocab_size, (rows, length + 1)).astype(np.int32)
    end_B1 = rng.integers(length // 2, length + 1, (rows, 1))
    start_B1 = rng.integers(1, 4, (rows, 1))
    column_1L = np.arange(length)[None]
    return Batch(
        tokens_BL=tokens_BL[:, :-1],
        targets_BL=tokens_BL[:, 1:],
        weights_BL=((column_1L >= start_B1) & (column_1L < end_B1)).astype(np.float32),
        segments_BL=(column_1L < end_B1).astype(np.int32),
    )


def fresh_state(mesh):
    params = builders.for_training(builders.MODEL, mesh, builders.params())
    return optimizer.init_state(builders.MODEL, ADAM, mesh, params)


def trained(mesh, state=None, *, first=0, steps=20, every=100, **settings):
    """All that `fit` yields, the states on the host: the next step gives the arrays up."""
    state = fresh_state(mesh) if state is None else state
    steps = fit(
        builders.MODEL, ADAM, SCHEDULE, state, batch_at,
        mesh=mesh, first=first, steps=steps, every=every, **settings,
    )  # fmt: skip
    return [(jax.device_get(state), progress) for state, progress in steps]


# Batches.


def test_an_example_becomes_the_rows_drawn_in_the_docstring():
    data, too_long = encode(
        builders.WORDS,
        [Example("Ann has 3", "# 3 .", "train/0")],
        max_prompt_tokens=4,
        max_tokens=5,
    )
    ann, has, three, stop, mark = (WORD[word] for word in ("Ann", "has", "3", ".", "#"))
    end, pad = builders.WORDS.end_id, builders.WORDS.pad_id
    assert not too_long
    rows = data.rows
    assert rows.tokens_BL.tolist() == [[ann, has, three, mark, three, stop, pad, pad]]
    assert rows.targets_BL.tolist() == [[has, three, mark, three, stop, end, pad, pad]]
    assert rows.weights_BL.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]]
    assert rows.segments_BL.tolist() == [[1, 1, 1, 1, 1, 1, 0, 0]]


def test_the_longest_text_fits_exactly_and_one_token_more_does_not():
    texts = [Example("3 3 3", ". . .", "fits"), Example("3 3 3 3", ".", "prompt")]
    texts += [Example("3", ". . . .", "response"), Example("3", "", "empty")]
    data, too_long = encode(builders.WORDS, texts, max_prompt_tokens=3, max_tokens=4)
    assert too_long == [TooLong(4, 2, "prompt"), TooLong(1, 5, "response")]
    assert data.rows.weights_BL.tolist() == [[0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]]
    assert data.rows.targets_BL[1, 0] == builders.WORDS.end_id
    message = too_long_message(too_long, 4, max_prompt_tokens=3, max_tokens=4)
    assert message.startswith("2 of 4 training texts are too long, such as that of 'prompt'")
    assert "generate.max_prompt_tokens=4 and generate.max_tokens=5" in message


def test_take_cuts_the_rows_of_one_step():
    texts = [Example(f"{number}", "#", str(number)) for number in range(5)]
    data, _ = encode(builders.WORDS, texts, max_prompt_tokens=2, max_tokens=2)
    batch = data.take(np.array([4, 0, 4]))
    first = [builders.WORDS.encode(word)[0] for word in ("4", "0", "4")]
    assert batch.tokens_BL[:, 0].tolist() == first
    assert len(data) == 5 and batch.weights_BL.shape == (3, 3)


@pytest.mark.parametrize(("longest", "length"), [(1, 128), (128, 128), (129, 256), (300, 300)])
def test_columns_that_are_padding_in_all_rows_are_cut(longest, length):
    words = [" ".join(["3"] * count) for count in (longest, 1)]
    texts = [Example(prompt, "", str(row)) for row, prompt in enumerate(words)]
    data, _ = encode(builders.WORDS, texts, max_prompt_tokens=longest, max_tokens=301 - longest)
    whole = data.take(np.array([0, 1]))
    batch = cut_padding(whole)
    for before, after in zip(jax.tree.leaves(whole), jax.tree.leaves(batch), strict=True):
        np.testing.assert_array_equal(after, before[:, :length])
    assert not whole.segments_BL[:, length:].any()


@pytest.mark.parametrize(("rows", "batch"), [(7, 3), (3, 7), (8, 4), (1, 2), (5, 5)])
def test_every_pass_takes_every_row_once(rows, batch):
    steps = range(4 * rows)
    places = np.concatenate([row_order(rows, batch, step, (3, 1)) for step in steps])
    passes = places.reshape(-1, rows)
    assert (np.sort(passes, axis=1) == np.arange(rows)[None]).all()
    if rows > 4:
        assert len({tuple(one) for one in passes.tolist()}) > 1


def test_order_is_a_function_of_seeds_and_step_alone():
    forward = [row_order(20, 6, step, (3, 1)).tolist() for step in range(10)]
    backward = [row_order(20, 6, step, (3, 1)).tolist() for step in reversed(range(10))]
    assert forward == backward[::-1]
    assert (
        row_order(20, 6, 2, (3, 2)).tolist() != forward[2] != row_order(20, 6, 2, (4, 1)).tolist()
    )


# Losses.


def plain_loss(logits_BLV, batch):
    """Mean cross-entropy of the weighted targets, in f64, token by token."""
    logits_BLV = np.asarray(logits_BLV, np.float64)
    total = weight = 0.0
    for place in zip(*np.nonzero(batch.weights_BL), strict=True):
        row_V = logits_BLV[place]
        cross_entropy = np.log(np.exp(row_V - row_V.max()).sum()) + row_V.max()
        cross_entropy -= row_V[batch.targets_BL[place]]
        total += batch.weights_BL[place] * cross_entropy
        weight += batch.weights_BL[place]
    return total / weight


def test_response_loss_is_that_of_the_forward_pass():
    batch, params = batch_at(1), builders.params()
    forward = jax.jit(model.forward, static_argnums=0)
    logits_BLV = forward(builders.MODEL, params, batch.tokens_BL, batch.segments_BL)
    got = loss_of(builders.MODEL, params, batch)
    assert_near(got, plain_loss(logits_BLV, batch), DEPTH)


def test_the_loss_does_not_read_the_padding_that_is_cut():
    texts = [Example("Ann has 3", "# 3 .", "short"), Example("3", "# 3", "shorter")]
    data, _ = encode(builders.WORDS, texts, max_prompt_tokens=100, max_tokens=101)
    whole = data.take(np.array([0, 1]))
    batches = (whole, cut_padding(whole))
    losses = [loss_of(builders.MODEL, builders.params(), batch) for batch in batches]
    assert batches[0].tokens_BL.shape[1] > batches[1].tokens_BL.shape[1]
    assert_near(*losses, depth_of_forward(builders.MODEL, 201))


def test_padding_and_prompt_targets_do_not_count():
    batch, params = batch_at(2), builders.params()
    changed = dataclasses.replace(
        batch,
        targets_BL=np.where(batch.weights_BL > 0, batch.targets_BL, 9),
        tokens_BL=np.where(batch.segments_BL > 0, batch.tokens_BL, 9),
    )
    losses = [loss_of(builders.MODEL, params, each) for each in (batch, changed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_vocabulary_padding_changes_no_loss_and_gets_no_gradient():
    batch = batch_at(3)
    padded = model.pad_vocab(builders.MODEL, builders.params(), 512)
    # Padding is zero where training starts; whatever it were, it would not count.
    noisy = model.pad_vocab(builders.MODEL, builders.params(), 512)
    noisy["embedding"] = noisy["embedding"].at[builders.MODEL.vocab_size :].set(3.0)
    loss, _ = value_and_grad(builders.MODEL, builders.params(), batch)
    for params in (padded, noisy):
        other, gradient = value_and_grad(builders.MODEL, params, batch)
        assert_near(other, loss, DEPTH)
        assert not np.any(gradient["embedding"][builders.MODEL.vocab_size :])


# The optimizer.


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Schedule(2.0, 2, 7, 0.5), {0: 1.0, 1: 2.0, 2: 2.0, 3: 1.75, 6: 1.0, 100: 1.0}),
        (Schedule(2.0, 0, 6, 1.0), {0: 2.0, 3: 2.0, 100: 2.0}),
        (Schedule(2.0, 4, 4, 1.0), {0: 0.5, 1: 1.0, 3: 2.0, 9: 2.0}),
        (Schedule(2.0, 0, 1, 0.5), {0: 2.0, 1: 1.0}),
        (Schedule(2.0, 1, 6, 0.5, "cosine"), {0: 2.0, 1: 2.0, 2: 1.853553, 3: 1.5, 5: 1.0, 9: 1.0}),
    ],
)
def test_schedule_values(schedule, rates):
    assert {step: float(schedule(step)) for step in rates} == pytest.approx(rates)


def test_the_schedule_falls_in_a_line():
    schedule = Schedule(1.0, 5, 25, 0.2)
    rates = np.array([schedule(step) for step in range(25)])
    assert (np.diff(rates[:5]) > 0).all()
    np.testing.assert_allclose(np.diff(rates[5:], 2), 0.0, atol=1e-6)
    assert rates[4] == rates[5] == 1.0 and rates[-1] == pytest.approx(0.2)


def adamw_by_hand(params, gradients, adam, rates):
    """AdamW in f64: clip by the global norm, moments with bias correction, decoupled decay."""
    first = second = dict.fromkeys(params, 0.0)
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in gradient.values()))
        clip = min(1.0, adam.clip_norm / norm)
        clipped = {name: clip * value for name, value in gradient.items()}
        first = {n: adam.b1 * first[n] + (1 - adam.b1) * g for n, g in clipped.items()}
        second = {n: adam.b2 * second[n] + (1 - adam.b2) * g**2 for n, g in clipped.items()}
        for name in params:
            mean = first[name] / (1 - adam.b1**step)
            square = second[name] / (1 - adam.b2**step)
            update = mean / (np.sqrt(square) + adam.epsilon) + adam.weight_decay * params[name]
            params = {**params, name: params[name] - rate * update}
    return params


@pytest.mark.parametrize("clip_norm", [0.5, 1e9])
def test_two_steps_are_adamw_by_hand(clip_norm):
    adam = dataclasses.replace(ADAM, clip_norm=clip_norm)
    rng = np.random.default_rng(1)
    params = {name: rng.standard_normal((3, 4)).astype(np.float32) for name in "ab"}
    gradients = [{name: rng.standard_normal((3, 4)) for name in "ab"} for _ in range(2)]
    state, got = optimizer.make(adam, 0.0).init(params), params
    for gradient, rate in zip(gradients, (1e-3, 2e-3), strict=True):
        transform = optimizer.make(adam, rate)
        updates, state = transform.update(jax.tree.map(jnp.float32, gradient), state, got)
        got = jax.tree.map(lambda value, change: value + change, got, updates)
    expected = adamw_by_hand(params, gradients, adam, [1e-3, 2e-3])
    for name in params:
        assert_near(got[name], expected[name], 24)  # the norm of two tensors of 12


@pytest.mark.slow
def test_a_train_step_applies_the_gradient_of_the_loss():
    mesh, batch = builders.mesh(), batch_at(0)
    value, gradient = value_and_grad(builders.MODEL, builders.params(), batch)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(gradient)]
    flat = [dict(zip(names, map(np.asarray, jax.tree.leaves(tree)), strict=True))
            for tree in (builders.params(), gradient)]  # fmt: skip
    expected = adamw_by_hand(flat[0], flat[1:], ADAM, [1e-3])
    state, measured = train_step(builders.MODEL, ADAM, fresh_state(mesh), batch, 1e-3)
    norm = np.sqrt(sum((value**2).sum() for value in flat[1].values()))
    assert_near(measured["loss"], value, DEPTH)
    assert_near(measured["grad_norm"], norm, DEPTH)
    for name, got in zip(names, jax.tree.leaves(state.params), strict=True):
        assert_near(got, expected[name], DEPTH, message=name)
    assert optimizer.steps_done(state) == 1


def test_moments_lie_where_their_parameters_lie():
    state = fresh_state(builders.mesh(2, 2, 2))
    places = {leaf.sharding.spec for leaf in jax.tree.leaves(state.params)}
    assert len(places) > 3

    def is_adam(part):
        return hasattr(part, "mu")

    (adam,) = filter(is_adam, jax.tree.leaves(state.optimizer, is_leaf=is_adam))
    for moments in (adam.mu, adam.nu):
        assert jax.tree.map(lambda leaf: leaf.sharding, moments) == jax.tree.map(
            lambda leaf: leaf.sharding, state.params
        )


# The loop.


@pytest.fixture(scope="module")
def uninterrupted():
    return trained(builders.mesh())


@pytest.mark.slow
def test_sharded_training_equals_unsharded(uninterrupted):
    (alone, progress), (spread, other) = uninterrupted[-1], trained(builders.mesh(2, 2, 2))[-1]
    assert_near(other.loss, progress.loss, 20 * DEPTH)
    spread = model.cut_vocab(builders.MODEL, spread)
    assert_tensors_near(spread, alone, 20 * DEPTH)
    start = jax.tree.leaves(builders.params())
    moved = [
        np.linalg.norm(a - b) for a, b in zip(jax.tree.leaves(alone.params), start, strict=True)
    ]
    assert min(moved) > 1e-3


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_training_goes_on_to_the_same_bits(uninterrupted, stop):
    mesh = builders.mesh()
    saved, progress = trained(mesh, steps=stop)[-1]
    assert progress.step == stop
    like = fresh_state(mesh)
    state = jax.tree.map(lambda value, place: jax.device_put(value, place.sharding), saved, like)
    resumed, _ = trained(mesh, state, first=stop)[-1]
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted[-1][0])


def test_progress_says_what_happened(uninterrupted):
    reports = [progress for _, progress in trained(builders.mesh(), steps=8, every=3)]
    assert [progress.step for progress in reports] == [3, 6, 8]
    spans = [range(3), range(3, 6), range(6, 8)]
    tokens = [sum(int(batch_at(step).weights_BL.sum()) for step in span) for span in spans]
    assert [progress.tokens for progress in reports] == tokens
    rates = [SCHEDULE(step) for step in (2, 5, 7)]
    assert [progress.learning_rate for progress in reports] == pytest.approx(rates)
    assert all(progress.seconds > 0 and progress.grad_norm > 0 for progress in reports)


def test_schedules_share_one_program(uninterrupted):
    programs = train_step._cache_size()
    mesh = builders.mesh()
    for schedule in (Schedule(1e-3, 0, 5, 1.0), Schedule(2e-3, 2, 9, 0.0)):
        steps = fit(
            builders.MODEL, ADAM, schedule, fresh_state(mesh), batch_at,
            mesh=mesh, first=0, steps=3, every=1,
        )  # fmt: skip
        assert [progress.learning_rate for _, progress in steps] == list(map(schedule, range(3)))
    assert train_step._cache_size() == programs


def test_the_schedule_goes_by_the_steps_that_the_optimizer_has_seen():
    mesh = builders.mesh()
    saved, _ = trained(mesh, steps=5)[-1]
    state = jax.tree.map(
        lambda value, like: jax.device_put(value, like.sharding), saved, fresh_state(mesh)
    )
    (_, progress) = trained(mesh, state, steps=2)[-1]
    assert progress.step == 2 and progress.learning_rate == SCHEDULE(6)


def test_an_urgent_report_comes_at_once():
    asked = iter([False, True, False, False, True, False])
    reports = trained(builders.mesh(), steps=6, urgent=lambda: next(asked))
    assert [progress.step for _, progress in reports] == [2, 5, 6]


def test_a_phase_that_is_over_yields_nothing():
    assert trained(builders.mesh(), first=20) == []


def test_a_loss_that_is_not_finite_stops_with_its_step():
    mesh = builders.mesh()
    state = fresh_state(mesh)
    broken = {**state.params, "embedding": state.params["embedding"].at[5, 0].set(jnp.nan)}
    with pytest.raises(
        UserError, match="loss is nan at optimizer step 1; .*lower the learning rate"
    ):
        trained(mesh, TrainState(broken, state.optimizer), every=1)


def test_training_learns():
    state, schedule = fresh_state(builders.mesh()), Schedule(1e-2, 0, 60, 1.0)
    before = loss_of(builders.MODEL, state.params, batch_at(0))
    ((_, last),) = fit(
        builders.MODEL, ADAM, schedule, state, lambda step: batch_at(0),
        mesh=builders.mesh(), first=0, steps=60, every=60,
    )  # fmt: skip
    assert last.loss < 0.3 * before


# What a process model learns from.


def test_every_token_of_a_step_has_the_steps_label():
    words = builders.WORDS
    text = "8 - 3 = 5 . 5 + 4 = 9 . # 9"
    examples = [
        StepExample("Ann has 3", text, (11, 23, 27), (0.25, 0.5, 1.0), "a"),
        StepExample("Ann", "# 9", (3,), (0.0,), "b"),
        StepExample("Ann", f"{text} {text}", (55,), (0.0,), "c"),
    ]
    data, too_long = encode_steps(words, examples, max_prompt_tokens=4, max_tokens=16)
    assert [each.source for each in too_long] == ["c"]
    rows = data.rows
    prompt, drawn = words.encode("Ann has 3"), words.encode(text)
    assert (len(prompt), len(drawn)) == (3, 14)
    np.testing.assert_array_equal(rows.tokens_BL[0], [*prompt, *drawn, *[words.pad_id] * 3])
    np.testing.assert_array_equal(
        rows.labels_BL[0], [0.0] * 3 + [0.25] * 6 + [0.5] * 6 + [1.0] * 2 + [0.0] * 3
    )
    np.testing.assert_array_equal(rows.weights_BL[0], [0] * 3 + [1] * 14 + [0] * 3)
    np.testing.assert_array_equal(rows.language_BL[0], [0] * 2 + [1] * 14 + [0] * 4)
    assert not rows.language_BL[1].any()
    np.testing.assert_array_equal(rows.segments_BL[0], [1] * 17 + [0] * 3)
    np.testing.assert_array_equal(rows.weights_BL[1], [0] + [1] * 2 + [0] * 17)
    assert not rows.labels_BL[1].any()
    ends, _ = encode_steps(words, examples, max_prompt_tokens=4, max_tokens=16, ends_only=True)
    assert np.flatnonzero(ends.rows.weights_BL[0]).tolist() == [8, 14, 16]
    np.testing.assert_array_equal(ends.rows.labels_BL, rows.labels_BL)


def test_binary_cross_entropy():
    rng = np.random.default_rng(0)
    shape = (3, 5)
    values_BL, labels_BL = rng.normal(0, 3, shape), rng.random(shape)
    weights_BL = rng.integers(0, 2, shape).astype(float)
    weights_BL[0, 0] = 1
    p = 1 / (1 + np.exp(-values_BL))
    cross_entropy = -(labels_BL * np.log(p) + (1 - labels_BL) * np.log(1 - p))
    weights_BL /= weights_BL.sum()
    wide = [jnp.asarray(array, jnp.float32) for array in (values_BL, labels_BL, weights_BL)]
    expected = (cross_entropy * weights_BL).sum()
    assert_near(binary_cross_entropy(*wide), expected, values_BL.size)
    zero = binary_cross_entropy(jnp.zeros(shape), *wide[1:])
    assert_near(zero, np.log(2), values_BL.size)
    huge = binary_cross_entropy(jnp.full(shape, 1e4), jnp.ones(shape), jnp.ones(shape))
    assert float(huge) == 0.0


@pytest.mark.slow
def test_the_language_of_right_responses_is_learnt_beside_the_labels():
    """The joint loss is the sum of the two that are known alone."""
    words = builders.WORDS
    right = StepExample("Ann has 3", "8 - 3 = 5 . # 5", (11, 15), (0.25, 1.0), "a")
    wrong = StepExample("Bob", "8 - 3 = 5 . # 9", (11, 15), (0.25, 0.0), "b")
    limits = {"max_prompt_tokens": 4, "max_tokens": 12}
    data, _ = encode_steps(words, [right, wrong], **limits)
    config = dataclasses.replace(builders.MODEL, scalar_head=True)
    params = builders.params(config)

    def loss(rows, weight):
        batch = jax.tree.map(jnp.asarray, data.take(np.array(rows)))
        return float(step_loss(config, params, batch.normalized(), language_weight=weight))

    text, _ = encode(words, [Example(right.prompt, right.response, "a")], **limits)
    batch = text.take(np.array([0]))
    # End-of-text is not scored.
    end = int(batch.weights_BL[0].nonzero()[0][-1])
    batch.weights_BL[0, end] = 0
    language = float(loss_of(builders.MODEL, builders.params(), batch))
    for rows in ([0], [0, 1]):
        assert_near(loss(rows, 0.5), loss(rows, 0.0) + 0.5 * language, DEPTH)
    assert loss([1], 0.5) == loss([1], 0.0)
