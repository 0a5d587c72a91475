"""Phases store what they did, and what is stored is never done again."""

import contextlib
import dataclasses
import io
import json
import signal

import jax
import numpy as np
import pytest

from bstar_jax import tasks
from bstar_jax.balance import Choice
from bstar_jax.config import (
    Config,
    MeshConfig,
    ModelConfig,
    Preempted,
    UserError,
    to_dict,
)
from bstar_jax.console import Console
from bstar_jax.phases import arrays
from bstar_jax.phases.calibrate import calibrate
from bstar_jax.phases.generate import generate, iteration_queries
from bstar_jax.phases.monitor import draws, evaluate, monitor
from bstar_jax.phases.opening import open_run, resolve_model
from bstar_jax.phases.run import compose_reward
from bstar_jax.phases.select import select
from bstar_jax.phases.training import check_inputs, warm_up
from bstar_jax.processes import StopRequest
from bstar_jax.records import Rollouts
from bstar_jax.run.checkpoints import SavePoint
from bstar_jax.run.collect import Collector
from bstar_jax.run.workspace import read_config
from bstar_jax.sampling import Draw, Keys
from tests import builders, tiny

CONFIG = tiny.GRID.changed({"mesh": MeshConfig(2, 2, 2), "log.tensorboard": False})
CHOICE = Choice(temperature=1.0, top_k=0, threshold=-10.0, process_weight=1.0)
KEYS = Keys(CONFIG.seed, 1, "generate")


@contextlib.contextmanager
def opened(directory, config=CONFIG, write=True):
    """A run as the main loop has it before its first phase."""
    console = Console(quiet=True, stderr=io.StringIO())
    with open_run(directory, config, console, write=write) as run:
        if write:
            check_inputs(run.config, run.task, run.policy.tokenizer)
            run.workspace.begin(run.config, run.policy)
        yield run


@pytest.fixture
def run(tmp_path):
    with opened(tmp_path / "run") as run:
        yield run


@contextlib.contextmanager
def collecting(run, weights):
    """A collector under weights on the sampling map."""
    reward = compose_reward(run.grader, None)
    with contextlib.closing(Collector(run.workspace, run.sampler, weights, reward)) as collect:
        yield collect


@pytest.fixture
def collect(run, params):
    with collecting(run, params) as collect:
        yield collect


@pytest.fixture(scope="module")
def params():
    """Parameters that nobody trained, where sampling wants them."""
    config = dataclasses.replace(CONFIG.model, vocab_size=builders.WORDS.vocab_size)
    return builders.for_sampling(config, builders.mesh(2, 2, 2), builders.params(config))


# A run is opened.


def test_a_new_run_says_what_it_is(run):
    record = json.loads((run.workspace.directory / "config.json").read_text())
    assert record.keys() == {"config", "versions", "devices", "revision", "fingerprints"}
    assert record["versions"]["jax"] == jax.__version__ and len(record["devices"]) == 8
    assert read_config(run.workspace.directory) == CONFIG
    assert run.policy.model == dataclasses.replace(CONFIG.model, vocab_size=50)
    assert (run.workspace.directory / "tokenizer" / "tokenizer.json").is_file()
    assert run.policy.tokenizer.fingerprint == builders.WORDS.fingerprint
    assert run.workspace.iterations_left(2) == [0, 1, 2]


def test_a_directory_serves_one_writer_and_any_reader(run):
    in_use = pytest.raises(UserError, match="is in use by another process")
    with in_use, opened(run.workspace.directory):
        pass
    with opened(run.workspace.directory, write=False) as reader:
        assert reader.workspace.iterations_left(2) == [0, 1, 2]


def test_a_directory_is_let_go_of_when_a_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), opened(tmp_path):
        _ = 1 / 0
    with opened(tmp_path) as run:
        assert run.config == CONFIG


def test_another_config_is_refused_and_the_stored_one_stays(tmp_path):
    with opened(tmp_path):
        pass
    other = CONFIG.changed({"seed": 1})
    with pytest.raises(UserError, match="seed: the run has 0, given 1"), opened(tmp_path, other):
        pass
    assert read_config(tmp_path) == CONFIG
    relaxed = CONFIG.changed({"log.every": 1})
    with opened(tmp_path, relaxed):
        assert read_config(tmp_path) == relaxed


def test_a_reader_changes_nothing(tmp_path):
    with opened(tmp_path):
        pass
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with opened(tmp_path, CONFIG.changed({"seed": 1}), write=False) as run:
        assert run.config.seed == 1
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh": MeshConfig(3, 1, 1)}, "sizes must multiply to 8"),
        ({"mesh": MeshConfig(1, 1, 8)}, "model.heads is 4, but mesh.tensor is 8"),
        ({"sft.batch": 30}, "sft.batch is 30, but .* = 4 devices"),
        ({"improve.batch": 9}, "improve.batch is 9, but .* nearest that divides is 8"),
        ({"model.vocab_size": 20}, "model.vocab_size is 20, but the tokenizer has 50 tokens"),
    ],
)
def test_what_cannot_work_stops_before_anything_is_written(tmp_path, change, message):
    config = CONFIG.changed(change)
    with pytest.raises(UserError, match=message), opened(tmp_path / "run", config):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generate.queries": 65}, "generate.queries is 65, but the train split has 64"),
        ({"generate.max_prompt_tokens": 12}, "has 1. tokens, more than .*max_prompt_tokens=12"),
        ({"generate.max_tokens": 6}, "training texts are too long.*generate.max_tokens="),
        (
            {"generate.rationalize": True, "generate.max_prompt_tokens": 22},
            "with its hint' has .* tokens, more than generate.max_prompt_tokens=22",
        ),
    ],
)
def test_what_would_stop_the_run_in_an_hour_stops_it_now(tmp_path, changes, message):
    with pytest.raises(UserError, match=message), opened(tmp_path, CONFIG.changed(changes)):
        pass
    assert not (tmp_path / "config.json").exists()


def test_a_model_may_have_more_rows_than_the_tokenizer_has_tokens():
    assert resolve_model(ModelConfig(vocab_size=64), builders.WORDS).vocab_size == 64
    assert resolve_model(ModelConfig(), builders.WORDS).vocab_size == 50


def test_a_folder_without_a_run_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no run: there is no .*config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="config.json is not a run's config"):
        read_config(tmp_path)


def test_sigterm_is_noticed_where_the_state_is_whole():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    stop.listen()
    try:
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set
        with pytest.raises(Preempted, match="the same command continues from here"):
            stop.check()
    finally:
        signal.signal(signal.SIGTERM, before)


# Units of sampling.


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


@pytest.mark.slow
def test_stored_units_are_read_and_missing_ones_made_again(run, collect):
    queries, draws = run.task.splits["train"][:14], [Draw(1.0, 0, 8)]
    first = collect(queries, draws, KEYS)
    folder = run.workspace.path(1, "partial")
    before = stamps(folder)
    assert len(before) == 4
    lost = sorted(before)[2]
    (folder / lost).unlink()
    (folder / f"{lost}.tmp").write_bytes(b"torn")
    again = collect(queries, draws, KEYS)
    assert again.table.equals(first.table)
    after = stamps(folder)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == [lost]
    assert again.column("query_id") == [query.query_id for query in queries for _ in range(8)]
    assert None not in again.column("reason") and not any(again.column("rationalized"))


@pytest.mark.slow
def test_a_stop_comes_after_a_unit_that_is_stored(run, collect):
    queries, draws = run.task.splits["train"][:12], [Draw(1.0, 0, 8)]
    run.workspace.stop.is_set = True
    for stored in (1, 2, 3):
        with pytest.raises(Preempted):
            collect(queries, draws, KEYS)
        assert len(stamps(run.workspace.path(1, "partial"))) == stored
    run.workspace.stop.is_set = False
    before = stamps(run.workspace.path(1, "partial"))
    assert len(collect(queries, draws, KEYS)) == 12 * 8
    assert stamps(run.workspace.path(1, "partial")) == before


@pytest.mark.slow
def test_a_resumed_generate_keeps_the_units_that_stand(run, collect):
    calibrate(run.config, run.task, run.workspace, collect, 1)
    run.workspace.stop.is_set = True
    with pytest.raises(Preempted):
        generate(run.config, run.task, run.workspace, collect, 1, CHOICE)
    run.workspace.stop.is_set = False
    before = stamps(run.workspace.path(1, "partial"))
    assert len(before) == 1
    calibrate(
        run.config, run.task, run.workspace, collect, 1
    )  # as a resume does, and it has nothing to do
    with contextlib.suppress(Preempted):
        run.workspace.stop.is_set = True
        generate(run.config, run.task, run.workspace, collect, 1, CHOICE)
    assert before.items() <= stamps(run.workspace.path(1, "partial")).items()


@pytest.mark.slow
def test_hints_never_reach_the_rows(run, collect):
    queries = run.task.splits["train"][:4]
    keys = dataclasses.replace(KEYS, phase="rationalize")
    rows = collect(queries, [Draw(1.0, 0, 1, first=8)], keys, hint=run.task.hint)
    assert rows.column("prompt") == [query.prompt for query in run.task.splits["train"][:4]]
    assert rows.column("rationalized") == [True] * 4
    assert rows.column("sample_index") == [8] * 4


# Phases.


@pytest.mark.slow
def test_calibrate_scores_the_grid_once(run, collect):
    choice = calibrate(run.config, run.task, run.workspace, collect, 1)
    rows = Rollouts.read(run.workspace.path(1, "calibrate.parquet"))
    assert len(rows) == 8 * 2 * 4
    stored = json.loads(run.workspace.path(1, "balance.json").read_text())
    assert stored["chosen"]["temperature"] == choice.temperature
    assert stored["queries"] == 8 and np.shape(stored["score"]) == (2, 1, 2, 1)
    in_cell = rows.array("temperature") == np.float32(choice.temperature)
    assert not rows.array("selected")[~in_cell].any()
    assert None not in rows.column("reward")
    before = run.workspace.path(1, "balance.json").read_bytes()
    run.workspace.path(1, "balance.json").unlink()
    assert (
        calibrate(run.config, run.task, run.workspace, None, 1) == choice
    )  # nothing is sampled again
    assert run.workspace.path(1, "balance.json").read_bytes() == before
    assert len([row for row in run.workspace.metrics.rows() if row["phase"] == "calibrate"]) == 1
    assert not run.workspace.path(1, "partial").exists()


def test_one_cell_is_its_own_choice_and_samples_nothing(tmp_path):
    config = CONFIG.changed({"calibrate": tiny.single_cell().calibrate})
    with opened(tmp_path, config) as run:
        assert calibrate(run.config, run.task, run.workspace, None, 1) == Choice(1.0, 0, -0.5, 1.0)
        row = run.workspace.metrics.last(1, "calibrate")
    assert row["temperature"] == 1.0 and row["balance_score"] is None
    assert not (tmp_path / "iterations").exists()


def test_blocks_of_a_permutation_use_every_query_before_any_twice(run):
    train_ids = {query.query_id for query in run.task.splits["train"]}
    blocks = [
        [query.query_id for query in iteration_queries(CONFIG, run.task, t)] for t in (1, 2, 3, 4)
    ]
    assert all(len(set(block)) == 32 for block in blocks)
    assert {*blocks[0], *blocks[1]} == {*blocks[2], *blocks[3]} == train_ids
    assert blocks[0] != blocks[2]
    assert blocks[0] == [query.query_id for query in iteration_queries(CONFIG, run.task, 1)]


def test_generate_may_take_all_queries(run):
    config = CONFIG.changed({"generate.queries": 0})
    assert iteration_queries(config, run.task, 1) == list(run.task.splits["train"])


def test_a_closed_collector_samples_nothing(run, params):
    with collecting(run, params) as collect:
        pass
    with pytest.raises(RuntimeError, match="the collector is closed"):
        collect(run.task.splits["train"][:1], [Draw(1.0, 0, 1)], KEYS)


def graded(run, texts_by_query):
    """Rollouts of train queries: (text, correct, process reward, finish reason) each."""
    queries = run.task.splits["train"][: len(texts_by_query)]
    rows = [
        {
            "iteration": 1,
            "split": "train",
            "query_id": query.query_id,
            "sample_index": index,
            "temperature": 1.0,
            "top_k": 0,
            "prompt": query.prompt,
            "response": text,
            "num_tokens": 5,
            "finish_reason": reason,
            "answer": "1",
            "correct": correct,
            "reason": "correct" if correct else "wrong",
            "process_reward": process,
        }
        for query, texts in zip(queries, texts_by_query, strict=True)
        for index, (text, correct, process, reason) in enumerate(texts)
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Rollouts.from_columns(columns).with_seconds(sample=1.0, grade=1.0)


def test_select_keeps_distinct_finished_responses_above_the_threshold(run):
    rollouts = graded(
        run,
        [
            [
                ("# 1", True, 1.0, "stop"),
                (" # 1 ", True, 1.0, "stop"),  # a repeat
                ("# 2", False, 0.4, "stop"),  # reward 0.4
                ("# 3", True, -0.7, "stop"),  # reward 0.3, not above 0.3
            ],
            [("# 1", True, 1.0, "length"), ("# 4", False, -1.0, "stop")],
        ],
    )
    kept = select(
        run.config, run.task, run.workspace, 1, rollouts, dataclasses.replace(CHOICE, threshold=0.3)
    )
    assert kept.column("response") == ["# 1", "# 2"]
    stored = Rollouts.read(run.workspace.path(1, "generate.parquet"))
    assert stored.column("selected") == [True, False, True, False, False, False]
    assert stored.column("reward") == [2.0, 2.0, 0.4, 0.3, 2.0, -1.0]
    figures = run.workspace.metrics.last(1, "select")
    assert (figures["selected"], figures["queries_covered"]) == (2, 1)
    assert figures["correct_fraction"] == 0.5
    # n* = 4: one of two selected is correct, and the other query has none.
    assert figures["balance_score"] == pytest.approx((1 / 4 * 1 / 2 + 0) / 2)


def test_nothing_selected_is_an_error_with_its_remedy(run):
    rollouts = graded(run, [[("# 1", True, 1.0, "stop")]])
    with pytest.raises(UserError, match="selected none of 1 responses.*threshold 5.0; lower"):
        select(
            run.config,
            run.task,
            run.workspace,
            1,
            rollouts,
            dataclasses.replace(CHOICE, threshold=5.0),
        )


@pytest.mark.slow
def test_monitor_writes_rows_then_the_figures(run, collect):
    run.policy.checkpoints.save_params(
        0, jax.tree.map(np.asarray, builders.params(run.policy.model))
    )
    figures = monitor(run.config, run.task, run.workspace, run.policy, collect, 0)
    rows = Rollouts.read(run.workspace.path(0, "monitor.parquet"))
    assert len(rows) == 8 * (1 + 7)
    assert [(draw.temperature, draw.responses) for draw in draws(run.config)] == [
        (0.0, 1),
        (1.0, 7),
    ]
    assert {"pass@1", "pass@4", "pass@4-2", "best@4", "greedy"} <= figures.keys()
    assert run.workspace.metrics.last(0, "monitor")["greedy"] == figures["greedy"]
    assert run.workspace.iterations_left(2) == [1, 2]
    assert (
        monitor(run.config, run.task, run.workspace, run.policy, None, 0) == figures
    )  # from the rows that stand
    # Evaluation draws the same responses.
    assert evaluate(run.config, run.task, collect, 0, run.task.splits["heldout"]) == figures


# Training phases.


@pytest.mark.slow
def test_warm_up_stops_anywhere_and_goes_on_to_the_same_bits(tmp_path):
    config = CONFIG.changed({"sft.steps": 12})
    with opened(tmp_path / "whole", config) as run:
        whole = jax.device_get(warm_up(run.config, run.task, run.workspace, run.policy).params)
    with opened(tmp_path / "parts", config) as run:
        run.workspace.stop.is_set = True
        for step in (1, 2):
            with pytest.raises(Preempted):
                warm_up(run.config, run.task, run.workspace, run.policy)
            assert run.policy.checkpoints.save_point() == SavePoint(0, step)
        run.workspace.stop.is_set = False
        parts = jax.device_get(warm_up(run.config, run.task, run.workspace, run.policy).params)
        run.policy.checkpoints.wait()
        again = jax.device_get(warm_up(run.config, run.task, run.workspace, run.policy).params)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_warm_up_of_no_steps_is_the_random_start(tmp_path):
    config = CONFIG.changed({"sft.steps": 0, "sft.warmup_steps": 0})
    with opened(tmp_path, config) as run:
        got = jax.device_get(warm_up(run.config, run.task, run.workspace, run.policy).params)
        start = jax.device_get(run.policy.initial_params())
        run.policy.checkpoints.wait()
        assert (
            run.policy.checkpoints.iterations() == [0]
            and run.policy.checkpoints.save_point() is None
        )
    jax.tree.map(np.testing.assert_array_equal, got, start)


# Rows as arrays.


def test_groups_are_numbered_in_order_of_appearance():
    rows = Rollouts.from_columns({"query_id": ["b", "a", "b", "c"], "top_k": [0, 0, 1, 0]})
    assert arrays.group(rows, ["query_id"]).tolist() == [0, 1, 0, 2]
    assert arrays.group(rows, ["query_id", "top_k"]).tolist() == [0, 1, 2, 3]


def test_repeats_point_at_the_first_of_their_group():
    groups = np.array([0, 0, 1, 0, 1, 0])
    assert arrays.first_of_equal(groups, ["x", "y", "x", "x", "x", "y"]) == [0, 1, 2, 0, 2, 1]


def test_queries_with_unequal_rows_become_an_array_and_back():
    rng = np.random.default_rng(0)
    ids = rng.choice(["a", "b", "c"], 20)
    rows = Rollouts.from_columns({"query_id": ids.tolist()})
    values = rng.random(20)
    array_QN = arrays.query_shape(rows)(values, -1.0)
    assert array_QN.shape == (3, max(np.unique(ids, return_counts=True)[1]))
    assert (array_QN == -1.0).sum() == array_QN.size - 20
    np.testing.assert_array_equal(arrays.to_rows(rows, array_QN), values)


def test_grid_rows_become_temperature_top_k_query_sample():
    shape = (3, 2, 2, 4)  # queries, temperatures, top-k values, samples
    column = np.arange(np.prod(shape))
    array_TKQN = arrays.grid_shape(2, 2, 4)(column, None)
    assert array_TKQN.shape == (2, 2, 3, 4)
    for t, k, q, n in np.ndindex(2, 2, 3, 4):
        assert array_TKQN[t, k, q, n] == np.ravel_multi_index((q, t, k, n), shape)


def test_distinct_equations_tell_fewer_texts_apart():
    task = tasks.load("arithmetic", seed=0, sft_examples=1, calibration_queries=1,
                      heldout_queries=1, train_queries=1)  # fmt: skip
    responses = ["8 - 3 = 5 . # 5", " 8 - 3 = 5 . # 6", "3 + 5 = 8 . # 8"]
    query_id = task.splits["train"][0].query_id
    rows = Rollouts.from_columns({"query_id": [query_id] * 3, "response": responses})
    assert len(set(arrays.texts(task, rows, "text"))) == 3
    assert len(set(arrays.texts(task, rows, "equations"))) == 2


def test_the_config_of_a_run_is_json_all_the_way():
    assert json.loads(json.dumps(to_dict(Config()), allow_nan=False))
