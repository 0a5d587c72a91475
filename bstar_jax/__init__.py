"""Self-taught reasoning that keeps exploration and exploitation in balance, in JAX.

A Flax model samples answers, the answers are rewarded, and the model trains on those that are
selected. Between iterations, the balance score (B-STaR, arXiv:2412.17256) is computed on the
devices and chooses how to sample and which responses to keep. `iterate` is the algorithm, and
`main` is the command that runs it.

The name of an array ends in its axes, with a letter for each and a digit for an axis of that size:
`logits_BV`, `keys_B2`. A room that needs more letters lists them in the docstring of its package.
The rooms `sampling` and `kernels` list all of theirs, which may differ.

Axes in all other rooms: B rows, Q queries, N responses a query, T temperatures, K top-k values,
H thresholds, W process weights, L tokens, P prompt tokens, V vocabulary, D model width,
F feed-forward width, A attention heads, G key-value heads, E head width, Y layers.
"""

__version__ = "0.1.0"

import importlib
from typing import Any

# Where each name of the library is; nothing is imported before it is used.
_NAMES = {
    **dict.fromkeys(
        (
            "BalanceConfig", "CalibrateConfig", "CheckpointConfig", "CodeConfig", "Config",
            "FieldNames", "GenerateConfig", "ImproveConfig", "LogConfig", "LoopConfig",
            "MeshConfig", "ModelConfig", "MonitorConfig", "OptimizerConfig", "PrmConfig",
            "RewardsConfig", "SftConfig", "SourceConfig", "SplitNames", "TaskConfig",
            "TokenizerConfig", "TrainingConfig", "UserError", "load_config",
        ),
        "config",
    ),
    "Grade": "grading.grade",
    "Query": "records.query",
    "Task": "tasks.own",
    "balance_score": "balance",
    "balance_surface": "balance",
    "export_checkpoint": "hub",
    "generate": "phases.answering",
    "grade_responses": "tasks.grades",
    "import_checkpoint": "hub",
    "open_run": "phases.opening",
    "read_run": "run.reading",
    "self_train": "iterate",
}  # fmt: skip

__all__ = sorted(_NAMES)  # pyright: ignore[reportUnsupportedDunderAll]  # found by `__getattr__`


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
