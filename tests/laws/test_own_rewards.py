"""Whole runs with a task and a reward from outside: partial credit, and a reward that changes."""

import io
import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from bstar_jax.config import Preempted, UserError
from bstar_jax.console import Console
from bstar_jax.iterate import self_train
from bstar_jax.phases.opening import open_run
from bstar_jax.processes import StopRequest
from tests import tiny

pytestmark = pytest.mark.slow

OUTSIDE = pathlib.Path(__file__).parents[1] / "outside"
OWN = tiny.GRID.changed(
    {
        "task.reward": f"{OUTSIDE / 'rewards.py'}:share",
        "task.step_reward": f"{OUTSIDE / 'rewards.py'}:steps",
        "task.correct_at": 0.6,
        "loop.iterations": 1,
        "calibrate.thresholds": (0.1, 0.5, 0.8),
        "calibrate.process_weights": (0.0, 0.5),
        "log.tensorboard": False,
    }
)


def run(directory, config=OWN, **options):
    console = Console(quiet=True, stdout=io.StringIO(), stderr=io.StringIO())
    with open_run(directory, config, console, **options) as opened:
        self_train(opened)
        return opened.workspace.metrics.rows()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("own")
    return directory, run(directory)


def balance_of(rows, threshold, weight, wanted=4):
    """The balance score of rows of one cell, from stored columns alone: ten lines of Python."""
    kept = {}
    for row in sorted(rows, key=lambda row: row["sample_index"]):
        texts = kept.setdefault(row["query_id"], {})
        reward = round(row["score"] + weight * (row["process_reward"] or 0.0), 6)
        chosen = row["answer"] is not None and row["finish_reason"] == "stop"
        if row["response"].strip() not in texts:
            texts[row["response"].strip()] = (
                chosen and reward > threshold and row["correct"],
                (chosen and reward > threshold),
            )
    scores = []
    for texts in kept.values():
        right, every = (sum(values) for values in zip(*texts.values(), strict=True))
        scores.append(min(right / wanted, 1.0) * right / every if every else 0.0)
    return sum(scores) / len(scores)


def test_partial_credit_recomputes_from_what_is_stored(finished):
    directory, _ = finished
    folder = directory / "iterations/0001"
    rows = pq.read_table(folder / "calibrate.parquet").to_pylist()
    balance = json.loads((folder / "balance.json").read_text())
    axes = balance["axes"]
    assert {row["score"] for row in rows} <= {np.float32(score) for score in (1, 0.6, 0.25)}
    assert len({row["score"] for row in rows}) == 3
    for row in rows:
        assert row["correct"] == (round(row["score"], 6) >= 0.6)
    scored = {}
    for t, temperature in enumerate(axes["temperature"]):
        cell = [row for row in rows if row["temperature"] == np.float32(temperature)]
        for h, threshold in enumerate(axes["threshold"]):
            for w, weight in enumerate(axes["process_weight"]):
                score = balance["score"][t][0][h][w]
                scored[temperature, threshold, weight] = score
                assert score == pytest.approx(balance_of(cell, threshold, weight), abs=1e-6)
    chosen = balance["chosen"]
    assert chosen["balance_score"] == max(scored.values())
    made = pq.read_table(folder / "generate.parquet").to_pylist()
    for row in made:
        reward = row["score"] + chosen["process_weight"] * (row["process_reward"] or 0.0)
        assert row["reward"] == round(reward, 6)
        assert not row["selected"] or row["reward"] > chosen["threshold"]


def test_a_run_says_what_it_was_given(finished):
    directory, rows = finished
    record = json.loads((directory / "config.json").read_text())
    assert set(record["fingerprints"]) == {"data", "reward", "step_reward"}
    assert record["config"]["task"]["reward"] == f"{OUTSIDE / 'rewards.py'}:share"
    assert (directory / "code/rewards.py").read_bytes() == (OUTSIDE / "rewards.py").read_bytes()
    assert [row["errors"] for row in rows if "errors" in row] == [0, 0, 0, 0]


class StopAfter(StopRequest):
    """Asks to stop at a look, as SIGTERM does."""

    def __init__(self, looks):
        super().__init__()
        self.left = looks

    def check(self):
        self.left -= 1
        self.is_set = self.left < 0
        super().check()


def test_a_run_that_stops_grades_nothing_twice(tmp_path, monkeypatch):
    config = tiny.GRID.changed(
        {
            "task.reward": f"{OUTSIDE / 'rewards.py'}:counted",
            "task.check_reward": False,
            "sft.steps": 30,
            "generate.batch": 32,
            "loop.iterations": 1,
            "log.tensorboard": False,
        }
    )
    calls = {}
    for name in ("whole", "stopped"):
        monkeypatch.setenv("CALLS", str(tmp_path / f"{name}.calls"))
        if name == "stopped":
            with pytest.raises(Preempted):
                run(tmp_path / name, config, stop=StopAfter(5))
            assert list((tmp_path / name).glob("iterations/*/partial/*"))
        run(tmp_path / name, config)
        calls[name] = len((tmp_path / f"{name}.calls").read_text())
    assert calls["stopped"] == calls["whole"] > 100
    for file in ("calibrate.parquet", "generate.parquet", "monitor.parquet"):
        whole, stopped = (
            pq.read_table(tmp_path / name / "iterations/0001" / file) for name in calls
        )
        assert whole.equals(stopped), file


REWARD = """
from bstar_jax import Grade


def score(query, response, finish_reason):
    if BROKEN and sum(map(ord, response)) % 3 == 0:
        raise RuntimeError("the judge is away")
    right = response.rpartition("#")[2].strip() == query.reference
    return Grade(float(right), message=VERSION)
"""


def write_reward(file, version, *, broken):
    file.write_text(f"VERSION, BROKEN = {version!r}, {broken}\n{REWARD}")


def test_a_reward_that_breaks_is_mended_and_only_what_broke_is_graded_again(tmp_path):
    file = tmp_path / "judge.py"
    write_reward(file, "first", broken=True)
    config = tiny.GRID.changed(
        {
            "task.reward": f"{file}:score",
            "task.check_reward": False,
            "sft.steps": 30,
            "generate.batch": 32,
            "loop.iterations": 1,
            "log.tensorboard": False,
        }
    )
    directory = tmp_path / "run"
    with pytest.raises(UserError, match=r"(?s)rewards.most_errors allows 0.1.*the judge is away"):
        run(directory, config)
    (partial,) = directory.glob("iterations/*/partial")
    before = pq.ParquetDataset(partial).read().to_pylist()
    write_reward(file, "second", broken=False)
    with pytest.raises(UserError, match="the reward is not the one .* --accept=reward"):
        run(directory, config)
    with pytest.raises(UserError, match="--accept=rewards: it takes names of data, task, reward"):
        run(directory, config, accept=["rewards"])
    rows = run(directory, config, accept=["reward"])
    record = json.loads((directory / "config.json").read_text())
    assert record["accepted"] == [{"name": "reward", "iteration": 0}]
    after = pq.read_table(directory / "iterations/0000/monitor.parquet").to_pylist()
    graded = {(row["query_id"], row["sample_index"], row["temperature"]): row for row in after}
    broken = 0
    for row in before:
        now = graded[row["query_id"], row["sample_index"], row["temperature"]]
        assert now["response"] == row["response"]
        if row["score"] is None:
            broken += 1
            assert (now["message"], row["reason"]) == ("second", "error")
            assert "the judge is away" in row["message"]
        else:
            assert now == {**row, "reward": now["reward"]}
    assert 0 < broken < len(before)
    assert [row["errors"] for row in rows if row["phase"] == "monitor"] == [0, 0]


@pytest.mark.parametrize(
    ("reward", "finding"),
    [
        ("yes", "of junk 80 of 80 are correct"),
        ("no", r"of right responses \(solutions\) only 0 of"),
    ],
)
def test_a_reward_that_cannot_tell_right_from_junk_is_stopped_at_the_start(
    tmp_path, reward, finding
):
    config = tiny.GRID.changed({"task.reward": f"{OUTSIDE / 'rewards.py'}:{reward}"})
    with pytest.raises(UserError, match=f"(?s)fails its trial: {finding}.*check_reward=False"):
        run(tmp_path / "run", config)
    assert not (tmp_path / "run/iterations").exists()
