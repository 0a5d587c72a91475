"""Config files: `FILE[:VARIANT]` is a Python file whose `get_config(variant)` returns a Config."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pathlib
from collections.abc import Callable, Mapping

from bstar_jax.config.config import Config
from bstar_jax.config.errors import UserError
from bstar_jax.config.schema import unknown_name


def load_config(argument: str | os.PathLike[str]) -> Config:
    """The config of `FILE[:VARIANT]`: what the file's `get_config(variant)` returns.

    A config file that builds on its neighbour finds it beside itself, so that the command works in
    any directory:

        load_config(pathlib.Path(__file__).with_name("gsm8k.py")).changed({"task.name": "math"})

    Raises:
      UserError: If there is no such file or variant, or the file gives no config.
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
    return config


def pick_variant(variant: str, variants: Mapping[str, Callable[[], Config]]) -> Config:
    """The config of a named variant, for the files in configs/. No other variant is built.

    Raises:
      UserError: If no variant has that name, with the nearest name.
    """
    if variant not in variants:
        raise UserError(unknown_name(variant, list(variants), "variant"))
    return variants[variant]()
