"""All settings of a run: what must fit together, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bstar_jax.config import schema
from bstar_jax.config.errors import UserError
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
from bstar_jax.config.schema import Section, free_settings, is_among, setting, to_dict, to_dotted
from bstar_jax.config.task import RewardsConfig, TaskConfig, TokenizerConfig
from bstar_jax.config.training import (
    ImproveConfig,
    OptimizerConfig,
    PrmConfig,
    SftConfig,
    TrainingConfig,
)

_FUNCTIONS = (".name", ".reward", ".step_reward")  # settings of a source that take functions
_TRAINING_PHASES = ("sft", "prm", "improve")  # sections with steps, a batch and a schedule


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """All settings of a run. Their order is that of config.json."""

    seed: int = setting(
        0,
        "Seed of every random choice.",
        when="Change it to repeat an experiment.",
        low=0,
        high=2**31 - 1,
    )
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    sft: SftConfig = dataclasses.field(default_factory=SftConfig)
    prm: PrmConfig = dataclasses.field(default_factory=PrmConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    calibrate: CalibrateConfig = dataclasses.field(default_factory=CalibrateConfig)
    generate: GenerateConfig = dataclasses.field(default_factory=GenerateConfig)
    rewards: RewardsConfig = dataclasses.field(default_factory=RewardsConfig)
    balance: BalanceConfig = dataclasses.field(default_factory=BalanceConfig)
    improve: ImproveConfig = dataclasses.field(default_factory=ImproveConfig)
    monitor: MonitorConfig = dataclasses.field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for check in _COMBINATIONS:
            check(self)

    def changed(self, changes: Mapping[str, object]) -> Config:
        """A copy with some settings changed. All changes are made, then checked together.

        Example: `config.changed({"improve.steps": 200, "task.fields.question": "problem"})`. The
        name of a section takes a whole section: `config.changed({"prm": PrmConfig()})`.

        Args:
          changes: New values by dotted name, as in `--config.NAME=value`.

        Raises:
          UserError: On an unknown name (with the nearest valid one), type, range or combination.
        """
        return schema.changed(self, changes)


def _check_monitor(config: Config) -> None:
    monitor = config.monitor
    if max(monitor.ks) > monitor.responses:
        raise UserError(
            f"monitor.ks has {max(monitor.ks)}, but monitor.responses is {monitor.responses}; "
            "pass@K needs at least K responses: lower K or raise monitor.responses"
        )
    if monitor.s > max(monitor.ks):
        raise UserError(
            f"monitor.s is {monitor.s}, but the largest of monitor.ks is {max(monitor.ks)}; "
            "S of K responses needs S <= K: lower S or raise K"
        )
    if len(set(monitor.ks)) != len(monitor.ks):
        raise UserError(f"monitor.ks is {monitor.ks}; name each K once")


def _check_grid(config: Config) -> None:
    for name, values in dataclasses.asdict(config.calibrate).items():
        if isinstance(values, tuple) and list(values) != sorted(set(values)):
            raise UserError(f"calibrate.{name} is {values}; each value must be above the last")
    if not config.calibrate.is_single_cell and config.calibrate.queries == 0:
        raise UserError(
            "calibrate.queries is 0, but the grid has several cells; raise calibrate.queries to "
            "choose among them, or give one value on every axis"
        )


def _check_thresholds(config: Config) -> None:
    lowest, weight = min(config.calibrate.thresholds), max(config.calibrate.process_weights)
    if lowest >= 1 + weight:
        raise UserError(
            f"calibrate.thresholds has {lowest:g}, but no reward exceeds 1 + process weight * 1 = "
            f"{1 + weight:g}, and what is kept lies above the threshold; a threshold such as 0.999 "
            "keeps what is right"
        )


def _check_reference_rules(config: Config) -> None:
    if config.balance.rules != "reference":
        return
    if config.balance.distinct != "text":
        raise UserError(
            f"balance.distinct is {config.balance.distinct!r}, but balance.rules=reference tells "
            "repeats by their text; use balance.distinct=text"
        )
    if config.balance.target_total == 0:
        raise UserError(
            "balance.rules=reference chooses the cap by balance.target_total, which is 0; set it "
            "to the number of responses wanted in all"
        )


def _check_dtype(config: Config) -> None:
    if config.model.dtype == "file" and not config.model.checkpoint:
        raise UserError(
            "model.dtype is 'file', but there is no model.checkpoint whose dtype that could be; "
            "name one, or use float32 or bfloat16"
        )


def _check_human_solutions(config: Config) -> None:
    if config.sft.steps and config.sft.examples == 0:
        raise UserError(
            f"sft.steps is {config.sft.steps}, but sft.examples is 0; raise sft.examples, or set "
            "sft.steps=0 to skip warm-up"
        )
    learns_human = config.prm.completer_steps and config.prm.completer_data == "human"
    if learns_human and config.sft.examples == 0:
        raise UserError(
            f"prm.completer_steps is {config.prm.completer_steps}, but sft.examples is 0; the "
            "completer learns those human solutions: raise sft.examples"
        )
    share, batch = config.improve.reference_share, config.improve.batch
    if share and config.sft.examples == 0:
        raise UserError(
            f"improve.reference_share is {share}, but sft.examples is 0; it is a share of those "
            "human solutions: raise sft.examples"
        )
    if share and not config.improve.reference_rows:
        raise UserError(
            f"improve.reference_share is {share} of improve.batch={batch}, which is less than a "
            "row; raise one of them"
        )


def _check_schedules(config: Config) -> None:
    if config.improve.init_from == "base" and not config.model.checkpoint:
        raise UserError(
            "improve.init_from=base starts from the model before warm-up, which is random here; "
            "use improve.init_from=warmup, or set model.checkpoint"
        )
    for name in _TRAINING_PHASES:
        section, steps = getattr(config, name), total_steps(config, name)
        if section.schedule_steps and section.schedule_steps < steps:
            raise UserError(
                f"{name}.schedule_steps is {section.schedule_steps}, but the phase has {steps} "
                "steps in all, and the schedule must span them; raise it, or set it to 0 for all"
            )
        if section.steps and section.warmup_steps > schedule_steps(config, name):
            raise UserError(
                f"{name}.warmup_steps is {section.warmup_steps} of "
                f"{schedule_steps(config, name)} steps in all; the growth must fit in the schedule"
            )


def _check_rows(config: Config) -> None:
    packed, micro = config.training.row_tokens, config.training.micro_rows
    longest = config.generate.max_prompt_tokens + config.generate.max_tokens
    if packed and packed < longest:
        raise UserError(
            f"training.row_tokens is {packed}, but a text may have generate.max_prompt_tokens + "
            f"generate.max_tokens = {longest} tokens; raise it to at least {longest}, or set it "
            "to 0 for a row per text"
        )
    if not micro or packed:  # packed rows are made in a number that divides
        return
    for name in _TRAINING_PHASES:
        section = getattr(config, name)
        is_used = config.prm.enabled if name == "prm" else section.steps
        if is_used and section.batch % micro:
            divisors = [rows for rows in range(1, section.batch + 1) if section.batch % rows == 0]
            nearest = min(divisors, key=lambda rows: abs(rows - micro))
            raise UserError(
                f"training.micro_rows is {micro} and {name}.batch is {section.batch}; every pass "
                f"takes the same number of rows: the nearest that divides is "
                f"training.micro_rows={nearest}"
            )


def _check_task(config: Config) -> None:
    for source, settings in config.task.all_sources().items():
        if settings.name == "arithmetic" and settings.path:
            place = f"task.sources.{source}" if source else "task"
            raise UserError(
                f"{place}.path is {settings.path!r}, but task 'arithmetic' makes its own queries; "
                "drop it, or name another task"
            )
    for source, settings in config.task.all_sources().items():
        place = f"task.sources.{source}" if source else "task"
        for name, parts in (
            ("prompt", ("{question}",)),
            ("hint_prompt", ("{question}", "{reference}")),
        ):
            template = getattr(settings, name)
            for part in parts:
                if template and part not in template:
                    raise UserError(f"{place}.{name} is {template!r}; it must hold {part}")
    if any(each.share for each in config.task.sources.values()) and not config.generate.queries:
        raise UserError(
            "task.sources have shares, but generate.queries is 0, which answers every query; set "
            "generate.queries to the number of queries of an iteration"
        )


_COMBINATIONS: tuple[Callable[[Config], None], ...] = (
    _check_monitor,
    _check_grid,
    _check_thresholds,
    _check_reference_rules,
    _check_dtype,
    _check_human_solutions,
    _check_schedules,
    _check_rows,
    _check_task,
)


def total_steps(config: Config, phase: str) -> int:
    """Optimizer steps of phase "sft", "prm" or "improve" that share one schedule.

    Example: 5 iterations of 100 steps are 500 of "improve", but 100 with a fresh optimizer.
    """
    if phase != "improve":
        return getattr(config, phase).steps
    rounds = config.loop.iterations if config.improve.optimizer_from == "last" else 1
    return max(rounds, 1) * config.improve.steps


def schedule_steps(config: Config, phase: str) -> int:
    """Optimizer steps that the schedule of phase "sft", "prm" or "improve" spans."""
    return getattr(config, phase).schedule_steps or total_steps(config, phase)


def from_dict(values: Mapping[str, Any]) -> Config:
    """Builds and checks a config from nested dictionaries; what is missing takes its default.

    Raises:
      UserError: On an unknown name (with the nearest valid one), type, range or combination.
    """
    return schema.from_dict(values, Config)


def with_absolute_functions(config: Config) -> Config:
    """A copy in which functions in files have absolute paths, so that they are found anywhere."""
    changes = {
        name: schema.absolute_function(value)
        for name, value in to_dotted(to_dict(config.task), "task.").items()
        if name.endswith(_FUNCTIONS) and schema.absolute_function(value) != value
    }
    return config.changed(changes)


def check_resume(stored: Config, given: Config, *, has_fingerprints: bool = False) -> None:
    """Refuses to continue a run with settings that would have made another run.

    What may differ changes no token, no gradient and no choice. `loop.iterations` may grow where
    the learning rate does not depend on it. Data and functions may lie elsewhere if the run has
    their fingerprints, which tell whether they are the same.

    Args:
      stored: The config of the run.
      given: The config of this start.
      has_fingerprints: Whether the run has fingerprints of its data and functions.

    Raises:
      UserError: With every setting that differs, its stored and its given value.
    """
    old, new = (_as_compared(config) for config in (stored, given))
    free = free_settings(Config, "resume")
    differing = [name for name in old | new if old.get(name) != new.get(name)]
    differing = [name for name in differing if not is_among(name, free)]
    if has_fingerprints:
        differing = [name for name in differing if not _may_move(name, old, new)]
    if "loop.iterations" in differing:
        grows = given.loop.iterations > stored.loop.iterations
        constant = given.improve.final_rate == 1.0 or given.improve.optimizer_from == "fresh"
        if grows and constant:
            differing.remove("loop.iterations")
    if differing:
        lines = [
            f"  {name}: the run has {old.get(name)!r}, given {new.get(name)!r}"
            for name in differing
        ]
        remedy = "use another --workdir, or drop these overrides"
        if "loop.iterations" in differing:
            remedy += "\n(loop.iterations may grow where the learning rate is constant)"
        raise UserError(
            "\n".join(["the run directory holds a run of another config:", *lines, remedy])
        )


def _as_compared(config: Config) -> dict[str, Any]:
    """The settings by dotted name. A reward that is a task's own is written in one way."""
    dotted = to_dotted(to_dict(config))
    for name, value in dotted.items():
        if name.startswith("task.") and name.endswith(".reward") and value == "number":
            dotted[name] = ""  # as earlier versions wrote it for every task
    if config.model.checkpoint:  # which decides them, whatever a config file says
        for name in ModelConfig.architecture():
            del dotted[f"model.{name}"]
    return dotted


def _may_move(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    is_function = all(":" in str(values.get(name)) for values in (old, new))
    return name.startswith("task.") and (
        name.endswith(".path") or (name.endswith(_FUNCTIONS) and is_function)
    )
