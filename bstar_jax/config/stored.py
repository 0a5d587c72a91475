"""The config that a run directory was made with."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from bstar_jax.config.config import Config, from_dict
from bstar_jax.config.errors import UserError


def read_config(directory: str | os.PathLike) -> Config:
    """Reads the config that a run directory was made with.

    Raises:
      UserError: If the directory holds no run, or its config cannot be read.
    """
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{directory} holds no run: there is no {path}")
    try:
        return from_dict(_as_now(read_record(directory)["config"]))
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} is not a run's config: {error}") from error


def read_record(directory: str | os.PathLike) -> dict:
    """Reads config.json; {} if there is none."""
    path = pathlib.Path(directory) / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _as_now(values: dict[str, Any]) -> dict[str, Any]:
    """Writes the settings of an earlier version as this one does."""
    task = dict(values.get("task", {}))
    if "sources" not in task and task.get("name") != "jsonl":
        task.pop("reward", None)  # it was "number" for every task, and read by one
    return {**values, "task": task}
