"""Learnt process rewards: where steps end, what a score is, and that batches change nothing."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import model
from bstar_jax.answers.solution_steps import step_ends
from bstar_jax.process_reward import model as process
from bstar_jax.process_reward.model import (
    REDUCTIONS,
    ProcessRewardModel,
    StepText,
    with_scalar_head,
)
from bstar_jax.records import Rollouts
from bstar_jax.run.checkpoints import Checkpoints
from bstar_jax.sampling.weights import as_computed
from bstar_jax.tokenizer import tokens_at
from tests import builders
from tests.rounding import assert_near, depth_of_forward

pytestmark = pytest.mark.numerical

SCORED = dataclasses.replace(builders.MODEL, scalar_head=True)
DEPTH = depth_of_forward(SCORED, 64)  # the longest prompt with the longest response
PROMPT = "Eve has 8 . finds 4 . loses 3 . How many now?"
RESPONSES = [
    "8 - 3 = 5 . 5 + 4 = 9 . # 9",
    "8 - 3 = 5 . # 9",
    "# 9",
    "",
    "8 - 3 = 5 . 5 + 4 = 9 . 9 + 9 = 18 . 18 - 9 = 9 . 9 + 0 = 9 . # 9",
    "8 + 4 = 12 . 12 - 3",
]


def ends_of_story(query_id, response):
    return step_ends(response, ".", "#")


TEXTS = [StepText(PROMPT, response, tuple(ends_of_story("", response))) for response in RESPONSES]


def process_model(mesh=None, batch=4, **settings):
    params = builders.params(SCORED)
    if mesh:
        params = builders.for_sampling(SCORED, mesh, params)
    return ProcessRewardModel(
        SCORED,
        params,
        builders.WORDS,
        **{"step_ends": ends_of_story, "reduction": "min", **settings},
        batch=batch,
        mesh=mesh,
    )


@pytest.mark.parametrize(
    ("text", "separator", "marker", "steps"),
    [
        ("8 - 3 = 5 . 5 + 4 = 9 . # 9", ".", "#", ["8 - 3 = 5 .", " 5 + 4 = 9 .", " # 9"]),
        ("a\nb\n#### 3", "\n", "####", ["a\n", "b\n", "#### 3"]),
        ("a\n\nb\n\n# Answer\n\n3", "\n\n", "# Answer", ["a\n\n", "b\n\n", "# Answer\n\n3"]),
        ("a\n \n\nb", "\n", "####", ["a\n", " \n\nb"]),
        ("7 + 6 = 20 # 5", ".", "#", ["7 + 6 = 20", " # 5"]),
        ("no answer \n", "\n", "####", ["no answer \n"]),
        ("x # y", ".", "", ["x # y"]),
        ("# 9", ".", "#", ["# 9"]),
        ("", ".", "#", []),
        (" \n", "\n", "#", []),
    ],
)
def test_step_ends(text, separator, marker, steps):
    ends = step_ends(text, separator, marker)
    found = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert found == steps


def test_reductions():
    rewards = [0.5, -0.5, 0.0]
    assert REDUCTIONS["min"](rewards) == -0.5
    assert REDUCTIONS["last"](rewards) == 0.0
    assert REDUCTIONS["product"](rewards) == pytest.approx(2 * 0.75 * 0.25 * 0.5 - 1)


@pytest.mark.slow
def test_a_score_is_the_scalar_head_at_the_end_of_each_step():
    scores = process_model().score(TEXTS)
    given = builders.WORDS.encode_prompt(PROMPT)
    for response, rewards in zip(RESPONSES, scores, strict=True):
        ends = step_ends(response, ".", "#")
        assert len(rewards) == len(ends)
        if not response:
            continue
        tokens = jnp.asarray([[*given, *builders.WORDS.encode(response)]])
        hidden, decoder = model.forward_hidden(SCORED, builders.params(SCORED), tokens)
        values = np.asarray(decoder.values(hidden))[0]
        places = [len(given) + place for place in tokens_at(builders.WORDS, response, ends)]
        # A step ends in its full stop, which nothing after it can change.
        assert all(tokens[0, place] in builders.WORDS.encode(". 9 3") for place in places)
        assert_near(rewards, 2 / (1 + np.exp(-values[places])) - 1, DEPTH, size=1)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_change_no_score(batch):
    expected = process_model().score(TEXTS)
    got = process_model(batch=batch).score(TEXTS)
    for ours, theirs in zip(got, expected, strict=True):
        assert_near(ours, theirs, DEPTH, size=1)


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 2, 2), (1, 1, 2)])
def test_a_mesh_changes_no_score(shape):
    expected = process_model().score(TEXTS)
    ours = process_model(mesh=builders.mesh(*shape), batch=4)
    for got, theirs in zip(ours.score(TEXTS), expected, strict=True):
        assert_near(got, theirs, DEPTH, size=1)


def test_rollouts_get_rewards_and_nulls():
    rows = Rollouts.from_columns(
        {
            "query_id": ["train/0"] * 7,
            "prompt": [PROMPT] * 7,
            "response": [*RESPONSES, RESPONSES[0]],
        }
    )
    graded = process_model(reduction="last").grade(rows)
    steps, rewards = graded.column("step_rewards"), graded.column("process_reward")
    assert steps[0] == steps[6] and len(steps[0]) == 3
    assert (steps[3], rewards[3]) == (None, None)
    assert [each[-1] for each in steps if each] == [each for each in rewards if each is not None]
    assert all(-1 < each < 1 for each in rewards if each is not None)


def test_a_new_head_is_worth_nothing_and_changes_no_answer():
    mesh = builders.mesh(2, 2, 2)
    stored = builders.for_training(builders.MODEL, mesh, builders.params())
    config, params = with_scalar_head(builders.MODEL, stored, mesh)
    assert config == SCORED
    np.testing.assert_array_equal(params.pop("scalar"), np.zeros(SCORED.width))
    assert params.keys() == stored.keys()


def test_equal_texts_are_scored_once(monkeypatch):
    seen = []
    score = ProcessRewardModel.score
    monkeypatch.setattr(
        ProcessRewardModel, "score", lambda self, texts: seen.extend(texts) or score(self, texts)
    )
    rows = Rollouts.from_columns(
        {"query_id": ["a", "b"] * 2, "prompt": [PROMPT] * 4, "response": [RESPONSES[0]] * 4}
    )
    process_model().grade(rows)
    assert seen == [TEXTS[0]]


@pytest.mark.slow
def test_parameters_kept_as_they_are_computed_with_give_the_same_bits(tmp_path):
    config = dataclasses.replace(builders.MODEL, dtype="bfloat16", scalar_head=True)
    mesh = builders.mesh()
    params = builders.for_training(config, mesh, builders.params(config))
    params["scalar"] = jax.random.normal(jax.random.key(1), params["scalar"].shape)
    with contextlib.closing(Checkpoints(tmp_path, config, mesh)) as checkpoints:
        checkpoints.save_params(0, params)
        checkpoints.wait()
        small = checkpoints.restore_params(0, functools.partial(as_computed, config))
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(small)}
    assert kinds == {"bfloat16", "float32"}  # matrices, and norms
    tokens_BL = jnp.arange(24).reshape(2, 12) % 7 + 2
    with jax.set_mesh(mesh):
        got, expected = (
            process.step_rewards(config, part, tokens_BL, jnp.ones_like(tokens_BL))
            for part in (small, params)
        )
    assert np.ptp(expected) > 0.01
    np.testing.assert_array_equal(got, expected)
