"""The launcher of one host: flags go through, and exit code 75 alone starts again.

And what holds for all launchers, those of several hosts having files of their own.
"""

import os
import pathlib
import signal
import subprocess
import sysconfig
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "launch" / "local.sh"
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
FLAGS = ["--config=configs/arithmetic.py:online_rft", "--workdir=runs/a b", "--config.seed=3"]


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher with an interpreter that exits with the given codes in turn."""

    def run(*flags, codes=(0,)):
        python = tmp_path / "python"
        python.write_text(
            "#!/usr/bin/env bash\n"
            f'printf "%s\\n" "$*" >> "{tmp_path}/calls"\n'
            f"codes=({' '.join(map(str, codes))})\n"
            f'exit "${{codes[$(wc -l < "{tmp_path}/calls") - 1]}}"\n'
        )
        python.chmod(0o755)
        done = subprocess.run(
            [LAUNCHER, *flags],
            env={**os.environ, "PYTHON": str(python)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_flags_go_through_as_they_are(launch):
    done, calls = launch(*FLAGS)
    assert done.returncode == 0
    assert calls == ["-m bstar_jax.main " + " ".join(FLAGS)]


def test_preempted_starts_again_until_done(launch):
    done, calls = launch(*FLAGS, codes=(75, 75, 0))
    assert done.returncode == 0
    assert len(calls) == 3 and len(set(calls)) == 1
    assert done.stderr.count("preempted") == 2


@pytest.mark.parametrize("code", [1, 2, 3, 137])
def test_any_other_failure_is_passed_on(launch, code):
    done, calls = launch(*FLAGS, codes=(code, 0))
    assert done.returncode == code
    assert len(calls) == 1


def test_a_dry_run_prints_the_command_and_starts_nothing(launch):
    done, calls = launch("--dry-run", *FLAGS)
    assert done.returncode == 0 and calls == []
    command = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {done.stdout}"], capture_output=True, text=True
    )
    assert command.stdout.splitlines()[1:] == ["-m", "bstar_jax.main", *FLAGS]


def test_a_signal_reaches_the_run_and_nothing_starts_again(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f"trap 'echo saved >> \"{tmp_path}/calls\"; exit 75' TERM\n"
        f'echo started >> "{tmp_path}/calls"\n'
        "while true; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    calls = tmp_path / "calls"
    with subprocess.Popen([LAUNCHER], env={**os.environ, "PYTHON": str(python)}) as launcher:
        while not calls.exists():
            time.sleep(0.02)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) == 75
    assert calls.read_text().split() == ["started", "saved"]


def test_shellcheck_finds_nothing():
    # It comes with the test requirements; without it this fails, as it should.
    linter = pathlib.Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run([linter, *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stop_at_the_first_error_and_say_what_they_are(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert lines[1].startswith("# ") and lines[1].endswith(".")
    assert os.access(script, os.X_OK)
