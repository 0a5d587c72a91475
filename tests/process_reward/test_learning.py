"""The process model of a run: labels from continuations, learnt once, resumed anywhere."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from bstar_jax.config import Preempted, PrmConfig, SftConfig, UserError
from bstar_jax.phases.monitor import evaluate, monitor
from bstar_jax.phases.training import check_inputs, warm_up
from bstar_jax.process_reward import labels, learning
from bstar_jax.process_reward.evaluation import evaluate_model
from bstar_jax.records import Rollouts
from bstar_jax.run.collect import Collector
from bstar_jax.training.batches import row_order
from tests.phases.test_phases import CONFIG, opened

LEARNT = CONFIG.changed(
    {
        "sft": SftConfig(steps=0, warmup_steps=0, examples=64),
        "prm": PrmConfig(
            enabled=True, queries=16, responses=2, completer_steps=4, continuations=3, heldout=4,
            steps=8, batch=8, warmup_steps=0, score_batch=32,
        ),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A run directory whose process model has been learnt from a random policy."""
    directory = tmp_path_factory.mktemp("learnt") / "run"
    with opened(directory, LEARNT) as run:
        learn(run)
    return directory


def learn(run, state=()):
    """Learns the process reward, after a warm-up unless a state is given."""
    if state == ():
        state = warm_up(run.config, run.task, run.workspace, run.policy)
    learning.learn_process_reward(
        run.config, run.task, run.workspace, run.process_reward, run.grader, run.collecting, state
    )


def beginnings(run):
    return functools.partial(labels.beginnings, run.process_reward)


def continued_queries(run, responses):
    tokenizer, longest = run.policy.tokenizer, run.config.generate.max_tokens
    return labels.continued_queries(run.task, tokenizer, beginnings(run), responses, longest)


def label(run, responses, continued):
    return labels.label(run.workspace.console, beginnings(run), responses, continued)


def model_of(directory):
    with opened(directory, LEARNT) as run:
        return jax.device_get(run.process_reward.load().params)


def equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_labels_are_shares_of_continuations_and_the_answers_own_grade(learnt):
    with opened(learnt, LEARNT) as run:
        queries = labels.labelling_queries(run.config, run.task)[0][:2]
        texts = ["8 - 3 = 5 . 5 + 4 = 9 . # 9", "8 - 3 = 5 . # 9", "", "# 1"]
        ids = [queries[0].query_id] * 2 + [queries[1].query_id] * 2
        responses = Rollouts.from_columns(
            {"query_id": ids, "response": texts, "correct": [True, False, False, True]}
        )
        begun = continued_queries(run, responses)
        assert [query.prefix for query in begun] == ["8 - 3 = 5 .", "8 - 3 = 5 . 5 + 4 = 9 ."]
        assert {query.reference for query in begun} == {queries[0].reference}
        continued = Rollouts.from_columns(
            {
                "query_id": [begun[0].query_id] * 4 + [begun[1].query_id] * 4,
                "correct": [True, False, False, False] + [True] * 4,
            }
        )
        labelled = label(run, responses, continued)
        assert labelled.column("response") == [texts[0], texts[1], texts[3]]
        assert labelled.column("step_rewards") == [[-0.5, 1.0, 1.0], [-0.5, -1.0], [1.0]]
        assert labelled.column("process_reward") == [-0.5, -1.0, 1.0]


@pytest.mark.slow
def test_a_step_at_the_length_limit_is_left_out_and_counted(learnt, monkeypatch):
    notes = []
    with opened(learnt, LEARNT) as run:
        monkeypatch.setattr(run.workspace.console, "warn", notes.append)
        query_id = labels.labelling_queries(run.config, run.task)[0][0].query_id
        long = " ".join(["1 + 1 = 2 ."] * 9)
        responses = Rollouts.from_columns(
            {"query_id": [query_id], "response": [f"{long} # 2"], "correct": [False]}
        )
        assert max(len(query.prefix) for query in continued_queries(run, responses)) < len(long)
        continued = Rollouts.from_columns({"query_id": [], "correct": []})
        assert len(label(run, responses, continued)) == 0
        assert len(notes) == 1 and "1 of 1 responses have no step" in notes[0]


@pytest.mark.slow
def test_what_is_left_behind(learnt):
    rows = Rollouts.read(learnt / "iterations/0000/prm.parquet")
    assert 0 < len(rows) <= 20 * 2
    rewards = np.concatenate(rows.column("step_rewards"))
    assert set(np.round((rewards + 1) / 2 * 3, 4)) <= {0.0, 1.0, 2.0, 3.0}
    figures = json.loads((learnt / "iterations/0000/prm.json").read_text())
    assert sum(each["count"] for each in figures["calibration"]) == figures["steps"] > 0
    assert (learnt / "iterations/0000/prm.svg").read_text().startswith("<svg")
    assert not (learnt / "iterations/0000/partial").exists()
    with opened(learnt, LEARNT) as run:
        row = run.workspace.metrics.last(0, "prm")
        assert row["step_accuracy"] == figures["step_accuracy"]
        heldout = {query.query_id for query in labels.labelling_queries(run.config, run.task)[1]}
        learnt_rows, judged_rows = learning.split_labelled(run.config, run.task, rows)
        assert set(judged_rows.column("query_id")) <= heldout
        assert not heldout & set(learnt_rows.column("query_id"))
        assert len(learnt_rows) + len(judged_rows) == len(rows)


@pytest.mark.slow
def test_a_model_that_stands_is_not_learnt_again(learnt):
    before = model_of(learnt)
    with opened(learnt, LEARNT) as run:
        learn(run, None)
    equal(model_of(learnt), before)


@pytest.mark.slow
def test_learning_stops_anywhere_and_goes_on_to_the_same_bits(learnt, tmp_path):
    with opened(tmp_path, LEARNT) as run:
        state = warm_up(run.config, run.task, run.workspace, run.policy)
        run.workspace.stop.is_set = True
        stops = 0
        while not run.workspace.path(0, "prm.json").exists():
            try:
                learn(run, state)
            except Preempted:
                stops += 1
            run.workspace.stop.is_set = stops < 8
    assert stops == 8
    equal(model_of(tmp_path), model_of(learnt))
    ours, theirs = (
        Rollouts.read(directory / "iterations/0000/prm.parquet") for directory in (tmp_path, learnt)
    )
    assert ours.table == theirs.table


@pytest.mark.slow
def test_responses_are_scored_by_it_and_not_by_the_exact_check(learnt):
    with opened(learnt, LEARNT) as run:
        params = run.policy.checkpoints.restore_params(0)
        with run.collecting(params) as collect:
            figures = monitor(run.config, run.task, run.workspace, run.policy, collect, 0)
        rows = Rollouts.read(run.workspace.path(0, "monitor.parquet"))
        expected = run.process_reward.load().grade(rows)
        assert expected.column("process_reward") == rows.column("process_reward")
        assert expected.column("step_rewards") == rows.column("step_rewards")
        scores = [each for each in rows.column("process_reward") if each is not None]
        assert all(-1 < score < 1 for score in scores) and len(set(scores)) > len(scores) / 4
        with run.collecting(params) as collect:
            heldout = run.task.splits["heldout"]
            assert evaluate(run.config, run.task, collect, 0, heldout) == figures


@pytest.mark.slow
def test_training_rows_hold_the_labels_asked_for(learnt):
    with opened(learnt, LEARNT) as run:
        rows = Rollouts.read(run.workspace.path(0, "prm.parquet"))
        soft, hard = (
            learning.encoded(config, run.workspace.console, run.process_reward, rows)
            for config in (LEARNT, LEARNT.changed({"prm.labels": "hard"}))
        )
    soft, hard = (data.take(row_order(4, 4, 0, (0,))) for data in (soft, hard))
    np.testing.assert_array_equal(hard.labels_BL, soft.labels_BL > 0)
    np.testing.assert_array_equal(hard.weights_BL, soft.weights_BL)


@pytest.mark.slow
def test_too_few_queries_are_refused(learnt):
    with opened(learnt, LEARNT) as run:
        config = LEARNT.changed({"prm.queries": 1000})
        with pytest.raises(UserError, match="prm.queries is 1000, but the train split has 64"):
            check_inputs(config, run.task, run.policy.tokenizer)


@pytest.mark.slow
def test_nothing_to_learn_from_or_to_judge_by_is_refused(learnt):
    with opened(learnt, LEARNT) as run:
        rows = Rollouts.read(run.workspace.path(0, "prm.parquet"))
        heldout = {query.query_id for query in labels.labelling_queries(run.config, run.task)[1]}
        alone = rows.filter([query_id in heldout for query_id in rows.column("query_id")])
        with pytest.raises(UserError, match="0 for training and"):
            learning.split_labelled(run.config, run.task, alone)


@pytest.mark.slow
def test_responses_of_one_step_need_no_continuation(learnt, tmp_path, monkeypatch):
    with opened(learnt, LEARNT) as run:
        rows = Rollouts.read(run.workspace.path(0, "prm.parquet"))
    answers = rows.with_columns(response=["# 1"] * len(rows))
    calls = []

    def sampled(collector, queries, draws, keys, *, name="", **_):
        calls.append(len(queries))
        return answers if not name else Rollouts.concatenate([])

    monkeypatch.setattr(Collector, "__call__", sampled)
    with opened(tmp_path, LEARNT) as run:
        learn(run)
        stored = Rollouts.read(run.workspace.path(0, "prm.parquet"))
    assert calls == [20, 0]
    assert {len(rewards) for rewards in stored.column("step_rewards")} == {1}


@pytest.mark.slow
def test_the_last_row_says_how_long_each_part_took(learnt):
    with opened(learnt, LEARNT) as run:
        row = run.workspace.metrics.last(0, "prm")
    names = ("completer", "sample", "grade", "train", "judge")
    parts = [row[f"{name}_seconds"] for name in names]
    assert all(seconds > 0 for seconds in parts)
    assert row["wall_seconds"] == pytest.approx(sum(parts))


@pytest.mark.slow
def test_judgement_of_a_model_that_is_always_right(learnt):
    """The exact check in the model's place tells all good responses from all bad ones."""
    with opened(learnt, LEARNT) as run:
        query = labels.labelling_queries(run.config, run.task)[0][0]
        texts = [query.solution, query.solution.replace("=", "+"), f"# {query.reference}"]
        rows = Rollouts.from_columns(
            {
                "query_id": [query.query_id] * 3,
                "prompt": [query.prompt] * 3,
                "response": texts,
                "finish_reason": ["stop"] * 3,
            }
        )
        rows = run.grader.grade_rollouts(rows, run.task.query_by_id)
        assert rows.column("correct") == [True] * 3
        perfect = dataclasses.make_dataclass("Perfect", [])()

        def exact(rows):
            return run.grader.grade_rollouts(rows, run.task.query_by_id)

        perfect.grade = exact
        figures = evaluate_model(perfect, run.grader, run.task, rows)
        assert (figures["exact_auc"], figures["exact_auc_correct"]) == (1.0, 1.0)
        assert figures["answer_auc"] is None  # no wrong answer among these
        perfect.grade = lambda rows: exact(rows).with_columns(process_reward=[0.0, 1.0, -1.0])
        assert evaluate_model(perfect, run.grader, run.task, rows)["exact_auc"] == 0.5


def test_a_run_without_one_has_none(tmp_path):
    with opened(tmp_path, CONFIG) as run:
        assert run.process_reward is None
