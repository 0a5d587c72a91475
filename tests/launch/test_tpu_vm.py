"""The launcher of TPU VMs, with a `gcloud` that runs its commands in folders instead of workers."""

import os
import pathlib
import shlex
import signal
import subprocess
import time

import pytest

LAUNCHER = pathlib.Path(__file__).resolve().parents[2] / "launch" / "tpu_vm.sh"
OWN = ["--name=my-pod", "--zone=us-east5-b"]
FLAGS = [
    "--config=configs/arithmetic.py:online_rft",
    "--workdir=/shared/runs/a b",
    '--config.task.answer_marker=It\'s $HOME: `ls` $(ls) "#" \\ * & ;',
    "--config.task.path=",
]
WORKERS = 2

# As the real one: the command on every worker at once, then the first code that is not 0.
GCLOUD = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> {root}/gcloud
for word in "$@"; do case "$word" in --command=*) command=${{word#--command=}} ;; esac; done
[[ "$4" == ssh ]] || exit 0
workers=()
for home in {root}/worker*; do
  (cd "$home" && exec sh -c "$command") &
  workers+=($!)
done
code=0
for worker in "${{workers[@]}}"; do
  status=0
  wait "$worker" || status=$?
  ((code)) || code=$status
done
exit "$code"
"""

# Writes its arguments, and ends with the codes of the file `codes` in turn.
PYTHON = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> arguments
echo >> starts
mapfile -t codes < codes
exit "${codes[$(wc -l < starts) - 1]}"
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def pod(tmp_path):
    """A folder with `gcloud` and the homes of two workers, whose runs end with code 0."""
    executable(tmp_path / "bin" / "gcloud", GCLOUD.format(root=tmp_path))
    for worker in range(WORKERS):
        folder = tmp_path / f"worker{worker}" / "bstar_jax"
        executable(folder / ".venv" / "bin" / "python", PYTHON)
        (folder / "codes").write_text("0\n")
    return tmp_path


def environment(pod):
    return {**os.environ, "PATH": f"{pod / 'bin'}:{os.environ['PATH']}"}


def launch(pod, *flags):
    return subprocess.run(
        [LAUNCHER, *flags], env=environment(pod), capture_output=True, text=True, timeout=60
    )


def end_with(pod, worker, *codes):
    folder = pod / f"worker{worker}" / "bstar_jax"
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))


def arguments(pod, worker):
    """What the interpreter of a worker was given, start by start."""
    path = pod / f"worker{worker}" / "bstar_jax" / "arguments"
    words = path.read_text().split("\0")[:-1] if path.exists() else []
    each = len(FLAGS) + 3
    return [words[start : start + each] for start in range(0, len(words), each)]


def test_every_worker_gets_the_flags_as_they_are(pod):
    done = launch(pod, *OWN, "--project=my-project", *FLAGS)
    assert done.returncode == 0, done.stderr
    for worker in range(WORKERS):
        assert arguments(pod, worker) == [["-m", "bstar_jax.main", "--distributed=tpu", *FLAGS]]
    (call,) = (pod / "gcloud").read_text().splitlines()
    assert call.startswith(
        "compute tpus tpu-vm ssh my-pod --zone=us-east5-b --worker=all --project=my-project "
        "--command="
    )


def test_preempted_starts_again_until_done(pod):
    for worker in range(WORKERS):
        end_with(pod, worker, 75, 75, 0)
    done = launch(pod, *OWN, *FLAGS)
    assert done.returncode == 0, done.stderr
    assert [len(arguments(pod, worker)) for worker in range(WORKERS)] == [3, 3]
    assert done.stderr.count("preempted") == 2


@pytest.mark.parametrize("code", [1, 2, 137, 255])
def test_any_other_failure_is_passed_on(pod, code):
    end_with(pod, 1, code)
    done = launch(pod, *OWN, *FLAGS)
    assert done.returncode == code
    assert [len(arguments(pod, worker)) for worker in range(WORKERS)] == [1, 1]


def test_a_dry_run_prints_the_commands_and_starts_nothing(pod):
    done = launch(pod, "--dry-run", "--setup", *OWN, *FLAGS)
    assert done.returncode == 0 and not (pod / "gcloud").exists(), done.stderr
    again = subprocess.run(
        ["bash", "-euc", done.stdout.replace("git archive", "true")],
        env=environment(pod) | {"PATH": f"{pod / 'bin'}:/bin:/usr/bin"},
        capture_output=True,
        text=True,
    )
    calls = (pod / "gcloud").read_text()
    assert "tpu-vm scp" in calls and "pip install" in calls
    # The worker has no archive, so that the printed set-up ends there.
    assert "bstar_jax.tar.gz" in again.stderr and again.returncode != 0
    training = shlex.split(done.stdout)[-1].removeprefix("--command=")
    ran = subprocess.run(["sh", "-c", training], cwd=pod / "worker0", timeout=60)
    assert ran.returncode == 0
    assert arguments(pod, 0) == [["-m", "bstar_jax.main", "--distributed=tpu", *FLAGS]]


def test_set_up_alone_copies_the_commit_and_installs(pod):
    done = launch(pod, "--dry-run", "--setup", *OWN)
    assert done.returncode == 0
    steps = ["git archive", "tpu-vm scp", "python3.11 -m venv", "pip install"]
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places) and "bstar_jax.main" not in done.stdout


def test_a_second_run_on_a_worker_is_refused(pod):
    folder = pod / "worker1" / "bstar_jax"
    with subprocess.Popen(["flock", folder / ".tpu_vm.lock", "sleep", "60"]) as holder:
        while subprocess.run(["flock", "-n", folder / ".tpu_vm.lock", "true"]).returncode == 0:
            time.sleep(0.02)
        done = launch(pod, *OWN, *FLAGS)
        subprocess.run(["pkill", "-P", str(holder.pid)], check=True)
    assert done.returncode == 1 and "a run is under way on this worker" in done.stderr
    assert arguments(pod, 1) == []


def test_a_signal_reaches_every_worker_and_nothing_starts_again(pod):
    for worker in range(WORKERS):
        folder = pod / f"worker{worker}" / "bstar_jax"
        executable(
            folder / ".venv" / "bin" / "python",
            "#!/usr/bin/env bash\n"
            "trap 'echo saved >> starts; exit 75' TERM\n"
            "echo started >> starts\n"
            "while true; do sleep 0.05; done\n",
        )
    starts = [pod / f"worker{worker}" / "bstar_jax" / "starts" for worker in range(WORKERS)]
    with subprocess.Popen([LAUNCHER, *OWN, *FLAGS], env=environment(pod)) as launcher:
        while not all(path.exists() for path in starts):
            time.sleep(0.02)
        launcher.send_signal(signal.SIGTERM)
        try:
            assert launcher.wait(timeout=30) == 75
        finally:
            launcher.kill()
    assert [path.read_text().split() for path in starts] == [["started", "saved"]] * WORKERS


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (OWN[1:] + FLAGS, "--name is missing; it takes the name of the TPU VM, such as"),
        (OWN[:1] + FLAGS, "--zone is missing; it takes the zone of my-pod, such as"),
        (OWN + FLAGS[:1], "--workdir is missing; name a run directory that all workers share"),
        (["--setup", *OWN, FLAGS[0]], "--workdir is missing"),
        (["--name", "my-pod"], "--name needs its value in the same word; write --name=VALUE"),
        ([*OWN, *FLAGS, "--dir="], "--dir is empty; it takes the folder of the checkout"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(pod, flags, message):
    done = launch(pod, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"tpu_vm.sh: error: {message}") and done.stderr.count("\n") == 1
    assert not (pod / "gcloud").exists()
