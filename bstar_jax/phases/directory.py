"""A run directory: whose it is, and what stands in its config.json."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import subprocess

import jax

from bstar_jax.config import Config, UserError, check_resume, from_dict, to_dict
from bstar_jax.console import Console
from bstar_jax.records.files import write_json


def read_config(directory: str | os.PathLike) -> Config:
    """The config that a run directory was made with.

    Raises:
      UserError: If there is no run.
    """
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{directory} holds no run: there is no {path}")
    try:
        return from_dict(json.loads(path.read_text())["config"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} is not a run's config: {error}") from error


@contextlib.contextmanager
def claim(directory: pathlib.Path, config: Config, console: Console):
    """Holds the directory for this process, the config of a run in it checked."""
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
            check_resume(read_config(directory), config)
            _compare_versions(directory, console)
        yield
    finally:
        os.close(handle)


def write_config(directory: pathlib.Path, config: Config) -> None:
    """Writes config.json; a resume changes the settings in it, not what the run was made with."""
    path = directory / "config.json"
    if path.exists():
        record = {**json.loads(path.read_text()), "config": to_dict(config)}
    else:
        record = {
            "config": to_dict(config),
            "versions": _versions(),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "revision": _revision(),
        }
    write_json(path, record, indent=2)


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
    """The git revision of the source, "" where there is none."""
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
