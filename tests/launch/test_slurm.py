"""The launcher of SLURM, with an `srun` that starts its tasks here; once with real runs."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from bstar_jax.run.journal import read_rows
from tests import builders

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "launch" / "slurm.sh"
FLAGS = [
    "--config=configs/arithmetic.py:online_rft",
    '--config.task.answer_marker=It\'s $HOME: `ls` $(ls) "#" \\ * & ;',
    "--config.task.path=",
]

# Two nodes of one task each, all of them this machine. The tasks' numbers and signals are those
# of SLURM 22.05; the kill after a bad exit comes without a warning, as it may.
SRUN = """#!{python}
import itertools, json, os, pathlib, signal, subprocess, sys, time
options = list(itertools.takewhile(lambda word: word.startswith("--"), sys.argv[1:]))
command = sys.argv[1 + len(options):]
count = 2
common = {{
    "SLURM_NTASKS": str(count),
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": str(count),
    "SLURM_STEP_NUM_NODES": str(count),
    "SLURM_STEP_NODELIST": "localhost",
}}
tasks = [
    subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | common
        | {{"SLURM_PROCID": str(index), "SLURM_NODEID": str(index), "SLURM_LOCALID": "0"}},
    )
    for index in range(count)
]
pathlib.Path("{root}/tasks").write_text(json.dumps([task.pid for task in tasks]))
killed = False
while any(task.poll() is None for task in tasks):
    time.sleep(0.02)
    if not killed and "--kill-on-bad-exit=1" in options and any(task.poll() for task in tasks):
        killed = True
        for task in tasks:
            if task.poll() is None:
                os.killpg(task.pid, signal.SIGKILL)
codes = [task.returncode for task in tasks]
sys.exit(max(codes) if max(codes) > 0 else 128 - min(codes) if min(codes) else 0)
"""

# Writes its arguments, and ends with the codes of the file that its task's number names in turn.
PYTHON = """#!/usr/bin/env bash
cd {root}
printf '%s\\0' "$@" > "arguments.$SLURM_PROCID"
echo >> "starts.$SLURM_PROCID"
mapfile -t codes < "codes.$SLURM_PROCID"
exit "${{codes[$(wc -l < "starts.$SLURM_PROCID") - 1]}}"
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path):
    """A folder with `srun`, `scontrol` and an interpreter; what runs there ends with code 0."""
    executable(tmp_path / "srun", SRUN.format(python=sys.executable, root=tmp_path))
    executable(
        tmp_path / "scontrol", f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> {tmp_path}/requeued\n'
    )
    executable(tmp_path / "python", PYTHON.format(root=tmp_path))
    (tmp_path / "run").mkdir()
    for task in range(2):
        (tmp_path / f"codes.{task}").write_text("0\n")
    return tmp_path


def start(cluster, *flags, script=LAUNCHER, **variables):
    """The launcher as batch script of job 4711, with a run directory in the cluster's folder."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
    }
    environment |= {
        "PATH": f"{cluster}:{os.environ['PATH']}",
        "PYTHON": str(cluster / "python"),
        "SLURM_JOB_ID": "4711",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    return subprocess.Popen(
        [script, f"--workdir={cluster / 'run'}", *flags],
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(cluster, *flags, **settings):
    """(exit code, stdout, stderr) of the launcher."""
    process = start(cluster, *flags, **settings)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def requeued(cluster):
    path = cluster / "requeued"
    return path.read_text().splitlines() if path.exists() else []


def end_with(cluster, task, *codes):
    (cluster / f"codes.{task}").write_text("".join(f"{code}\n" for code in codes))


def left_over(cluster):
    return sorted(path.name for path in (cluster / "run").iterdir())


def test_every_task_gets_the_flags_as_they_are(cluster):
    code, _, err = launch(cluster, *FLAGS)
    assert code == 0, err
    for task in range(2):
        assert (cluster / f"arguments.{task}").read_text().split("\0")[:-1] == [
            "-m",
            "bstar_jax.main",
            "--distributed=slurm",
            f"--workdir={cluster / 'run'}",
            *FLAGS,
        ]
    assert requeued(cluster) == []


@pytest.mark.parametrize("late", [0, 1])
def test_preempted_queues_the_job_again(cluster, late):
    # One task is slower than the other: the first code must not have it killed.
    saving = f'[[ "$SLURM_PROCID" != {late} ]] || sleep 0.5\necho saved >> "{cluster}/saved"\n'
    executable(cluster / "python", f"#!/usr/bin/env bash\n{saving}exit 75\n")
    code, _, err = launch(cluster, *FLAGS)
    assert code == 75 and "preempted with its state saved" in err
    assert (cluster / "saved").read_text().split() == ["saved", "saved"]
    assert requeued(cluster) == ["requeue 4711"]
    assert left_over(cluster) == []


@pytest.mark.parametrize("code", [1, 2, 3, 76, 137])
def test_any_other_failure_is_passed_on_and_ends_the_others(cluster, code):
    executable(
        cluster / "python",
        f'#!/usr/bin/env bash\n[[ "$SLURM_PROCID" != 1 ]] || exit {code}\nsleep 60\n',
    )
    began = time.monotonic()
    assert launch(cluster, *FLAGS)[0] == code
    assert time.monotonic() - began < 30
    assert requeued(cluster) == []


def test_a_failure_is_not_hidden_by_a_task_that_saved(cluster):
    # Told to end because the other failed, it saves and calls itself preempted.
    end_with(cluster, 0, 75)
    end_with(cluster, 1, 3)
    assert launch(cluster, *FLAGS)[0] in (3, 137)
    assert requeued(cluster) == [] and left_over(cluster) == []


def test_a_start_knows_its_mark_from_that_of_an_earlier_one(cluster):
    (cluster / "run" / ".preempted-4711-0").touch()
    code, _, err = launch(cluster, *FLAGS, SLURM_RESTART_COUNT="1")
    assert code == 0 and requeued(cluster) == [], err


def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(cluster):
    executable(
        cluster / "python",
        "#!/usr/bin/env bash\n"
        f"trap 'echo saved >> {cluster}/saved; exit 75' TERM\n"
        f"echo >> {cluster}/started\n"
        "while true; do sleep 0.05; done\n",
    )
    job = start(cluster, *FLAGS)
    wait_for(job, lambda: (cluster / "started").exists())
    wait_for(job, lambda: (cluster / "started").read_text() == "\n\n")
    job.send_signal(signal.SIGTERM)  # scancel signals the batch script and every task
    signal_tasks(cluster)
    job.communicate(timeout=30)
    assert job.returncode == 75
    assert (cluster / "saved").read_text().split() == ["saved", "saved"]
    assert requeued(cluster) == []


def signal_tasks(cluster):
    """SIGTERM to every process of every task, as SLURM sends it."""
    for task in json.loads((cluster / "tasks").read_text()):
        os.killpg(task, signal.SIGTERM)


def wait_for(process, happened):
    """Returns once something has happened in a process that goes on."""
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} before it happened"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_runs_as_the_copy_that_slurm_makes(cluster):
    copy = cluster / "slurm_script"
    executable(copy, LAUNCHER.read_text())
    code, _, err = launch(cluster, *FLAGS, script=copy)
    assert code == 0 and (cluster / "arguments.1").exists(), err
    code, _, err = launch(cluster, script=copy, SLURM_SUBMIT_DIR=str(cluster))
    assert code == 2 and "run sbatch in the root of the checkout" in err


def test_slurm_reads_its_options_before_any_command():
    lines = LAUNCHER.read_text().splitlines()
    options = [line for line in lines if line.startswith("#SBATCH")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(option) < first_command for option in options)
    for option in ("--ntasks-per-node=1", "--signal=TERM@120", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {option}" in options


def test_a_dry_run_prints_the_commands_and_starts_nothing(cluster):
    code, out, _ = launch(cluster, "--dry-run", *FLAGS, SLURM_JOB_ID="")
    assert code == 0 and not (cluster / "tasks").exists()
    step, comment, requeue, _ = out.split("\n")
    words = shlex.split(step)
    assert words[:2] == ["srun", "--kill-on-bad-exit=1"]
    assert words[-len(FLAGS) - 2 :] == [
        "--distributed=slurm",
        f"--workdir={cluster / 'run'}",
        *FLAGS,
    ]
    assert comment == "# after exit code 75 alone:"
    assert requeue == 'scontrol requeue "$SLURM_JOB_ID"'


def test_what_is_missing_is_said_before_anything_starts(cluster):
    done = subprocess.run([LAUNCHER, *FLAGS], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("slurm.sh: error: --workdir is missing; name a run directory")
    code, _, err = launch(cluster, *FLAGS, SLURM_JOB_ID="")
    assert code == 2 and "so this is no SLURM job; submit it: sbatch launch/slurm.sh" in err
    assert not (cluster / "tasks").exists()


# Two real processes that train one model.


def real(cluster, **variables):
    """The launcher with tests/tiny.py, for one iteration."""
    return start(
        cluster,
        "--config=tests/tiny.py",
        "--config.loop.iterations=1",
        PYTHON=sys.executable,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS=builders.xla_flags(1),
        **variables,
    )


@pytest.mark.slow
def test_two_processes_finish_an_iteration_across_a_preemption(cluster):
    metrics = cluster / "run" / "metrics.jsonl"
    job = real(cluster)
    wait_for(job, metrics.exists)
    wait_for(job, lambda: any(row["phase"] == "sft" for row in read_rows(metrics)))
    signal_tasks(cluster)  # the time limit is near
    out, err = job.communicate(timeout=300)
    assert job.returncode == 75, out + err
    assert requeued(cluster) == ["requeue 4711"]

    job = real(cluster, SLURM_RESTART_COUNT="1")
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, out + err
    assert requeued(cluster) == ["requeue 4711"]
    rows = read_rows(metrics)
    assert [row["iteration"] for row in rows if row["phase"] == "monitor"] == [0, 1]
    assert not [name for name in left_over(cluster) if name.startswith(".")]
