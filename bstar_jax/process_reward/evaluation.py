"""Evaluation of a process reward model: how well it tells good solution steps from bad ones."""

from __future__ import annotations

import numpy as np

from bstar_jax import metrics
from bstar_jax.grading import Grader
from bstar_jax.process_reward import reliability
from bstar_jax.process_reward.model import ProcessRewardModel
from bstar_jax.records import Rollouts
from bstar_jax.records.files import write_json
from bstar_jax.run.workspace import Workspace
from bstar_jax.tasks import LoadedTask


def evaluate_model(
    process_model: ProcessRewardModel, grader: Grader, task: LoadedTask, labelled: Rollouts
) -> dict:
    """Compares the rewards of a process reward model with labels, answers and exact checks.

    Args:
      process_model: The process reward model.
      grader: Checks steps exactly if the sources of the task can.
      task: The queries of the responses.
      labelled: Responses whose `step_rewards` are 2 label - 1.

    Returns:
      The figures of prm.json. A figure is None if one of its two classes is empty.

      Over steps: `step_accuracy`, the share of steps whose reward is above 0 exactly if some
      continuation was right; and `step_auc`, the area under the curve for the same two classes.

      Over responses: `answer_auc`, of the process reward for correct against other answers. With
      an exact check also `exact_auc`, for responses with only valid steps against others; and
      `exact_auc_correct`, the same among responses with a correct answer.

      `calibration`: the reliability of the steps' probabilities, as a table of bins.
    """
    scored = process_model.grade(labelled)
    probability = (np.concatenate(scored.column("step_rewards")) + 1) / 2
    share = (np.concatenate(labelled.column("step_rewards")) + 1) / 2
    reward, correct = np.array(scored.column("process_reward")), labelled.column("correct")
    figures = {
        "responses": len(labelled),
        "steps": len(share),
        "step_accuracy": float(np.mean((probability > 0.5) == (share > 0))),
        "step_auc": metrics.auc(probability, share > 0),
        "answer_auc": metrics.auc(reward, correct),
    }
    if any(source.step_check for source in task.sources.values()):
        exact = grader.grade_rollouts(labelled, task.query_by_id)
        checks = exact.column("process_reward")
        is_checked = np.array([check is not None for check in checks])
        is_valid, is_correct = np.array([check == 1 for check in checks]), np.array(correct, bool)
        for name, rows in (("", is_checked), ("_correct", is_checked & is_correct)):
            figures[f"exact_auc{name}"] = metrics.auc(reward[rows], is_valid[rows])
    return {**figures, "calibration": metrics.reliability(probability, share)}


def write_evaluation(workspace: Workspace, figures: dict) -> None:
    """Writes prm.svg, then prm.json, whose presence says that the evaluation is complete."""
    plot = reliability.diagram(figures["calibration"])
    workspace.path(0, "prm.svg").write_text(plot)
    write_json(workspace.path(0, "prm.json"), figures, indent=1)
