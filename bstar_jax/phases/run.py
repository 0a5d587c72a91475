"""An open run: the parts that phases take, and the reward of a response."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from bstar_jax.config import Config
from bstar_jax.grading import Grader
from bstar_jax.process_reward.model import ProcessRewardModel
from bstar_jax.process_reward.store import ProcessRewardStore
from bstar_jax.records import Query, Rollouts
from bstar_jax.run.collect import Collector, Reward
from bstar_jax.run.policy import Policy
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import Sampler
from bstar_jax.tasks import LoadedTask


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of an open run. A phase takes only the parts that it needs, never the run.

    Attributes:
      config: All settings.
      task: The queries.
      workspace: The run directory, metrics, messages, and requests to stop.
      policy: The model that answers and is trained.
      grader: Grades answers, and checks solution steps exactly if the task can.
      sampler: Draws responses with the policy.
      process_reward: Stores the process reward model; None if the run learns none.
    """

    config: Config
    task: LoadedTask
    workspace: Workspace
    policy: Policy
    grader: Grader
    sampler: Sampler
    process_reward: ProcessRewardStore | None

    @contextlib.contextmanager
    def collecting(self, params: dict, *, score_steps: bool = True) -> Iterator[Collector]:
        """Opens a collector of responses that are sampled with the given parameters.

        When the block ends, the rollout weights and the process reward model are freed, so that
        training has their memory.

        Args:
          params: The trained parameters, sharded as training stores them.
          score_steps: Whether the process reward model, if the run has one, scores the steps.

        Yields:
          The collector. It cannot be used after the block.

        Raises:
          UserError: If the process reward model is not learnt yet.
        """
        weights = self.policy.rollout_weights(params)
        learnt = self.process_reward.load() if score_steps and self.process_reward else None
        reward = compose_reward(self.grader, learnt)
        most_errors = self.config.rewards.most_errors
        with contextlib.closing(
            Collector(self.workspace, self.sampler, weights, reward, most_errors=most_errors)
        ) as collect:
            del weights, learnt, reward  # the collector alone holds them
            yield collect


def compose_reward(grader: Grader, process_model: ProcessRewardModel | None) -> Reward:
    """Composes the function that grades responses and scores their solution steps.

    Answers are graded. Steps are scored by the process reward model if there is one; otherwise they
    are checked exactly if the task can. The process weight is not chosen yet at that point.

    Args:
      grader: Grades answers and checks steps.
      process_model: The process reward model; None for none.
    """

    def reward(rollouts: Rollouts, queries: Mapping[str, Query]) -> Rollouts:
        if process_model is None:
            return grader.grade_rollouts(rollouts, queries)
        return process_model.grade(grader.grade_rollouts(rollouts, queries, check_steps=False))

    return reward
