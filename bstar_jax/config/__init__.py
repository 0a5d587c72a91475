"""The config: every setting of a run with its unit and range, checked when it is built.

A config is a tree of frozen dataclasses. `Config()` is complete; a file in `configs/` says
what differs; a flag such as `--config.improve.steps=200` overrides one value (`flags`). No
field is None: "none" is 0 or "". A value outside its range, or a combination that cannot
work, raises `UserError` naming the value, the rule and the remedy.
"""

from bstar_jax.config.config import (
    Config,
    check_resume,
    from_dict,
    schedule_steps,
    total_steps,
    with_absolute_functions,
)
from bstar_jax.config.errors import Preempted, UserError
from bstar_jax.config.loading import leave_to_checkpoint, load_config, pick_variant
from bstar_jax.config.loop import (
    BalanceConfig,
    CheckpointConfig,
    LogConfig,
    LoopConfig,
    MeshConfig,
    MonitorConfig,
)
from bstar_jax.config.model import ModelConfig
from bstar_jax.config.sampling import CalibrateConfig, GenerateConfig
from bstar_jax.config.schema import to_dict
from bstar_jax.config.task import (
    CodeConfig,
    FieldNames,
    RewardsConfig,
    SourceConfig,
    SplitNames,
    TaskConfig,
    TokenizerConfig,
)
from bstar_jax.config.training import (
    ImproveConfig,
    OptimizerConfig,
    PrmConfig,
    SftConfig,
    TrainingConfig,
)

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
    "SourceConfig",
    "SplitNames",
    "TaskConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "UserError",
    "check_resume",
    "from_dict",
    "leave_to_checkpoint",
    "load_config",
    "pick_variant",
    "schedule_steps",
    "to_dict",
    "total_steps",
    "with_absolute_functions",
]
