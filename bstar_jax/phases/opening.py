"""Opening a run: its task, tokenizer, model and mesh are made and checked before any phase."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterator

from jax.sharding import Mesh

from bstar_jax import hub, sharding, tasks
from bstar_jax import tokenizer as tokenizers
from bstar_jax.config import (
    Config,
    ModelConfig,
    UserError,
    to_dict,
    with_absolute_functions,
)
from bstar_jax.console import Console
from bstar_jax.grading import Grader, open_grader, trial
from bstar_jax.phases.run import Run
from bstar_jax.process_reward.store import ProcessRewardStore
from bstar_jax.processes import ALONE, StopRequest, Team
from bstar_jax.run import fingerprints
from bstar_jax.run.checkpoints import Checkpoints
from bstar_jax.run.journal import MetricsLog
from bstar_jax.run.policy import Policy
from bstar_jax.run.workspace import Workspace, claim, read_record
from bstar_jax.sampling import Sampler
from bstar_jax.sampling.weights import rollout_config
from bstar_jax.sharding import SamplingMesh
from bstar_jax.tasks import LoadedTask
from bstar_jax.tasks.tokens import check_tokenizer, choose_tokenizer
from bstar_jax.tokenizer import Tokenizer


@contextlib.contextmanager
def open_run(
    directory: str | os.PathLike,
    config: Config,
    console: Console | None = None,
    *,
    stop: StopRequest | None = None,
    write: bool = True,
    team: Team = ALONE,
    accept: Collection[str] = (),
    stated: Collection[str] = (),
) -> Iterator[Run]:
    """Creates a run directory, or opens the run in it.

    Args:
      directory: The run directory, which need not exist yet.
      config: All settings.
      console: Shows messages and progress; by default on this process's output.
      stop: Notes a request to stop; by default nothing listens for one.
      write: True continues the run. False opens it read-only; its config may then differ from the
        stored one.
      team: The processes that open it together.
      accept: Names of `run.fingerprints` whose change is accepted: "data", "task", "reward",
        "step_reward".
      stated: Settings that a checkpoint may not contradict; see `hub.adopt_architecture`.

    Yields:
      The run.

    Raises:
      UserError: If the input is wrong, the config, the data or a function differs from that of the
        run, a reward fails its trial, the mesh does not divide a size, or another process has the
        directory open.
    """
    console = console or Console()
    directory = pathlib.Path(directory)
    config = with_absolute_functions(config)
    mesh = sharding.make_mesh(config.mesh)
    # A run of an earlier version has no fingerprints, and keeps the queries that it had.
    is_older = "fingerprints" not in (read_record(directory) or {"fingerprints": {}})
    task = tasks.load_task(config, keep_repeats=is_older)
    model, tokenizer = _model_and_tokenizer(directory, config, task, stated)
    sharding.check_model(mesh, model)
    sharding.check_batches(mesh, config)
    for note in task.notes:
        console.warn(note)
    sampling_mesh = choose_sampling_mesh(mesh, config.mesh.sampling, console, team)
    with contextlib.ExitStack() as stack:
        if write and team.is_first:
            stack.enter_context(claim(directory, config, console))
        queries = task.query_by_id.values()
        grader = stack.enter_context(
            open_grader(queries, task.sources, config.rewards, task.places)
        )
        given = fingerprints.of_run(task, grader, accept)
        if write:
            stored = team.agree(
                read_record(directory).get("fingerprints", {}) if team.is_first else None
            )
            fingerprints.check(stored, given)
            if stored != given.fingerprints:
                try_rewards(config, task, grader, console, team)
        checkpoints = Checkpoints(
            directory / "checkpoints", model, mesh, keep=config.checkpoint.keep, read_only=not write
        )
        stack.callback(checkpoints.close)
        log = stack.enter_context(_open_log(directory, config, write=write and team.is_first))
        team.barrier()  # every process has read the stored files before one changes them
        workspace = Workspace(directory, log, console, stop or StopRequest(team), team, given)
        kept = directory / "source" if config.model.checkpoint else None
        policy = Policy(config, model, tokenizer, mesh, sampling_mesh, checkpoints, kept)
        process_reward = ProcessRewardStore(directory, config, task, policy, team)
        yield Run(
            config,
            task,
            workspace,
            policy,
            grader,
            _sampler(config, policy),
            process_reward if config.prm.enabled else None,
        )


def try_rewards(
    config: Config, task: LoadedTask, grader: Grader, console: Console, team: Team
) -> None:
    """Tries the reward of every source, as the setting `task.check_reward` says.

    Raises:
      UserError: If one cannot tell right responses from junk.
    """
    partial = [source.reward or source.correct_at < 1 for source in task.sources.values()]
    calibrate = config.calibrate
    if any(partial) and max(calibrate.process_weights) == 0 and len(calibrate.thresholds) > 1:
        console.warn(
            "without a process reward the largest threshold below task.correct_at always scores "
            "best, so lower ones are never chosen; give one threshold, or a step reward and "
            "process weights"
        )
    if not config.task.check_reward:
        console.warn("task.check_reward is False: the reward was not tried")
        return
    trials: list[trial.Trial] = []
    if team.is_first:
        queries = list(task.query_by_id.values())
        trials = trial.try_rewards(grader, queries, task.sources, config.seed)
    failure = team.agree("\n".join(filter(None, map(trial.Trial.failure, trials))))
    if failure:
        raise UserError(failure)
    for each in trials:
        console.note(f"reward of {each.source}: {each.summary()}")
        for warning in each.warnings():
            console.warn(f"reward of {each.source}: {warning}")


def choose_sampling_mesh(mesh: Mesh, where: str, console: Console, team: Team) -> SamplingMesh:
    """Chooses the devices that this process samples on: its own if possible, otherwise all.

    Some TPU slices may refuse a program for a part of their devices. A trial shows whether they do.

    Args:
      mesh: All devices.
      where: The setting `mesh.sampling`.
      console: Shows a warning if the process cannot sample on its own devices.
      team: The processes, which decide together.
    """
    sampling_mesh = sharding.sampling_mesh(mesh, where)
    if sampling_mesh.mesh == mesh or where == "host":
        return sampling_mesh
    complaints = list(filter(None, team.gather_json(sharding.refusal(sampling_mesh.mesh))))
    if not complaints:
        return sampling_mesh
    console.warn(
        f"the devices of one process refuse a program of their own ({complaints[0]}); all devices "
        "sample together, which is slower; mesh.sampling=global skips this trial"
    )
    return sharding.sampling_mesh(mesh, "global")


def resolve_model(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Sets the vocabulary size of the model, by default to that of the tokenizer.

    Raises:
      UserError: If the stated size is smaller than the tokenizer's.
    """
    if config.vocab_size == 0:
        return dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    if config.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"model.vocab_size is {config.vocab_size}, but the tokenizer has "
            f"{tokenizer.vocab_size} tokens; the model needs one row for each: set "
            "model.vocab_size=0 to take the tokenizer's"
        )
    return config


def _open_log(directory: pathlib.Path, config: Config, *, write: bool) -> MetricsLog:
    return MetricsLog(
        directory / "metrics.jsonl",
        write=write,
        tensorboard=config.log.tensorboard,
        wandb=config.log.wandb_project,
        config=to_dict(config),
    )


def _sampler(config: Config, policy: Policy) -> Sampler:
    """Makes the sampler of the policy, with the lengths and batch sizes of the config."""
    settings = config.generate
    model = rollout_config(policy.merged_model, settings.weights)
    return Sampler(model, policy.tokenizer, settings, policy.mesh, policy.sampling_mesh)


def _model_and_tokenizer(
    directory: pathlib.Path, config: Config, task: LoadedTask, stated: Collection[str]
) -> tuple[ModelConfig, Tokenizer]:
    """Makes the model, with its vocabulary size, and the tokenizer, checked on the task's text."""
    source = _source(directory, config)
    architecture = config.model
    if source:
        architecture = hub.adopt_architecture(architecture, source, stated)
    if (directory / "config.json").exists():
        tokenizer = check_tokenizer(config, task, tokenizers.load(directory / "tokenizer"))
    else:
        tokenizer = choose_tokenizer(config, task, source)
    return resolve_model(architecture, tokenizer), tokenizer


def _source(directory: pathlib.Path, config: Config) -> pathlib.Path | None:
    """Returns the folder of the checkpoint to start from, or the copy in a run that has begun."""
    if not config.model.checkpoint:
        return None
    if (directory / "config.json").exists():
        return directory / "source"
    return hub.locate(config.model.checkpoint)
