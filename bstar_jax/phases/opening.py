"""Opening a run: its task, tokenizer, model and mesh are made and checked before any phase."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

from jax.sharding import Mesh

from bstar_jax import hub, sharding, tasks
from bstar_jax import tokenizer as tokenizers
from bstar_jax.config import Config, ModelConfig, UserError, to_dict
from bstar_jax.console import Console
from bstar_jax.grading import open_grader
from bstar_jax.phases.run import Run
from bstar_jax.process_reward.store import ProcessRewardStore
from bstar_jax.processes import ALONE, StopRequest, Team
from bstar_jax.run.checkpoints import Checkpoints
from bstar_jax.run.journal import MetricsLog
from bstar_jax.run.policy import Policy
from bstar_jax.run.workspace import Workspace, claim
from bstar_jax.sampling import Sampler
from bstar_jax.sampling.weights import rollout_config
from bstar_jax.sharding import SamplingMesh
from bstar_jax.tasks import Task
from bstar_jax.tokenizer import Tokenizer, check_round_trip


@contextlib.contextmanager
def open_run(
    directory: str | os.PathLike,
    config: Config,
    console: Console,
    *,
    stop: StopRequest | None = None,
    write: bool = True,
    team: Team = ALONE,
) -> Iterator[Run]:
    """Creates a run directory, or opens the run in it.

    Args:
      directory: The run directory, which need not exist yet.
      config: All settings.
      console: Shows messages and progress.
      stop: Notes a request to stop; by default nothing listens for one.
      write: True continues the run. False opens it read-only; its config may then differ from the
        stored one.
      team: The processes that open it together.

    Yields:
      The run.

    Raises:
      UserError: If the input is wrong, the config differs from that of the run, the mesh does not
        divide a size, or another process has the directory open.
    """
    directory = pathlib.Path(directory)
    mesh = sharding.make_mesh(config.mesh)
    task = load_task(config)
    model, tokenizer = _model_and_tokenizer(directory, config, task)
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
        checkpoints = Checkpoints(
            directory / "checkpoints", model, mesh, keep=config.checkpoint.keep, read_only=not write
        )
        stack.callback(checkpoints.close)
        log = stack.enter_context(_open_log(directory, config, write=write and team.is_first))
        team.barrier()  # every process has read the stored files before one changes them
        workspace = Workspace(directory, log, console, stop or StopRequest(team), team)
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


def load_task(config: Config) -> Task:
    """Loads the task of a config."""
    tasks.check_distinct(config.task, config.balance.distinct)
    fields = dataclasses.asdict(config.task)
    del fields["fields"], fields["chat_template"]
    return tasks.load(
        **fields,
        fields=config.task.fields,
        seed=config.seed,
        sft_examples=config.sft.examples,
        calibration_queries=config.calibrate.queries,
        heldout_queries=config.monitor.queries,
    )


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
    directory: pathlib.Path, config: Config, task: Task
) -> tuple[ModelConfig, Tokenizer]:
    """Makes the model, with its vocabulary size, and the tokenizer, checked on the task's text."""
    source = _source(directory, config)
    architecture = hub.adopt_architecture(config.model, source) if source else config.model
    tokenizer = _tokenizer(directory, config, task, source)
    tokenizer = tokenizers.for_chat(tokenizer) if config.task.chat_template else tokenizer
    model = resolve_model(architecture, tokenizer)
    check_round_trip(tokenizer, _texts(task))
    _check_special(tokenizer, config)
    return model, tokenizer


def _source(directory: pathlib.Path, config: Config) -> pathlib.Path | None:
    """Returns the folder of the checkpoint to start from, or the copy in a run that has begun."""
    if not config.model.checkpoint:
        return None
    if (directory / "config.json").exists():
        return directory / "source"
    return hub.locate(config.model.checkpoint)


def _tokenizer(
    directory: pathlib.Path, config: Config, task: Task, source: pathlib.Path | None
) -> Tokenizer:
    stored = directory / "tokenizer"
    if (directory / "config.json").exists():
        return tokenizers.load(stored)
    if config.tokenizer.path:
        return tokenizers.load(config.tokenizer.path)
    if source:
        return tokenizers.load(source)
    if task.vocabulary:
        return tokenizers.word_tokenizer(task.vocabulary)
    return tokenizers.train_sentencepiece(_texts(task), config.tokenizer.vocab_size)


def _texts(task: Task) -> list[str]:
    """Lists all text that may be trained on: no text of held-out or calibration queries."""
    queries = (*task.splits["sft"], *task.splits["train"])
    every = ((query.prompt, query.solution, *query.more_solutions) for query in queries)
    return list(dict.fromkeys(text for texts in every for text in texts if text))


def _check_special(tokenizer: Tokenizer, config: Config) -> None:
    """Refuses special tokens in settings, where they would be read as plain text."""
    values = {
        "task.prompt": (config.task.prompt,),
        "task.hint_prompt": (config.task.hint_prompt,),
        "generate.stop": config.generate.stop,
    }
    for name, texts in values.items():
        found = [token for token in tokenizer.special if any(token in text for text in texts)]
        if found:
            raise UserError(
                f"{name} contains {found[0]!r}, a special token, but text never becomes one; take "
                "it out: task.chat_template=True writes the turns of a chat, and a response ends "
                "at every eos_token_id of the tokenizer's generation_config.json"
            )
