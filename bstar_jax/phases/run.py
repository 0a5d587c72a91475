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
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh

from bstar_jax import adapters, hub, model, sharding, tasks, tokenizer
from bstar_jax.checkpoint import Checkpoints, place_params
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
      model: The model as it trains, its vocabulary size resolved.
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

    @property
    def source(self) -> pathlib.Path | None:
        """What is kept of the checkpoint that the run started from, but its weights."""
        return self.directory / "source" if self.config.model.checkpoint else None

    @property
    def whole_model(self) -> ModelConfig:
        """The model with its adapters merged: what answers."""
        return adapters.without(self.model)

    def start(self) -> dict:
        """What training changes, before warm-up, on the storage map.

        All parameters, from the checkpoint or random; or adapters that change nothing yet.

        Raises:
          UserError: If the checkpoint is not there any more.
        """
        if not self.model.lora_rank:
            return adapters.trained(self.model, self._base("float32"))
        init = jax.jit(functools.partial(adapters.start, self.model))
        return place_params(self.model, self.mesh, init(jax.random.key(self.config.seed)))

    @functools.cached_property
    def frozen(self) -> dict:
        """The parameters that no training changes, as the computation wants them; {} without."""
        if adapters.all_train(self.model):
            return {}
        return adapters.frozen(self.model, self._base(self.model.dtype))

    def _base(self, dtype: str) -> dict:
        """The parameters that the run starts from, without adapters."""
        name = self.config.model.checkpoint
        if name:
            return hub.import_checkpoint(hub.locate(name), self.mesh, dtype)[1]
        init = jax.jit(functools.partial(model.init, self.whole_model))
        return place_params(self.model, self.mesh, init(jax.random.key(self.config.seed)))

    def whole(self, params: dict, dtype: str = "") -> dict:
        """What training changes made one with what it leaves: parameters of `whole_model`.

        Args:
          params: What training changes.
          dtype: Of what it leaves; "" is that of the computation.
        """
        frozen = self.frozen
        if dtype and frozen:
            frozen = adapters.frozen(self.model, self._base(dtype))
        return adapters.merge(self.model, adapters.join(frozen, params))

    @functools.cached_property
    def sampler(self) -> Sampler:
        """Draws responses with this run's model and lengths."""
        settings = self.config.generate
        config = rollout_config(self.whole_model, settings.weights)
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
        config = dataclasses.replace(self.whole_model, scalar_head=True)
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
        config = dataclasses.replace(self.whole_model, scalar_head=True)
        return Checkpoints(
            self.directory / "checkpoints" / "prm", config, self.mesh, read_only=read_only
        )

    def completer_checkpoints(self) -> Checkpoints:
        """The checkpoints of the model that continues steps, where it has training of its own."""
        return Checkpoints(self.directory / "checkpoints" / "completer", self.model, self.mesh)

    def begin(self) -> None:
        """Puts config and tokenizer in the directory: from here on it holds this run."""
        if not (self.directory / "config.json").exists():
            self._keep("tokenizer", self.tokenizer.save)
            if self.source:
                checkpoint = hub.locate(self.config.model.checkpoint)
                self._keep("source", functools.partial(hub.keep_source, checkpoint))
        _write_config(self.directory, self.config)

    def _keep(self, name: str, write: Callable[[pathlib.Path], None]) -> None:
        """A folder of the run, whole or not there."""
        # One without a config is left of a start that was cut short.
        shutil.rmtree(self.directory / name, ignore_errors=True)
        temporary = self.directory / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        write(temporary)
        os.replace(temporary, self.directory / name)

    def path(self, iteration: int, name: str) -> pathlib.Path:
        """A file of an iteration."""
        return self.directory / "iterations" / f"{iteration:04d}" / name

    def checkpointed(self, wanted: int | None) -> int:
        """An iteration whose parameters are on disk: the one wanted, or the last.

        Raises:
          UserError: If there is none yet.
        """
        iterations = self.checkpoints.iterations()
        if not iterations:
            raise UserError(f"{self.directory} has no checkpoint yet")
        return iterations[-1] if wanted is None else wanted

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
    source = _source(directory, config)
    words = _tokenizer(directory, config, task, source)
    words = tokenizer.for_chat(words) if config.task.chat_template else words
    model_config = resolve_model(config.model, words, source)
    sharding.check_model(mesh, model_config)
    names = ["sft.batch", "improve.batch"]
    for name in names + (["prm.batch", "prm.score_batch"] if config.prm.enabled else []):
        section, field = name.split(".")
        sharding.check_rows(mesh, name, getattr(getattr(config, section), field))
    _check_texts(words, task)
    _check_special(words, config)
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
    del fields["fields"], fields["chat_template"]
    return tasks.load(
        **fields,
        fields=config.task.fields,
        seed=config.seed,
        sft_examples=config.sft.examples,
        calibration_queries=config.calibrate.queries,
        heldout_queries=config.monitor.queries,
    )


def resolve_model(
    config: ModelConfig, words: Tokenizer, source: pathlib.Path | None = None
) -> ModelConfig:
    """The model with its vocabulary size, its architecture that of a checkpoint where there is one.

    Args:
      config: As the run's config has it.
      words: The tokenizer.
      source: The checkpoint's directory, or what is kept of it.

    Raises:
      UserError: If the config states a vocabulary that the tokenizer's ids do not fit in, or
        something that the checkpoint has otherwise.
    """
    if source:
        config = hub.architecture(config, source)
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
    if task.words:
        return tokenizer.word_tokenizer(task.words)
    return tokenizer.train_sentencepiece(_texts(task), config.tokenizer.vocab_size)


def _texts(task: Task) -> list[str]:
    """All text that may be trained on; held-out and calibration queries have no part."""
    queries = (*task.splits["sft"], *task.splits["train"])
    every = ((query.prompt, query.solution, *query.more_solutions) for query in queries)
    return list(dict.fromkeys(text for texts in every for text in texts if text))


def _check_texts(words: Tokenizer, task: Task) -> None:
    check_round_trip(words, _texts(task))


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
