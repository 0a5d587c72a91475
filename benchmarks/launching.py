"""Starting runs from outside, and reading what they leave: shared by compare, kills and mesh."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Devices that share few cores may meet late; by default XLA ends the process after 40 s.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
TIMINGS = ("wall_seconds", "tokens_per_second")


def main_command(config, workdir, overrides=(), *, quiet=True):
    """The command of one run; `overrides` are whole flags such as --config.seed=1."""
    command = [sys.executable, "-m", "bstar_jax.main", f"--config={config}", f"--workdir={workdir}"]
    return [*command, *overrides, *(["--quiet"] if quiet else [])]


def pinned(command, cpus):
    """The command held to these CPU cores ("0", "0-3"); "" leaves it free."""
    return ["taskset", "--cpu-list", cpus, *command] if cpus else list(command)


def start(command, log, environment=None):
    """Starts a command in the repository, its output appended to a file."""
    pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(map(str, command))}\n".encode())
        file.flush()
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, **(environment or {})}
        )


def finish(process):
    """Waits for a process: its exit code (negative: the signal), and peak memory in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


def run_to_end(command, log, environment=None):
    """Runs a command; stops here, showing the end of its log, if it fails.

    Returns:
        {"wall_seconds", "peak_bytes"} of the process.
    """
    started = time.monotonic()
    code, peak = finish(start(command, log, environment))
    if code:
        tail = pathlib.Path(log).read_text(errors="replace")[-2000:]
        raise SystemExit(f"exit code {code}, log {log}:\n{tail}")
    return {"wall_seconds": time.monotonic() - started, "peak_bytes": peak}


def source_digest():
    """Changes when a file of the package or of configs/ does."""
    digest = hashlib.sha256()
    for folder in ("bstar_jax", "configs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()


def metrics_rows(run):
    """The last row of every (iteration, phase, step) of metrics.jsonl, a torn line left out."""
    file = pathlib.Path(run) / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    rows = (json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines())
    return {(row["iteration"], row["phase"], row.get("step")): row for row in rows}


def read_config(run):
    """The resolved config of a run, as nested dictionaries."""
    return json.loads((pathlib.Path(run) / "config.json").read_text())["config"]


def is_finished(run):
    """Whether the last iteration of a run is over."""
    if not (pathlib.Path(run) / "config.json").exists():
        return False
    last = read_config(run)["loop"]["iterations"]
    return (last, "monitor", None) in metrics_rows(run)


def write_json(file, value):
    """Writes a result as indented JSON, whole or not at all."""
    temporary = pathlib.Path(f"{file}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(file)
