"""All settings of a run: what must fit together, and what a resumed run may change."""

from __future__ import annotations

import dataclasses

from bstar_jax import schema
from bstar_jax.config.architecture import ModelConfig
from bstar_jax.config.sections import (
    BalanceConfig,
    CalibrateConfig,
    CheckpointConfig,
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
from bstar_jax.schema import Checked, UserError, flatten, setting, to_dict


def _section(cls):
    return dataclasses.field(default_factory=cls)


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """All settings of a run."""

    seed: int = setting(0, "of every random choice", low=0, high=2**31 - 1)
    task: TaskConfig = _section(TaskConfig)
    tokenizer: TokenizerConfig = _section(TokenizerConfig)
    model: ModelConfig = _section(ModelConfig)
    mesh: MeshConfig = _section(MeshConfig)
    optimizer: OptimizerConfig = _section(OptimizerConfig)
    training: TrainingConfig = _section(TrainingConfig)
    sft: SftConfig = _section(SftConfig)
    prm: PrmConfig = _section(PrmConfig)
    loop: LoopConfig = _section(LoopConfig)
    calibrate: CalibrateConfig = _section(CalibrateConfig)
    generate: GenerateConfig = _section(GenerateConfig)
    rewards: RewardsConfig = _section(RewardsConfig)
    balance: BalanceConfig = _section(BalanceConfig)
    improve: ImproveConfig = _section(ImproveConfig)
    monitor: MonitorConfig = _section(MonitorConfig)
    checkpoint: CheckpointConfig = _section(CheckpointConfig)
    log: LogConfig = _section(LogConfig)

    def __post_init__(self):
        super().__post_init__()
        for rule in _COMBINATIONS:
            rule(self)


def _check_monitor(config):
    monitor = config.monitor
    if max(monitor.ks) > monitor.responses:
        raise UserError(
            f"monitor.ks has {max(monitor.ks)} but monitor.responses is {monitor.responses}; "
            "pass@K needs at least K responses: lower K or raise monitor.responses"
        )
    if monitor.s > max(monitor.ks):
        raise UserError(
            f"monitor.s is {monitor.s} but the largest of monitor.ks is {max(monitor.ks)}; "
            "S of K responses needs S <= K"
        )
    if len(set(monitor.ks)) != len(monitor.ks):
        raise UserError(f"monitor.ks is {monitor.ks}; every K stands once")


def _check_grid(config):
    for name in ("temperatures", "top_ks", "thresholds", "process_weights"):
        values = getattr(config.calibrate, name)
        if list(values) != sorted(set(values)):
            raise UserError(f"calibrate.{name} is {values}; values must grow, each once")
    if not config.calibrate.is_single_cell and config.calibrate.queries == 0:
        raise UserError(
            "calibrate.queries is 0 but the grid has several cells; give queries to choose by, "
            "or one value on every axis"
        )
    if config.balance.rules == "reference" and config.balance.distinct != "text":
        raise UserError(
            f"balance.distinct is {config.balance.distinct!r}, but balance.rules=reference tells "
            "repeats by their text; use balance.distinct=text"
        )
    if config.balance.rules == "reference" and config.balance.target_total == 0:
        raise UserError(
            "balance.rules=reference chooses the cap by balance.target_total, which is 0; "
            "set it to the number of responses wanted in all"
        )


def _check_training(config):
    if config.improve.init_from == "base" and not config.model.checkpoint:
        raise UserError(
            "improve.init_from=base starts from the model before warm-up, which is random "
            "here; use improve.init_from=warmup, or give model.checkpoint"
        )
    if config.sft.steps and config.sft.examples == 0:
        raise UserError("sft.steps is set but sft.examples is 0; set sft.steps=0 to skip warm-up")
    learns_human = config.prm.completer_steps and config.prm.completer_data == "human"
    if learns_human and config.sft.examples == 0:
        raise UserError(
            f"prm.completer_steps is {config.prm.completer_steps}, but sft.examples is 0; it is "
            "taught on those human solutions: raise sft.examples"
        )
    if config.improve.reference_share and config.sft.examples == 0:
        raise UserError(
            f"improve.reference_share is {config.improve.reference_share}, but sft.examples is 0; "
            "it is a share of those human solutions: raise sft.examples"
        )
    if config.improve.reference_share and not config.improve.reference_rows:
        raise UserError(
            f"improve.reference_share is {config.improve.reference_share} of improve.batch="
            f"{config.improve.batch}, which is no whole row; raise one of them"
        )
    for name in ("sft", "prm", "improve"):
        section = getattr(config, name)
        if section.schedule_steps and section.schedule_steps < total_steps(config, name):
            raise UserError(
                f"{name}.schedule_steps is {section.schedule_steps}, but there are "
                f"{total_steps(config, name)} steps in all, and the schedule must span them; "
                "raise it, or 0 takes all"
            )
        if section.steps and section.warmup_steps > schedule_steps(config, name):
            raise UserError(
                f"{name}.warmup_steps is {section.warmup_steps} of "
                f"{schedule_steps(config, name)} steps in all; warm-up must fit in the schedule"
            )


def _check_rows(config):
    packed, micro = config.training.row_tokens, config.training.micro_rows
    longest = config.generate.max_prompt_tokens + config.generate.max_tokens
    if packed and packed < longest:
        raise UserError(
            f"training.row_tokens is {packed}, but a text may have generate.max_prompt_tokens + "
            f"generate.max_tokens = {longest} tokens; give at least so many, or 0 for a row a text"
        )
    # Packed rows are made as many as divide.
    if micro and not packed:
        for name in ("sft", "prm", "improve"):
            batch = getattr(config, name).batch
            is_used = config.prm.enabled if name == "prm" else getattr(config, name).steps
            if is_used and batch % micro:
                divisors = [rows for rows in range(1, batch + 1) if batch % rows == 0]
                nearest = min(divisors, key=lambda rows: abs(rows - micro))
                raise UserError(
                    f"training.micro_rows is {micro} and {name}.batch {batch}; each pass takes as "
                    f"many rows: the nearest that divides is training.micro_rows={nearest}"
                )


def _check_task(config):
    if config.task.name == "arithmetic" and config.task.path:
        raise UserError("task.path is given but task 'arithmetic' makes its own queries; drop it")
    for name, parts in (
        ("prompt", ("{question}",)),
        ("hint_prompt", ("{question}", "{reference}")),
    ):
        template = getattr(config.task, name)
        for part in parts:
            if template and part not in template:
                raise UserError(f"task.{name} is {template!r}; it must hold {part}")


_COMBINATIONS = (_check_monitor, _check_grid, _check_training, _check_rows, _check_task)


def total_steps(config: Config, phase: str) -> int:
    """Optimizer steps of phase "sft", "prm" or "improve" that one schedule serves."""
    if phase != "improve":
        return getattr(config, phase).steps
    rounds = config.loop.iterations if config.improve.optimizer_from == "last" else 1
    return max(rounds, 1) * config.improve.steps


def schedule_steps(config: Config, phase: str) -> int:
    """Optimizer steps that the learning rate of phase "sft", "prm" or "improve" is laid out for."""
    return getattr(config, phase).schedule_steps or total_steps(config, phase)


def from_dict(values: dict) -> Config:
    """Builds and checks a config from nested dictionaries; what is missing takes its default.

    Raises:
      UserError: On an unknown name (with the nearest valid one), type, range or combination.
    """
    return schema.from_dict(values, Config)


# What a resume may change: it moves no token, no gradient and no choice.
FREE_TO_CHANGE = ("mesh.", "log.", "rewards.workers", "checkpoint.keep", "checkpoint.minutes")


def check_resume(stored: Config, given: Config) -> None:
    """Refuses to continue a run under settings that would have made another run.

    Raises:
      UserError: With every setting that differs, its stored and its given value.
    """
    old, new = flatten(to_dict(stored)), flatten(to_dict(given))
    differing = [
        name for name in old if old[name] != new[name] and not name.startswith(FREE_TO_CHANGE)
    ]
    if "loop.iterations" in differing:
        grows = given.loop.iterations > stored.loop.iterations
        constant = given.improve.final_rate == 1.0 or given.improve.optimizer_from == "fresh"
        if grows and constant:
            differing.remove("loop.iterations")
    if differing:
        lines = [f"  {name}: the run has {old[name]!r}, given {new[name]!r}" for name in differing]
        raise UserError(
            "the run directory holds a run of another config:\n"
            + "\n".join(lines)
            + "\nuse another --workdir, or drop these overrides"
            + (
                "\n(loop.iterations may grow where the learning rate is constant)"
                if "loop.iterations" in differing
                else ""
            )
        )
