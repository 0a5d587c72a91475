"""A run opened: its task, tokenizer, model and mesh made and checked, ready for phases."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

from jax.sharding import Mesh

from bstar_jax import hub, sharding, tasks, tokenizer
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
    """Creates a run directory, or opens the run that it holds.

    Args:
      directory: Where the run is or will be.
      config: All settings.
      console: What a person sees.
      stop: Where a request to stop is noted; by default nothing listens.
      write: Whether the run goes on; else it is only read, and its config may differ.
      team: The processes that open it together.

    Raises:
      UserError: On bad input, a config that is not that of the run, a mesh that does not
        divide, or a directory that another process has open.
    """
    directory = pathlib.Path(directory)
    mesh = sharding.make_mesh(config.mesh)
    task = load_task(config)
    source = _source(directory, config)
    architecture = hub.adopt_architecture(config.model, source) if source else config.model
    words = _tokenizer(directory, config, task, source)
    words = tokenizer.for_chat(words) if config.task.chat_template else words
    model_config = resolve_model(architecture, words)
    sharding.check_model(mesh, model_config)
    sharding.check_batches(mesh, config)
    check_round_trip(words, _texts(task))
    _check_special(words, config)
    for note in task.notes:
        console.warn(note)
    sampling_mesh = choose_sampling_mesh(mesh, config.mesh.sampling, console, team)
    with contextlib.ExitStack() as stack:
        if write and team.is_first:
            stack.enter_context(claim(directory, config, console))
        grader = stack.enter_context(
            open_grader(task.query_by_id.values(), task.sources, config.rewards, task.places)
        )
        checkpoints = Checkpoints(
            directory / "checkpoints",
            model_config,
            mesh,
            keep=config.checkpoint.keep,
            read_only=not write,
        )
        stack.callback(checkpoints.close)
        log = MetricsLog(
            directory / "metrics.jsonl",
            write=write and team.is_first,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb_project,
            config=to_dict(config),
        )
        stack.callback(log.close)
        team.barrier()  # all have read what stands, before any changes it
        workspace = Workspace(directory, log, console, stop or StopRequest(team), team)
        kept = directory / "source" if config.model.checkpoint else None
        policy = Policy(config, model_config, words, mesh, sampling_mesh, checkpoints, kept)
        yield Run(
            config,
            task,
            workspace,
            policy,
            grader,
            _sampler(config, policy),
            ProcessRewardStore(directory, config, task, policy, team)
            if config.prm.enabled
            else None,
        )


def choose_sampling_mesh(mesh: Mesh, where: str, console: Console, team: Team) -> SamplingMesh:
    """Where this process samples: on all devices if its own alone are not to be had.

    Some TPU slices may take no program for a part of their devices; what runs here tells.

    Args:
      mesh: All devices.
      where: As `mesh.sampling`.
      console: Is told where it is not as wished.
      team: The processes, which decide together.
    """
    sampling_mesh = sharding.sampling_mesh(mesh, where)
    if sampling_mesh.mesh == mesh or where == "host":
        return sampling_mesh
    complaints = list(filter(None, team.gather_json(sharding.refusal(sampling_mesh.mesh))))
    if not complaints:
        return sampling_mesh
    console.warn(
        f"the devices of one process take no program of their own ({complaints[0]}); all devices "
        "sample together, which is slower: mesh.sampling=global says so from the start"
    )
    return sharding.sampling_mesh(mesh, "global")


def _sampler(config: Config, policy: Policy) -> Sampler:
    """Draws responses with the policy, at the lengths and batch sizes of the config."""
    settings = config.generate
    model = rollout_config(policy.merged_model, settings.weights)
    return Sampler(model, policy.tokenizer, settings, policy.mesh, policy.sampling_mesh)


def load_task(config: Config) -> Task:
    """The task of a config."""
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


def resolve_model(config: ModelConfig, words: Tokenizer) -> ModelConfig:
    """The model with its vocabulary size.

    Raises:
      UserError: If the config states one that the tokenizer's ids do not fit in.
    """
    if config.vocab_size == 0:
        return dataclasses.replace(config, vocab_size=words.vocab_size)
    if config.vocab_size < words.vocab_size:
        raise UserError(
            f"model.vocab_size is {config.vocab_size}, but the tokenizer has {words.vocab_size} "
            "tokens; the model needs one row for each: set model.vocab_size=0 to take the "
            "tokenizer's"
        )
    return config


def _source(directory: pathlib.Path, config: Config) -> pathlib.Path | None:
    """The directory of the checkpoint to start from; of a run that has begun, what it keeps."""
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
        return tokenizer.load(stored)
    if config.tokenizer.path:
        return tokenizer.load(config.tokenizer.path)
    if source:
        return tokenizer.load(source)
    if task.vocabulary:
        return tokenizer.word_tokenizer(task.vocabulary)
    return tokenizer.train_sentencepiece(_texts(task), config.tokenizer.vocab_size)


def _texts(task: Task) -> list[str]:
    """All text that may be trained on; held-out and calibration queries have no part."""
    queries = (*task.splits["sft"], *task.splits["train"])
    every = ((query.prompt, query.solution, *query.more_solutions) for query in queries)
    return list(dict.fromkeys(text for texts in every for text in texts if text))


def _check_special(words: Tokenizer, config: Config) -> None:
    """Refuses special tokens written in settings, where they would be plain text."""
    values = {
        "task.prompt": (config.task.prompt,),
        "task.hint_prompt": (config.task.hint_prompt,),
        "generate.stop": config.generate.stop,
    }
    for name, texts in values.items():
        found = [token for token in words.special if any(token in text for text in texts)]
        if found:
            raise UserError(
                f"{name} holds {found[0]!r}, a special token, but text never makes one; "
                "task.chat_template=True writes the turns of a chat, and a response ends at every "
                "eos_token_id of the tokenizer's generation_config.json: take it out"
            )
