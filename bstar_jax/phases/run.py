"""A run: what every phase works with, and where its files are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from bstar_jax import adapters, hub, model
from bstar_jax.checkpoint import Checkpoints, place_params
from bstar_jax.config import Config, ModelConfig, UserError
from bstar_jax.console import Console
from bstar_jax.journal import MetricsLog, iteration_rows
from bstar_jax.phases.directory import write_config
from bstar_jax.processes import ALONE, StopRequest, Team
from bstar_jax.rewards import Grader
from bstar_jax.rewards.process import ProcessModel
from bstar_jax.sampling import Sampler
from bstar_jax.sampling.weights import as_computed, rollout_config
from bstar_jax.sharding import SamplingMesh
from bstar_jax.tasks import Task
from bstar_jax.tokenizer import Tokenizer


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
      site: Those that this process samples on.
      checkpoints: Parameters and training state on disk.
      log: metrics.jsonl and its mirrors.
      console: What a person sees.
      stop: Whether to stop soon.
      grader: Grades responses.
      team: The processes that make the run; each runs all of it, on its own part of the rows.
    """

    directory: pathlib.Path
    config: Config
    task: Task
    tokenizer: Tokenizer
    model: ModelConfig
    mesh: Mesh
    site: SamplingMesh
    checkpoints: Checkpoints
    log: MetricsLog
    console: Console
    stop: StopRequest
    grader: Grader
    team: Team = ALONE

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
        """The parameters that the run starts from, without adapters.

        Raises:
          UserError: If the checkpoint is not there any more, or has other weights by now.
        """
        name = self.config.model.checkpoint
        if name:
            checkpoint = hub.locate(name)
            if self.source.is_dir():
                hub.check_same(checkpoint, self.source)
            return hub.import_checkpoint(checkpoint, self.mesh, dtype)[1]
        init = jax.jit(functools.partial(model.init, self.whole_model))
        return place_params(self.model, self.mesh, init(jax.random.key(self.config.seed)))

    def whole(self, params: dict, dtype: str = "") -> dict:
        """What training changes made one with what it leaves: parameters of `whole_model`.

        Args:
          params: What training changes.
          dtype: Of what it leaves; "" is that of the computation.
        """
        if adapters.all_train(self.model):
            return params
        frozen = adapters.frozen(self.model, self._base(dtype)) if dtype else self.frozen
        return adapters.merge(self.model, adapters.join(frozen, params))

    @functools.cached_property
    def sampler(self) -> Sampler:
        """Draws responses with this run's model and lengths."""
        settings = self.config.generate
        config = rollout_config(self.whole_model, settings.weights)
        return Sampler(config, self.tokenizer, settings, self.mesh, self.site)

    @functools.cached_property
    def process_model(self) -> ProcessModel | None:
        """What scores solution steps, where the config has it learnt; it never changes again.

        Raises:
          UserError: If it has not been learnt yet.
        """
        settings = self.config.prm
        if not settings.enabled:
            return None
        site = self.site
        config = dataclasses.replace(self.whole_model, scalar_head=True)
        with contextlib.closing(self.process_checkpoints(read_only=True, mesh=site.mesh)) as found:
            if not found.iterations():
                raise UserError(
                    f"{self.directory} has no process model yet: the command that started the run "
                    "goes on to learn it"
                )
            params = found.restore_params(0, functools.partial(as_computed, config))
        return ProcessModel(
            config,
            params,
            self.tokenizer,
            separator=self.separator,
            marker=self.task.answer_marker,
            reduction=settings.reduction,
            batch=settings.score_batch * len(site.shards) // site.total,
            mesh=site.mesh,
            team=self.team if site.mesh.is_multi_process else ALONE,
        )

    def forget_process_model(self) -> None:
        """Frees the memory that the process model takes; whoever needs it again loads it."""
        self.__dict__.pop("process_model", None)

    @property
    def separator(self) -> str:
        """What ends a solution step."""
        return self.config.prm.separator or self.task.separator

    def process_checkpoints(self, *, read_only: bool, mesh: Mesh | None = None) -> Checkpoints:
        """The checkpoints of the process model, restored to the run's mesh or to another."""
        config = dataclasses.replace(self.whole_model, scalar_head=True)
        place = self.directory / "checkpoints" / "prm"
        return Checkpoints(place, config, mesh or self.mesh, read_only=read_only)

    def completer_checkpoints(self) -> Checkpoints:
        """The checkpoints of the model that continues steps, where it has training of its own."""
        return Checkpoints(self.directory / "checkpoints" / "completer", self.model, self.mesh)

    def begin(self) -> None:
        """Puts config and tokenizer in the directory: from here on it holds this run."""
        self.once(self._begin)

    def _begin(self) -> None:
        if not (self.directory / "config.json").exists():
            self._keep("tokenizer", self.tokenizer.save)
            if self.source:
                checkpoint = hub.locate(self.config.model.checkpoint)
                self._keep("source", functools.partial(hub.keep_source, checkpoint))
        write_config(self.directory, self.config)

    def _keep(self, name: str, write: Callable[[pathlib.Path], None]) -> None:
        """A folder of the run, whole or not there."""
        # One without a config is left of a start that was cut short.
        shutil.rmtree(self.directory / name, ignore_errors=True)
        temporary = self.directory / f"{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        write(temporary)
        os.replace(temporary, self.directory / name)

    def once(self, write: Callable[[], None]) -> None:
        """Lets the first process write what there is one of; all go on once it stands."""
        if self.team.is_first:
            write()
        self.team.barrier()

    def exists(self, path: pathlib.Path) -> bool:
        """Whether a file stands, as the first process sees it: all take the same way on."""
        return self.team.agree(self.team.is_first and path.exists())

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
