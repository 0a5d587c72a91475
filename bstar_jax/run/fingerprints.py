"""Fingerprints of what a run was given from outside: its data, and the source of its functions.

They are stored in config.json. A run that is started again with other data, or another function,
would mix two runs, so it is refused unless the change is accepted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Collection, Mapping
from typing import Any

from bstar_jax.config import UserError
from bstar_jax.grading import Grader
from bstar_jax.tasks import LoadedTask, fingerprint

NAMES = ("data", "task", "reward", "step_reward")
_REMEDIES = {
    "data": "the queries differ",
    "task": "the function that makes the task differs",
    "reward": "responses of the phase under way whose grading broke are then graded again, and no "
    "others",
    "step_reward": "solution steps are rewarded by the new function from now on",
}


@dataclasses.dataclass(frozen=True)
class Given:
    """What a run was given from outside.

    Attributes:
      fingerprints: SHA-256 in hexadecimal, by their names in `NAMES`.
      files: The files of its functions.
      accepted: Names whose change this start accepts.
    """

    fingerprints: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = ()
    accepted: frozenset[str] = frozenset()


NOTHING = Given()


def of_run(task: LoadedTask, grader: Grader, accepted: Collection[str] = ()) -> Given:
    """Computes the fingerprints of a run.

    Args:
      task: The task.
      grader: Knows the functions of its sources.
      accepted: Names whose change this start accepts.

    Raises:
      UserError: If there is no such name.
    """
    for name in accepted:
        if name not in NAMES:
            raise UserError(f"--accept={name}: it takes names of {', '.join(NAMES)}")
    found = {"data": fingerprint(task)}
    if task.functions:
        found["task"] = _combined({name: each.fingerprint for name, each in task.functions.items()})
    described = grader.functions.described if grader.functions else {}
    for role in ("reward", "step_reward"):
        names = {name: getattr(source, role) for name, source in task.sources.items()}
        parts = {name: described[each].fingerprint for name, each in names.items() if each}
        if parts:
            found[role] = _combined(parts)
    files = [
        file for each in (*described.values(), *task.functions.values()) for file in each.files
    ]
    return Given(found, tuple(dict.fromkeys(files)), frozenset(accepted))


def check(stored: Mapping[str, str], given: Given) -> None:
    """Compares the fingerprints of a run with those that it was made with.

    Args:
      stored: Those of config.json; {} in a run of an earlier version, which has none.
      given: What this start was given.

    Raises:
      UserError: With the first that differs, and how to accept it.
    """
    now = given.fingerprints
    for name in NAMES if stored else ():
        if stored.get(name) != now.get(name) and name not in given.accepted:
            raise UserError(
                f"the {name.replace('_', ' ')} is not the one that the run was made with "
                f"({now.get(name, 'none')[:12]}, in config.json {stored.get(name, 'none')[:12]}); "
                f"put it back, or go on with --accept={name}: {_REMEDIES[name]}"
            )


def keep_code(files: Collection[str], directory: pathlib.Path) -> None:
    """Copies the files of a run's functions to a folder, for people to read."""
    for file in files:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, directory / pathlib.Path(file).name)


def _combined(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
