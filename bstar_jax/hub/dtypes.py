"""The dtype in which a checkpoint is published."""

from __future__ import annotations

import pathlib

from bstar_jax.hub.fields import read_json


def published_dtype(path: pathlib.Path) -> str:
    """Returns "bfloat16" where a checkpoint's `config.json` says so, else "float32".

    float16, whose range is too narrow for training, is computed in float32.

    Args:
      path: The directory of the checkpoint, or what `keep_source` kept of it.
    """
    fields = read_json(path / "config.json")
    text = fields.get("text_config")
    groups = [fields, text if isinstance(text, dict) else {}]
    said = [group.get(name) for group in groups for name in ("dtype", "torch_dtype")]
    return "bfloat16" if next(filter(None, said), "") == "bfloat16" else "float32"
