"""Starts runs from outside and reads what they leave: shared by learning, fidelity and survival."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import ROOT

MAIN = ("bstar_jax.main",)
AXES = ("data", "fsdp", "tensor")
# Devices that share few cores may meet late; by default XLA ends the process after 40 s.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
TIMINGS = ("wall_seconds", "tokens_per_second")
Rows = dict[tuple[int, str, int | None], dict[str, Any]]


def add_run_flags(
    parser: argparse.ArgumentParser, *, overrides: str = "", workdir: bool = True
) -> None:
    """Adds the flags that say which runs a script makes.

    Args:
      parser: Parser of the script.
      overrides: Default of `--overrides`.
      workdir: Whether to add `--workdir`, without which the script does not start.
    """
    parser.add_argument("--config", default="configs/arithmetic.py", help="config of the runs")
    parser.add_argument(
        "--overrides", default=overrides, help="further flags of main, in one string"
    )
    if workdir:
        parser.add_argument("--workdir", type=pathlib.Path, required=True, help="holds all runs")


def require_empty(parser: argparse.ArgumentParser, folder: pathlib.Path) -> None:
    """Stops with a usage error where a folder holds anything: the script starts from nothing."""
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty: name a folder that is, or that is not there")


def main_command(
    config: str, workdir: pathlib.Path, overrides: Sequence[str] = (), *, door: Sequence[str] = MAIN
) -> list[str]:
    """The command of one run.

    Args:
      config: Value of `--config`.
      workdir: The run directory.
      overrides: Whole flags, such as --config.seed=1.
      door: The module that Python runs, and arguments of its own.
    """
    flags = [f"--config={config}", f"--workdir={workdir}", *overrides, "--quiet"]
    return [sys.executable, "-m", *door, *flags]


def mesh_flags(sizes: Sequence[int]) -> list[str]:
    """The overrides that give a run a mesh of these sizes."""
    return [f"--config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True)]


def mesh_sizes(text: str) -> tuple[int, ...]:
    """Reads the sizes of a mesh: "2,2,2" -> (2, 2, 2).

    Raises:
      argparse.ArgumentTypeError: If there are not three whole numbers.
    """
    words = text.split(",")
    if len(words) != len(AXES) or not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"{text} is not three sizes: {','.join(AXES)}")
    return tuple(map(int, words))


def pinned(command: Sequence[str], cpus: str) -> list[str]:
    """The command held to these CPU cores ("0", "0-3"); "" leaves it free."""
    return ["taskset", "--cpu-list", cpus, *command] if cpus else list(command)


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    command: Sequence[str], log: pathlib.Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command in the repository and appends its output to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        return subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, **(environment or {})}
        )


def run_to_end(command: Sequence[str], log: pathlib.Path) -> None:
    """Runs a command; if it fails, stops here and shows the end of its log.

    Raises:
      SystemExit: If the exit code is not 0.
    """
    code = start(command, log).wait()
    if code:
        tail = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"exit code {code}, log {log}:\n{tail}")


class SameSource:
    """A block in which the source must not change: the runs in it are of one program."""

    def __enter__(self) -> None:
        self._before = source_digest()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and source_digest() != self._before:
            raise SystemExit("the source changed meanwhile: these runs are not of one program")


def source_digest() -> str:
    """A digest that changes when a file of the package or of configs/ does."""
    digest = hashlib.sha256()
    for folder in ("bstar_jax", "configs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()


def metrics_rows(run: pathlib.Path) -> Rows:
    """The last row of every (iteration, phase, step) of metrics.jsonl; a torn line is left out."""
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    rows = (json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines())
    return {(row["iteration"], row["phase"], row.get("step")): row for row in rows}


def read_config(run: pathlib.Path) -> dict[str, Any]:
    """The resolved config of a run, as nested dictionaries."""
    return json.loads((run / "config.json").read_text())["config"]


def is_finished(run: pathlib.Path) -> bool:
    """Whether the last iteration of a run is over."""
    if not (run / "config.json").exists():
        return False
    last = read_config(run)["loop"]["iterations"]
    return (last, "monitor", None) in metrics_rows(run)


def show_limits(wrong: Sequence[str]) -> None:
    """Prints what passed its limit, or that nothing did."""
    print("\n".join(f"ABOVE ITS LIMIT: {line}" for line in wrong) or "all within their limits")
