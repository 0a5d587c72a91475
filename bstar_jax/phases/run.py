"""A run as it is opened: the parts that phases take, and how a response is rewarded in it."""

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
from bstar_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of an open run. Phases take those that they need, not the run.

    Attributes:
      config: All settings.
      task: The queries.
      workspace: The run directory and what is written in it.
      policy: The model that answers and is trained.
      grader: Grades answers, and checks solution steps exactly where that is possible.
      sampler: Draws responses with the policy.
      process_reward: Where the learnt process reward is kept; None where none is learnt.
    """

    config: Config
    task: Task
    workspace: Workspace
    policy: Policy
    grader: Grader
    sampler: Sampler
    process_reward: ProcessRewardStore | None

    @contextlib.contextmanager
    def collecting(self, params: dict, *, score_steps: bool = True) -> Iterator[Collector]:
        """Opens a collector of responses under some weights.

        On leaving, its weights and the process reward model leave the devices: what samples makes
        room for what trains.

        Args:
          params: The trained parameters, on the storage map.
          score_steps: Whether the learnt process reward, where there is one, scores the steps.

        Raises:
          UserError: If the process reward is not learnt yet.
        """
        weights = self.policy.rollout_weights(params)
        learnt = self.process_reward.load() if score_steps and self.process_reward else None
        reward = compose_reward(self.grader, learnt)
        with contextlib.closing(
            Collector(self.workspace, self.sampler, weights, reward)
        ) as collect:
            del weights, learnt, reward  # the collector alone holds them
            yield collect


def compose_reward(grader: Grader, process_model: ProcessRewardModel | None) -> Reward:
    """Says what a response is worth before the process weight is chosen.

    Its answer is graded. Its solution steps are scored by the process reward model where there is
    one; otherwise they are checked exactly where the task can.

    Args:
      grader: Grades answers and checks steps.
      process_model: The learnt process reward; None for none.
    """

    def reward(rollouts: Rollouts, queries: Mapping[str, Query]) -> Rollouts:
        if process_model is None:
            return grader.grade_rollouts(rollouts, queries)
        return process_model.grade(grader.grade_rollouts(rollouts, queries, check_steps=False))

    return reward
