"""Storage of a run's process reward model, and of the completer that labels steps for it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib

from jax.sharding import Mesh

from bstar_jax.answers.solution_steps import step_ends
from bstar_jax.config import Config, ModelConfig, UserError
from bstar_jax.process_reward.model import ProcessRewardModel
from bstar_jax.processes import ALONE, Team
from bstar_jax.run.checkpoints import Checkpoints
from bstar_jax.run.policy import Policy
from bstar_jax.sampling.weights import as_computed
from bstar_jax.tasks import LoadedTask


@dataclasses.dataclass(frozen=True)
class ProcessRewardStore:
    """The process reward model and the completer of a run, on disk.

    Attributes:
      directory: The run directory.
      config: The settings; section `prm` says how steps are scored.
      task: Says what ends a solution step.
      policy: The model that both start from, with its mesh and tokenizer.
      team: The processes of the run.
    """

    directory: pathlib.Path
    config: Config
    task: LoadedTask
    policy: Policy
    team: Team = ALONE

    @property
    def model(self) -> ModelConfig:
        """The process reward model: the merged policy with a scalar head."""
        return dataclasses.replace(self.policy.merged_model, scalar_head=True)

    def step_ends(self, query_id: str, response: str) -> list[int]:
        """Finds the ends of the solution steps of a response to a query, in characters."""
        source = self.task.source(query_id)
        separator = self.config.prm.separator or source.separator
        return step_ends(response, separator, source.answer_marker)

    def checkpoints(self, *, read_only: bool, mesh: Mesh | None = None) -> Checkpoints:
        """Opens the checkpoints of the process reward model. The caller closes them.

        Args:
          read_only: Whether to change nothing on disk.
          mesh: The devices that restored arrays are placed on; by default those of the policy.
        """
        directory = self.directory / "checkpoints" / "prm"
        return Checkpoints(directory, self.model, mesh or self.policy.mesh, read_only=read_only)

    def completer_checkpoints(self) -> Checkpoints:
        """Opens the checkpoints of the completer. The caller closes them."""
        directory = self.directory / "checkpoints" / "completer"
        return Checkpoints(directory, self.policy.model, self.policy.mesh)

    def load(self) -> ProcessRewardModel:
        """Loads the process reward model to the devices that this process samples on.

        Raises:
          UserError: If the model is not learnt yet.
        """
        settings, sampling_mesh = self.config.prm, self.policy.sampling_mesh
        with contextlib.closing(self.checkpoints(read_only=True, mesh=sampling_mesh.mesh)) as found:
            if not found.iterations():
                raise UserError(
                    f"{self.directory} has no process reward model yet; the command that started "
                    "the run continues it, and learns the model after warm-up"
                )
            params = found.restore_params(0, functools.partial(as_computed, self.model))
        return ProcessRewardModel(
            self.model,
            params,
            self.policy.tokenizer,
            step_ends=self.step_ends,
            reduction=settings.reduction,
            batch=settings.score_batch * len(sampling_mesh.shards) // sampling_mesh.total,
            mesh=sampling_mesh.mesh,
            team=self.team if sampling_mesh.mesh.is_multi_process else ALONE,
        )
