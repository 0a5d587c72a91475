"""The door, as people and launchers meet it: exit codes, messages, and runs that are killed."""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bstar_jax.config import to_dict
from bstar_jax.records import Rollouts
from bstar_jax.run.journal import MetricsLog, read_rows
from tests import builders, tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = "--config=tests/tiny.py"


def start(*flags, devices=1):
    """The door in a process of its own, on so many virtual devices."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": builders.xla_flags(devices),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "bstar_jax.main", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*flags, **settings):
    """(exit code, stdout, stderr) of the door."""
    process = start(*flags, **settings)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def run_to_the_end(workdir, *flags, **settings):
    code, _, err = finish(CONFIG, f"--workdir={workdir}", *flags, **settings)
    assert code == 0, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing happened to."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    run_to_the_end(directory)
    return directory


@pytest.fixture
def workdir(tmp_path):
    """A new run directory."""
    return tmp_path / "run"


def wait_for(process, happened):
    """Returns once something has happened in a process that goes on."""
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} before it happened"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def logged(workdir, iteration, phase, step=0):
    """Whether a phase has a metrics row, of a step or a later one."""
    if not (workdir / "metrics.jsonl").exists():
        return False
    return any(
        (row["iteration"], row["phase"]) == (iteration, phase) and row.get("step", 0) >= step
        for row in read_rows(workdir / "metrics.jsonl")
    )


def arrays(path):
    with ocp.CheckpointManager(path.parent) as manager:
        return manager.restore(int(path.name), args=ocp.args.StandardRestore())


def assert_same_run(ours, theirs):
    """Law 2: the bytes of balance.json, the rows of Parquet, the arrays of the parameters."""
    names = sorted(path.relative_to(theirs) for path in theirs.glob("iterations/*/*"))
    assert names == sorted(path.relative_to(ours) for path in ours.glob("iterations/*/*"))
    assert len(names) == 1 + 4 * tiny.GRID.loop.iterations
    for name in names:
        if name.suffix == ".json":
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
        else:
            assert Rollouts.read(ours / name).table.equals(Rollouts.read(theirs / name).table), name
    saved = sorted(path.relative_to(theirs) for path in theirs.glob("checkpoints/*/*"))
    assert saved == sorted(path.relative_to(ours) for path in ours.glob("checkpoints/*/*"))
    assert len(saved) == tiny.GRID.loop.iterations + 2
    for name in saved:
        equal_arrays(arrays(ours / name), arrays(theirs / name))
    assert figures(ours) == figures(theirs)


def equal_arrays(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            equal_arrays(one, other)
    elif ours is not None:
        np.testing.assert_array_equal(ours, theirs)


def figures(workdir):
    """What metrics.jsonl says about each phase, but for how long it took."""
    last = {(row["iteration"], row["phase"]): row for row in read_rows(workdir / "metrics.jsonl")}
    timed = ("wall_seconds", "tokens_per_second")
    return {
        key: {name: value for name, value in row.items() if name not in timed}
        for key, row in last.items()
    }


# Bad input: exit code 2, one line, no traceback, before anything is written.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "error: --workdir is missing"),
        (["--workdir={}"], "error: --config is missing; try --config=configs/arithmetic.py"),
        (
            [CONFIG, "--workdir={}", "--config.improve.step=3"],
            "error: there is no setting 'improve.step'; the nearest is 'improve.steps'",
        ),
        (
            [CONFIG + ":gird", "--workdir={}"],
            "error: there is no variant 'gird'; the nearest is 'grid'",
        ),
        ([CONFIG, "--workdir={}", "--config.mesh.tensor=3"], "error: mesh (data, fsdp, tensor)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    directory = tmp_path / "run"
    code, out, err = finish(*[flag.format(directory) for flag in flags])
    assert (code, out) == (2, "")
    assert err.startswith(message) and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not (directory / "config.json").exists()


@pytest.mark.slow
def test_a_run_of_another_config_is_refused_with_the_difference(tmp_path):
    stored = json.dumps({"config": to_dict(tiny.GRID), "versions": {}})
    (tmp_path / "config.json").write_text(stored)
    builders.WORDS.save(tmp_path / "tokenizer")
    code, _, err = finish(CONFIG, f"--workdir={tmp_path}", "--config.improve.steps=7")
    assert code == 2 and "Traceback" not in err
    assert "improve.steps: the run has 6, given 7" in err
    assert (tmp_path / "config.json").read_text() == stored


@pytest.mark.slow
def test_a_directory_in_use_is_refused(tmp_path):
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    code, _, err = finish(CONFIG, f"--workdir={tmp_path}")
    os.close(holder)
    assert code == 2 and "is in use by another process" in err and "Traceback" not in err
    assert list(tmp_path.glob("*.json*")) == []


# Whole runs.


@pytest.mark.slow
def test_a_run_leaves_what_the_interface_promises(undisturbed):
    record = json.loads((undisturbed / "config.json").read_text())
    assert record.keys() == {"config", "versions", "devices", "revision", "fingerprints"}
    phases = [(row["iteration"], row["phase"]) for row in read_rows(undisturbed / "metrics.jsonl")]
    expected = [(0, "sft"), (0, "monitor")]
    for iteration in (1, 2):
        names = ("calibrate", "generate", "grade", "select", "improve", "monitor")
        expected += [(iteration, name) for name in names]
    assert list(dict.fromkeys(phases)) == expected
    balance = json.loads((undisturbed / "iterations/0001/balance.json").read_text())
    assert np.shape(balance["score"]) == np.shape(balance["low"]) == (2, 1, 2, 1)
    assert list(undisturbed.glob("tensorboard/events*"))
    assert not list(undisturbed.rglob("*.tmp")) and not list(undisturbed.rglob("partial"))
    for iteration in (1, 2):
        rollouts = Rollouts.read(undisturbed / f"iterations/{iteration:04d}/generate.parquet")
        assert len(rollouts) == 32 * 8 and 0 < sum(rollouts.column("selected")) < 256


@pytest.mark.slow
def test_a_run_that_is_over_changes_nothing(undisturbed):
    files = [path for path in undisturbed.rglob("*") if path.is_file()]
    kept = [path for path in files if {"cache", "tensorboard"}.isdisjoint(path.parts)]
    before = {path: path.read_bytes() for path in kept if path.name != "config.json"}
    code, out, err = finish(f"--workdir={undisturbed}")
    assert code == 0, err
    assert "checkpoints" in out
    assert before == {path: path.read_bytes() for path in before}


STOPS = [(0, "sft", 9), (1, "calibrate", 0), (1, "improve", 3)]  # iteration, phase, step


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run asked to stop at each of STOPS, then left alone: (directory, what each said)."""
    directory, said = tmp_path_factory.mktemp("stopped") / "run", {}
    for stop in STOPS:
        process = start(CONFIG, f"--workdir={directory}")
        wait_for(process, lambda stop=stop: logged(directory, *stop))
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        is_over = logged(directory, tiny.GRID.loop.iterations, "monitor")
        said[stop] = process.returncode, err, time.monotonic() - asked, is_over
    run_to_the_end(directory)
    return directory, said


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_a_preempted_run_saves_in_time_and_goes_on_to_the_same_bytes(undisturbed, stopped, stop):
    directory, said = stopped
    code, err, seconds, is_over = said[stop]
    assert code == 75, err
    assert seconds < 10
    assert "stopped: the state is saved; the same command continues from here" in err
    assert "Traceback" not in err
    assert not is_over
    assert_same_run(directory, undisturbed)


def killed_at(workdir, happened):
    """Starts or resumes a run, and kills it when something has happened in it."""
    process = start(CONFIG, f"--workdir={workdir}")
    wait_for(process, happened)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_in_the_same_bytes(undisturbed, workdir):
    def found(pattern, count=1):
        return len(list(workdir.glob(pattern))) >= count

    moments = [
        lambda: (workdir / "config.json").exists(),
        lambda: logged(workdir, 0, "sft", 30),
        lambda: found("checkpoints/params/0*"),  # written, perhaps not yet renamed
        lambda: found("iterations/0000/partial/monitor-*"),
        lambda: logged(workdir, 0, "monitor"),
        lambda: found("iterations/0001/calibrate.parquet*"),
        lambda: found("iterations/0001/partial/generate-*.parquet", 3),
        lambda: found("iterations/0001/generate.parquet*"),
        lambda: logged(workdir, 1, "improve", 3),
        lambda: found("iterations/0001/monitor.parquet*"),
        lambda: found("iterations/0002/balance.json*"),
        lambda: logged(workdir, 2, "select"),
        lambda: found("checkpoints/params/2*"),
    ]
    for happened in moments:
        killed_at(workdir, happened)
    run_to_the_end(workdir)
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
def test_lost_and_torn_files_are_made_again(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    log = (directory / "metrics.jsonl").read_bytes()
    last_row = log.rstrip(b"\n").rfind(b"\n") + 1
    (directory / "metrics.jsonl").write_bytes(log[: last_row + 20])
    (directory / "iterations/0002/balance.json").unlink()
    (directory / "iterations/0002/monitor.parquet").unlink()
    (directory / "iterations/0002/generate.parquet.tmp").write_bytes(b"half of it")
    shutil.rmtree(directory / "checkpoints/params/2")
    run_to_the_end(directory)
    (directory / "iterations/0002/generate.parquet.tmp").unlink()
    assert_same_run(directory, undisturbed)


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_iterations_on_another_mesh(undisturbed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(undisturbed, directory)
    mesh = [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    run_to_the_end(directory, "--config.loop.iterations=3", *mesh, devices=8)
    for name in (path.relative_to(undisturbed) for path in undisturbed.glob("iterations/*/*")):
        assert (directory / name).read_bytes() == (undisturbed / name).read_bytes()
    assert logged(directory, 3, "monitor")
    stored = json.loads((directory / "config.json").read_text())["config"]
    assert stored["loop"]["iterations"] == 3
    assert [stored["mesh"][axis] for axis in ("data", "fsdp", "tensor")] == [2, 2, 2]
    with MetricsLog(directory / "metrics.jsonl", write=False) as log:
        assert log.last(3, "improve")["learning_rate"] == tiny.GRID.improve.learning_rate
