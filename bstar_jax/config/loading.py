"""Config files: `FILE[:VARIANT]` is a Python file whose `get_config(variant)` returns a Config."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import pathlib
import warnings
from collections.abc import Callable, Collection, Mapping

from bstar_jax.config.config import Config
from bstar_jax.config.errors import UserError
from bstar_jax.config.model import ModelConfig
from bstar_jax.config.schema import unknown_name


def load_config(
    argument: str | os.PathLike[str], changes: Mapping[str, object] | None = None
) -> Config:
    """The config of `FILE[:VARIANT]`: what the file's `get_config(variant)` returns.

    Example: `load_config("configs/arithmetic.py:online_rft", {"improve.steps": 200})`.

    A config file that builds on its neighbour finds it beside itself, so that the command works in
    any directory:

        load_config(pathlib.Path(__file__).with_name("gsm8k.py")).changed({"task.name": "math"})

    Args:
      argument: The file, with its variant if any.
      changes: Settings to change in it, as `Config.changed` takes them. Sizes that the file sets
        give way to those of a `model.checkpoint` named here, and a warning says so.

    Raises:
      UserError: If there is no such file or variant, the file gives no config, or a change names
        no setting or has a value that it does not take.
    """
    argument = os.fspath(argument)
    path, _, variant = argument.partition(":")
    if not pathlib.Path(path).is_file():
        raise UserError(f"--config={argument}: there is no file {path!r}; see configs/")
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"--config={argument}: {path!r} is no Python file; its name must end in .py"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no function get_config(variant)")
    if variant and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path} has no variants; drop ':{variant}'")
    config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config of {path} returns a {type(config).__name__}, not a Config")
    if not changes:
        return config
    config = config.changed(changes)
    if "model.checkpoint" in changes:
        config, note = leave_to_checkpoint(config, changes)
        if note:
            warnings.warn(note, stacklevel=2)
    return config


def leave_to_checkpoint(config: Config, stated: Collection[str] = ()) -> tuple[Config, str]:
    """The config whose architecture is that of its checkpoint, whatever sizes its file sets.

    Example: a file sets model.width=512, and `model.checkpoint` names a model of width 1024 ->
    the config without the file's width, and the line that says so.

    Args:
      config: A config as its file and the command line give it.
      stated: Names of settings that a person gave for this run, such as "model.width". They stay,
        and are refused later if the checkpoint contradicts them.

    Returns:
      The config, and a line that names the settings that gave way, "" if there are none.
    """
    if not config.model.checkpoint:
        return config, ""
    dropped = {
        name: default
        for name, default in ModelConfig.architecture().items()
        if f"model.{name}" not in stated and getattr(config.model, name) != default
    }
    if not dropped:
        return config, ""
    model = dataclasses.replace(config.model, **dropped)
    names = ", ".join(f"model.{name}" for name in dropped)
    return (
        dataclasses.replace(config, model=model),
        f"the architecture is the checkpoint's: {names} of the config file give way to it",
    )


def pick_variant(variant: str, variants: Mapping[str, Callable[[], Config]]) -> Config:
    """The config of a named variant, for the files in configs/. No other variant is built.

    Raises:
      UserError: If no variant has that name, with the nearest name.
    """
    if variant not in variants:
        raise UserError(unknown_name(variant, list(variants), "variant"))
    return variants[variant]()
