"""How a run's model settings and the checkpoint that it starts from go together."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub.families import read_config

# The others are settings of the run, whatever the checkpoint.
ARCHITECTURE = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if "import" not in field.metadata["may_differ_on"]
)


def architecture(config: ModelConfig, source: str | os.PathLike) -> ModelConfig:
    """A run's model with the architecture of the checkpoint that it starts from.

    Example: ModelConfig(checkpoint="/models/q", dtype="bfloat16") -> that of /models/q, computed
    in bfloat16.

    Args:
      config: The run's; its architecture is left at the defaults, or says what is so anyway.
      source: The directory of the checkpoint, or what `keep_source` kept of it.

    Raises:
      UserError: If a field says otherwise, with both values; or as `read_config` does.
    """
    found = read_config(pathlib.Path(source))
    fields = {field.name: field for field in dataclasses.fields(ModelConfig)}
    for name in ARCHITECTURE:
        given, stored = getattr(config, name), getattr(found, name)
        if given not in (fields[name].default, stored):
            raise UserError(
                f"model.{name} is {given!r}, but the checkpoint {source} has {stored!r}; the "
                f"architecture is that of the checkpoint: drop model.{name}"
            )
    return dataclasses.replace(config, **{name: getattr(found, name) for name in ARCHITECTURE})


def check_architecture(config: ModelConfig, found: ModelConfig, source: pathlib.Path) -> None:
    """Refuses a model that is not the one whose `config.json` is to be copied.

    Raises:
      UserError: With the first field that differs, and both values.
    """
    for name in ARCHITECTURE:
        if getattr(config, name) != getattr(found, name):
            raise UserError(
                f"model.{name} is {getattr(config, name)!r}, but the source {source} has "
                f"{getattr(found, name)!r}; give the checkpoint that the model started from"
            )
