"""The config: every setting of a run with its unit and range, checked when it is built.

A config is a tree of frozen dataclasses. `Config()` is complete; a file in `configs/` says
what differs; a flag such as `--config.improve.steps=200` overrides one value (`flags`). No
field is None: "none" is 0 or "". A value outside its range, or a combination that cannot
work, raises `UserError` naming the value, the rule and the remedy.
"""

from bstar_jax.config.architecture import ModelConfig
from bstar_jax.config.sections import (
    BalanceConfig,
    CalibrateConfig,
    CheckpointConfig,
    CodeConfig,
    FieldNames,
    GenerateConfig,
    ImproveConfig,
    LogConfig,
    LoopConfig,
    MeshConfig,
    MonitorConfig,
    OptimizerConfig,
    PrmConfig,
    RewardsConfig,
    SftConfig,
    TaskConfig,
    TokenizerConfig,
    TrainingConfig,
)
from bstar_jax.config.whole import Config, check_resume, from_dict, schedule_steps, total_steps
from bstar_jax.schema import Preempted, UserError, to_dict

__all__ = [
    "BalanceConfig",
    "CalibrateConfig",
    "CheckpointConfig",
    "CodeConfig",
    "Config",
    "FieldNames",
    "GenerateConfig",
    "ImproveConfig",
    "LogConfig",
    "LoopConfig",
    "MeshConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "Preempted",
    "PrmConfig",
    "RewardsConfig",
    "SftConfig",
    "TaskConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "UserError",
    "check_resume",
    "from_dict",
    "schedule_steps",
    "to_dict",
    "total_steps",
]
