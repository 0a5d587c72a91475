"""A run directory: which process holds it, what it was made with, and what is written in it.

A run reaches everything outside its devices through its `Workspace`: paths, files that exist once
for all processes, metrics, messages on the screen, and requests to stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

import jax

from bstar_jax.config import Config, UserError, check_resume, to_dict
from bstar_jax.config.stored import read_config, read_record
from bstar_jax.console import Console
from bstar_jax.processes import ALONE, StopRequest, Team
from bstar_jax.records.files import atomic_directory, write_json
from bstar_jax.run.fingerprints import NOTHING, Given, keep_code
from bstar_jax.run.journal import MetricsLog, iteration_rows
from bstar_jax.run.policy import Policy
from bstar_jax.tasks import LeftOut, write_left_out


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Everything that a run keeps outside its devices.

    The processes of a run share the directory, and each has a `Workspace` for it.

    Attributes:
      directory: The run directory.
      metrics: metrics.jsonl and its mirrors.
      console: Shows messages and progress.
      stop: Notes a request to stop.
      team: The processes that execute the run together, each on its own part of the rows.
      given: What the run was given from outside: data and functions.
    """

    directory: pathlib.Path
    metrics: MetricsLog
    console: Console
    stop: StopRequest
    team: Team = ALONE
    given: Given = NOTHING

    def path(self, iteration: int, name: str) -> pathlib.Path:
        """Returns the path of an iteration's file.

        Example: (1, "balance.json") -> iterations/0001/balance.json.
        """
        return self.directory / "iterations" / f"{iteration:04d}" / name

    def exists(self, path: pathlib.Path) -> bool:
        """Says whether the first process sees a file, so that all processes get one answer."""
        return self.team.agree(self.team.is_first and path.exists())

    def once(self, write: Callable[[], None]) -> None:
        """Lets the first process write a file for all. The others wait until it is written."""
        if self.team.is_first:
            write()
        self.team.barrier()

    def log(self, iteration: int, phase: str, seconds: float | None, **figures) -> None:
        """Appends the metrics row of a phase, unless an earlier process appended it.

        Args:
          iteration: The iteration, from 0.
          phase: The phase.
          seconds: Wall time of the phase.
          **figures: The other keys and values of the row; None means "not computed".
        """
        if self.metrics.last(iteration, phase) is None:
            row = {"iteration": iteration, "phase": phase, "wall_seconds": seconds, **figures}
            self.metrics.append(row)

    def begin(self, config: Config, policy: Policy, left_out: Sequence[LeftOut] = ()) -> None:
        """Writes config.json, the tokenizer, and the files kept from the checkpoint to start from.

        After this the directory belongs to this run.

        Args:
          config: All settings.
          policy: The model that answers, with its tokenizer.
          left_out: Records that were left out, which left_out.jsonl lists.

        Raises:
          Preempted: If a stop was requested already.
        """
        self.once(lambda: self._begin(config, policy, left_out))
        self.stop.check()

    def iterations_left(self, iterations: int) -> list[int]:
        """Lists the iterations, from 0 (warm-up) to `iterations`, that are not complete.

        An iteration is complete when it has a metrics row of monitor, which is written last.
        """
        every = range(iterations + 1)
        return [number for number in every if self.metrics.last(number, "monitor") is None]

    def end_iteration(self) -> None:
        """Shows the table of all iterations so far.

        Raises:
          Preempted: If a stop was requested.
        """
        self.console.iteration_table(iteration_rows(self.metrics.rows()))
        self.stop.check()

    def _begin(self, config: Config, policy: Policy, left_out: Sequence[LeftOut]) -> None:
        if not (self.directory / "config.json").exists():
            self._keep("tokenizer", policy.tokenizer.save)
            if policy.source:
                self._keep("source", policy.keep_source)
        write_left_out(self.directory / "left_out.jsonl", left_out)
        keep_code(self.given.files, self.directory / "code")
        left = self.iterations_left(config.loop.iterations)
        _write_config(self.directory, config, self.given, left[0] if left else None)

    def _keep(self, name: str, write: Callable[[pathlib.Path], None]) -> None:
        """Writes a folder of the run atomically."""
        # If config.json does not exist, such a folder is left over from an interrupted start.
        shutil.rmtree(self.directory / name, ignore_errors=True)
        with atomic_directory(self.directory / name) as folder:
            write(folder)


@contextlib.contextmanager
def claim(directory: pathlib.Path, config: Config, console: Console) -> Iterator[None]:
    """Holds a run directory for this process, and checks the config against a run in it.

    Raises:
      UserError: If another process holds the directory, or the config differs from that of the run
        in a setting that may not change.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory} is in use by another process; wait for it, or use another --workdir"
            ) from None
        if (directory / "config.json").exists():
            has_fingerprints = bool(read_record(directory).get("fingerprints"))
            check_resume(read_config(directory), config, has_fingerprints=has_fingerprints)
            _compare_versions(directory, console)
        yield
    finally:
        os.close(handle)


def _write_config(
    directory: pathlib.Path, config: Config, given: Given, iteration: int | None
) -> None:
    """Writes config.json. A resumed run updates the settings and keeps the recorded versions."""
    record = read_record(directory) or {
        "config": {},
        "versions": _versions(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "revision": _revision(),
    }
    record["config"] = to_dict(config)
    before = record.get("fingerprints", {})
    record["fingerprints"] = dict(given.fingerprints)
    changed = [
        name
        for name in sorted(given.accepted)
        if before.get(name) != record["fingerprints"].get(name)
    ]
    if changed:
        accepted = [{"name": name, "iteration": iteration} for name in changed]
        record["accepted"] = record.get("accepted", []) + accepted
    write_json(directory / "config.json", record, indent=2)


def _compare_versions(directory: pathlib.Path, console: Console) -> None:
    stored = json.loads((directory / "config.json").read_text())["versions"]
    changed = [
        f"{name} {stored.get(name)} -> {version}"
        for name, version in _versions().items()
        if stored.get(name) != version
    ]
    if changed:
        console.warn(f"the run was made with other versions: {', '.join(changed)}")


def _versions() -> dict[str, str]:
    names = ("bstar_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    normal = {name.replace("-", "_"): version for name, version in installed.items() if name}
    return {name: normal.get(name.replace("-", "_"), "") for name in names}


def _revision() -> str:
    """Returns the git revision of the source; "" outside a repository."""
    here = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
