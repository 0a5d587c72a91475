"""A run: its directory opened, its task, tokenizer, model and mesh made, ready for phases."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from bstar_jax import sharding, tasks, tokenizer
from bstar_jax.checkpoint import Checkpoints
from bstar_jax.config import (
    Config,
    ModelConfig,
    Preempted,
    UserError,
    check_resume,
    from_dict,
    to_dict,
)
from bstar_jax.console import Console
from bstar_jax.journal import MetricsLog, iteration_rows, write_json
from bstar_jax.rewards import Grader, open_grader
from bstar_jax.rewards.process import ProcessModel
from bstar_jax.sampling import Sampler
from bstar_jax.sampling.weights import rollout_config, rollout_params
from bstar_jax.tasks import Task
from bstar_jax.tokenizer import Tokenizer, check_round_trip


class StopRequest:
    """Set by SIGTERM; phases look at it where their state is whole."""

    def __init__(self):
        self.is_set = False

    def listen(self) -> None:
        """Takes over SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "is_set", True))

    def check(self) -> None:
        """Raises `Preempted` if the process was asked to stop.

        Raises:
          Preempted: After SIGTERM.
        """
        if self.is_set:
            raise Preempted("the state is saved; the same command goes on from here")


@dataclasses.dataclass(frozen=True)
class Run:
    """What every phase works with.

    Attributes:
      directory: The run directory.
      config: All settings.
      task: The queries.
      tokenizer: Text to tokens and back.
      model: The model, its vocabulary size resolved.
      mesh: The devices.
      checkpoints: Parameters and training state on disk.
      log: metrics.jsonl and its mirrors.
      console: What a person sees.
      stop: Whether to stop soon.
      grader: Grades responses.
    """

    directory: pathlib.Path
    config: Config
    task: Task
    tokenizer: Tokenizer
    model: ModelConfig
    mesh: Mesh
    checkpoints: Checkpoints
    log: MetricsLog
    console: Console
    stop: StopRequest
    grader: Grader

    @functools.cached_property
    def sampler(self) -> Sampler:
        """Draws responses with this run's model and lengths."""
        settings = self.config.generate
        config = rollout_config(self.model, settings.weights)
        return Sampler(config, self.tokenizer, settings, self.mesh)

    @functools.cached_property
    def process_model(self) -> ProcessModel | None:
        """What scores solution steps, where the config has it learnt; it never changes again.

        Raises:
          UserError: If it has not been learnt yet.
        """
        settings = self.config.prm
        if not settings.enabled:
            return None
        config = dataclasses.replace(self.model, scalar_head=True)
        with contextlib.closing(self.process_checkpoints(read_only=True)) as checkpoints:
            if not checkpoints.iterations():
                raise UserError(
                    f"{self.directory} has no process model yet: the command that started the run "
                    "goes on to learn it"
                )
            params = checkpoints.restore_params(0)
        return ProcessModel(
            config,
            rollout_params(config, params, self.mesh, weights="same"),
            self.tokenizer,
            separator=self.separator,
            marker=self.task.answer_marker,
            reduction=settings.reduction,
            batch=settings.score_batch,
            mesh=self.mesh,
        )

    @property
    def separator(self) -> str:
        """What ends a solution step."""
        return self.config.prm.separator or self.task.separator

    def process_checkpoints(self, *, read_only: bool) -> Checkpoints:
        """The checkpoints of the process model."""
        config = dataclasses.replace(self.model, scalar_head=True)
        return Checkpoints(
            self.directory / "checkpoints" / "prm", config, self.mesh, read_only=read_only
        )

    def completer_checkpoints(self) -> Checkpoints:
        """The checkpoints of the model that continues steps, where it has training of its own."""
        return Checkpoints(self.directory / "checkpoints" / "completer", self.model, self.mesh)

    def begin(self) -> None:
        """Puts config and tokenizer in the directory: from here on it holds this run."""
        if not (self.directory / "config.json").exists():
            # A tokenizer without a config is left of a start that was cut short.
            shutil.rmtree(self.directory / "tokenizer", ignore_errors=True)
            temporary = self.directory / "tokenizer.tmp"
            self.tokenizer.save(temporary)
            os.replace(temporary, self.directory / "tokenizer")
        _write_config(self.directory, self.config)

    def path(self, iteration: int, name: str) -> pathlib.Path:
        """A file of an iteration."""
        return self.directory / "iterations" / f"{iteration:04d}" / name

    def iterations_left(self) -> list[int]:
        """Iterations that are not over; 0 is warm-up. Monitor's row is the last thing written."""
        every = range(self.config.loop.iterations + 1)
        return [iteration for iteration in every if self.log.last(iteration, "monitor") is None]

    def end_iteration(self) -> None:
        """Shows the table so far, and stops here if asked to."""
        self.console.iteration_table(iteration_rows(self.log.rows()))
        self.stop.check()

    def log_once(self, iteration: int, phase: str, seconds: float | None, **figures) -> None:
        """Appends a phase's metrics row, unless it stands."""
        if self.log.last(iteration, phase) is None:
            row = {"iteration": iteration, "phase": phase, "wall_seconds": seconds, **figures}
            self.log.append(row)


@contextlib.contextmanager
def open_run(
    directory: str | os.PathLike,
    config: Config,
    console: Console,
    *,
    stop: StopRequest | None = None,
    write: bool = True,
) -> Iterator[Run]:
    """Creates a run directory, or opens the run that it holds.

    Args:
      directory: Where the run is or will be.
      config: All settings.
      console: What a person sees.
      stop: Where a request to stop is noted; by default nothing listens.
      write: Whether the run goes on; else it is only read, and its config may differ.

    Raises:
      UserError: On bad input, a config that is not that of the run, a mesh that does not
        divide, or a directory that another process has open.
    """
    directory = pathlib.Path(directory)
    mesh = sharding.make_mesh(config.mesh)
    task = load_task(config)
    words = _tokenizer(directory, config, task)
    model_config = resolve_model(config.model, words)
    sharding.check_model(mesh, model_config)
    names = ["sft.batch", "improve.batch"]
    for name in names + (["prm.batch", "prm.score_batch"] if config.prm.enabled else []):
        section, field = name.split(".")
        sharding.check_rows(mesh, name, getattr(getattr(config, section), field))
    _check_texts(words, task)
    for note in task.notes:
        console.warn(note)
    with contextlib.ExitStack() as stack:
        if write:
            stack.enter_context(_claim(directory, config, console))
        grader = stack.enter_context(open_grader(task, config.rewards))
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
            write=write,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb_project,
            config=to_dict(config),
        )
        stack.callback(log.close)
        yield Run(
            directory,
            config,
            task,
            words,
            model_config,
            mesh,
            checkpoints,
            log,
            console,
            stop or StopRequest(),
            grader,
        )


def load_task(config: Config) -> Task:
    """The task of a config."""
    fields = dataclasses.asdict(config.task)
    del fields["fields"]
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


def read_config(directory: str | os.PathLike) -> Config:
    """The config that a run directory was made with.

    Raises:
      UserError: If there is no run.
    """
    path = pathlib.Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{directory} holds no run: there is no {path}")
    try:
        return from_dict(json.loads(path.read_text())["config"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} is not a run's config: {error}") from error


def _tokenizer(directory: pathlib.Path, config: Config, task: Task) -> Tokenizer:
    stored = directory / "tokenizer"
    if (directory / "config.json").exists():
        return tokenizer.load(stored)
    if config.tokenizer.path:
        return tokenizer.load(config.tokenizer.path)
    if task.words:
        return tokenizer.word_tokenizer(task.words)
    return tokenizer.train_sentencepiece(_texts(task), config.tokenizer.vocab_size)


def _texts(task: Task) -> list[str]:
    """All text that may be trained on; held-out and calibration queries have no part."""
    queries = (*task.splits["sft"], *task.splits["train"])
    texts = [text for query in queries for text in (query.prompt, query.solution) if text]
    return list(dict.fromkeys(texts))


def _check_texts(words: Tokenizer, task: Task) -> None:
    check_round_trip(words, _texts(task))


@contextlib.contextmanager
def _claim(directory: pathlib.Path, config: Config, console: Console):
    """Holds the directory for this process, the config of a run in it checked."""
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory} is in use by another process; wait for it, or use another --workdir"
            ) from None
        if (directory / "config.json").exists():
            check_resume(read_config(directory), config)
            _compare_versions(directory, console)
        yield
    finally:
        os.close(handle)


def _write_config(directory: pathlib.Path, config: Config) -> None:
    """Writes config.json; a resume changes the settings in it, not what the run was made with."""
    path = directory / "config.json"
    if path.exists():
        record = {**json.loads(path.read_text()), "config": to_dict(config)}
    else:
        record = {
            "config": to_dict(config),
            "versions": _versions(),
            "devices": [str(device.device_kind) for device in jax.devices()],
            "revision": _revision(),
        }
    write_json(path, record, indent=2)


def _compare_versions(directory: pathlib.Path, console: Console) -> None:
    stored = json.loads((directory / "config.json").read_text())["versions"]
    changed = [
        f"{name} {stored.get(name)} -> {version}"
        for name, version in _versions().items()
        if stored.get(name) != version
    ]
    if changed:
        console.warn(f"the run was made with other versions: {', '.join(changed)}")


def _versions() -> dict[str, str]:
    names = ("bstar_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    normal = {name.replace("-", "_"): version for name, version in installed.items() if name}
    return {name: normal.get(name.replace("-", "_"), "") for name in names}


def _revision() -> str:
    """The git revision of the source, "" where there is none."""
    here = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
