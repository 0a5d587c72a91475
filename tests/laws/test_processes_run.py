"""Real processes on one machine: one run between them, as if there were one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from bstar_jax.records import Rollouts
from tests import builders

SETTINGS = {"loop.iterations": 1, "sft.steps": 40, "log.tensorboard": False}


def start(workdir, *, mesh, processes=1, **settings):
    """Starts all processes of a run on four devices in all."""
    values = SETTINGS | dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh, strict=True))
    values |= {name.replace("__", "."): value for name, value in settings.items()}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    devices = int(np.prod(mesh)) // processes
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": builders.xla_flags(devices),
    }
    started = []
    for index in range(processes):
        own = [f"--coordinator={address}", f"--processes={processes}", f"--process={index}"]
        command = [sys.executable, "-m", "bstar_jax.main", "--config=tests/tiny.py"]
        started.append(
            subprocess.Popen(
                [*command, f"--workdir={workdir}", *flags, *(own if processes > 1 else [])],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def end(processes):
    """Waits for all: (exit codes, what they printed on stderr)."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [process.returncode for process in processes], said


def files(run):
    return sorted(path.relative_to(run) for path in run.glob("iterations/*/*.parquet"))


def assert_same_rows(one, other):
    assert files(one) == files(other) and files(one)
    for file in files(one):
        left, right = (Rollouts.read(run / file) for run in (one, other))
        for name in left.table.column_names:
            if name == "logprob":
                # Sums over a response, under parameters that differ by the rounding of training.
                np.testing.assert_allclose(left.array(name), right.array(name), atol=2e-3)
            else:
                assert left.column(name) == right.column(name), (file, name)


def wait_for(processes, happened):
    for _ in range(6000):
        if happened():
            return
        assert all(process.poll() is None for process in processes), end(processes)
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process on mesh (1, 2, 2)."""
    run = tmp_path_factory.mktemp("alone") / "run"
    codes, said = end(start(run, mesh=(1, 2, 2)))
    assert codes == [0], said
    return run


def assert_same_run(run, alone):
    assert_same_rows(alone, run)
    surfaces = [(each / "iterations/0001/balance.json").read_bytes() for each in (alone, run)]
    assert surfaces[0] == surfaces[1]
    assert not list(run.glob("iterations/*/partial"))


@pytest.mark.slow
def test_processes_on_their_own_devices_leave_the_files_of_one(tmp_path, alone):
    run = tmp_path / "run"
    codes, said = end(start(run, mesh=(1, 2, 2), processes=2))
    assert codes == [0, 0], said
    assert_same_run(run, alone)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows].count("monitor") == 2  # one process writes it


@pytest.mark.slow
def test_of_processes_that_share_products_one_is_killed_and_one_goes_on_alone(tmp_path, alone):
    """What four wrote before the kill and one wrote after it, on another mesh, is one run's."""
    run = tmp_path / "run"
    processes = start(run, mesh=(1, 2, 2), processes=4)
    partial = run / "iterations/0001/partial"
    wait_for(processes, lambda: len(list(partial.glob("generate-*.parquet"))) >= 2)
    processes[1].kill()
    codes, said = end(processes)
    assert codes == [1, -signal.SIGKILL, 1, 1]
    for index in (0, 2, 3):
        (line,) = [line for line in said[index].splitlines() if line.startswith("error:")]
        assert "process 1 of 4" in line and "is lost" in line
        assert f"process {index} stops too" in line
    codes, said = end(start(run, mesh=(1, 4, 1), processes=1))
    assert codes == [0], said
    assert_same_run(run, alone)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_their_state_saved(tmp_path):
    run = tmp_path / "run"
    processes = start(run, mesh=(1, 2, 2), processes=2, sft__steps=100_000)
    wait_for(processes, lambda: (run / "metrics.jsonl").exists())
    wait_for(processes, lambda: '"sft"' in (run / "metrics.jsonl").read_text())
    processes[1].send_signal(signal.SIGTERM)
    codes, said = end(processes)
    assert codes == [75, 75], said
    assert "stopped: the state is saved" in said[0]
    saved = [path.name for path in (run / "checkpoints/training").iterdir()]
    assert len(saved) == 1 and int(saved[0]) > 0


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_its_own_line(tmp_path):
    processes = start(tmp_path / "run", mesh=(2, 2, 1), processes=2, sft__batch=3)
    codes, said = end(processes)
    assert codes == [2, 2]
    assert "sft.batch is 3, but mesh.data x mesh.fsdp = 4 devices" in said[0]
