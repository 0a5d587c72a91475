"""The door that scores checkpoints: the run's own figures to the last digit, and its errors."""

import json
import pathlib
import subprocess
import sys

import pytest

from bstar_jax import evaluate
from bstar_jax.config import UserError
from bstar_jax.console import Console
from bstar_jax.phases.opening import open_run
from bstar_jax.run.journal import read_rows
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the tiny config on one device."""
    directory = tmp_path_factory.mktemp("evaluate") / "run"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bstar_jax.main",
            "--config=tests/tiny.py",
            f"--workdir={directory}",
            "--quiet",
            "--config.mesh.data=8",
            "--config.log.tensorboard=False",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


def scores(run, target, tmp_path, *flags):
    file = tmp_path / "scores.json"
    evaluate.main(["evaluate", str(target), f"--json={file}", "--quiet", *flags])
    return json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("iteration", [0, 1, 2])
def test_held_out_figures_are_those_of_the_run_to_the_last_digit(run, tmp_path, iteration):
    row = [row for row in read_rows(run / "metrics.jsonl") if row["phase"] == "monitor"][iteration]
    ours = scores(run, f"{run}@{iteration}", tmp_path)
    figures = {name: value for name, value in row.items() if "@" in name}
    assert len(figures) >= 6
    assert {name: ours[name] for name in figures} == figures
    assert (ours["greedy"], ours["diversity"]) == (row["greedy"], row["diversity"])


@pytest.mark.slow
def test_the_last_iteration_is_the_default_and_any_split_can_be_scored(run, tmp_path):
    before = sorted(path for path in run.rglob("*"))
    ours = scores(run, run, tmp_path, "--split=train", "--config.monitor.queries=5")
    assert (ours["iteration"], ours["split"], ours["queries"]) == (2, "train", 5)
    assert sorted(path for path in run.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "flags", "message"),
    [
        ("@9", (), "no checkpoint of iteration 9; there are \\[0, 1, 2\\]"),
        ("@x", (), "what follows @ is an iteration"),
        ("/nothing", (), "holds no run"),
        ("", ("--config.sft.steps=30",), "sft.steps determines how the run was made"),
        ("", ("--split=test",), "split"),
    ],
)
def test_bad_input_is_refused(run, target, flags, message):
    with pytest.raises(UserError, match=message):
        evaluate.main(["evaluate", f"{run}{target}", "--quiet", *flags])


def test_a_run_directory_is_asked_for():
    with pytest.raises(UserError, match="takes one run directory"):
        evaluate.main(["evaluate"])


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with open_run(tmp_path / "run", tiny.GRID, Console(quiet=True)) as opened:
        opened.workspace.begin(opened.config, opened.policy)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        evaluate.main(["evaluate", str(tmp_path / "run"), "--quiet"])
