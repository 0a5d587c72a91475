"""Warm-up of the process model: labels (labels.py), training, judgement.

training     a copy of the completer with a scalar head learns the labels
judgement    on the calibration queries: iterations/0000/prm.json and prm.svg
"""

from __future__ import annotations

import contextlib
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import metrics
from bstar_jax.config import UserError
from bstar_jax.phases import plots
from bstar_jax.phases.data import limits
from bstar_jax.phases.labels import labelled, queries_of
from bstar_jax.phases.run import Run
from bstar_jax.phases.train import Learner, schedule_of, train
from bstar_jax.process_reward.model import step_ends, with_scalar_head
from bstar_jax.records import Rollouts
from bstar_jax.records.files import write_json
from bstar_jax.training.batches import Encoded, StepExample, encode_steps, explain, order
from bstar_jax.training.losses import step_loss

_ORDER = 2  # beside (seed, iteration): the completer has another, see labels.py


def learn_process_rewards(run: Run, params: dict) -> None:
    """Makes the process model of a run, where its config has one.

    Leaves `prm.parquet` (the labelled responses, labels as `step_rewards`), `prm.json`,
    `prm.svg` and the checkpoint; what stands is not made again.

    Args:
      run: The run.
      params: The warm-up model's parameters, on the storage map.
    """
    file = run.path(0, "prm.json")
    if not run.config.prm.enabled:
        return
    judge_seconds = None
    if not run.exists(file):
        better, rows = labelled(run, params)
        learnt_from, judged_by = split(run, rows)
        _train(run, better, learnt_from)
        started = time.perf_counter()
        figures = judge(run, judged_by)
        run.once(lambda: _write_judgement(run, figures))
        judge_seconds = time.perf_counter() - started
    # The rows before it are those of training.
    if "step_auc" not in (run.log.last(0, "prm") or {}):
        run.log.append(_summary(run, json.loads(file.read_text()), judge_seconds))


def _summary(run: Run, figures: dict, judge_seconds: float | None) -> dict:
    """The last row of the phase: the figures, and the seconds that each part took.

    Those of the judgement are lost where the run was killed between it and this row.
    """
    del figures["calibration"]
    labelling = Rollouts.read(run.path(0, "prm.parquet")).seconds
    seconds = {f"{part}_seconds": labelling[part] for part in ("sample", "grade")}
    for part, phase in (("completer", "completer"), ("train", "prm")):
        rows = (row for row in run.log.rows() if row["phase"] == phase)
        seconds[f"{part}_seconds"] = sum(row["wall_seconds"] for row in rows)
    total = sum(seconds.values()) + (judge_seconds or 0.0)
    seconds["judge_seconds"] = judge_seconds
    return {"iteration": 0, "phase": "prm", "wall_seconds": total, **figures, **seconds}


def split(run: Run, labelled: Rollouts) -> tuple[Rollouts, Rollouts]:
    """The labelled responses to learn from, and those to be judged by.

    Raises:
      UserError: If there are none of one kind.
    """
    judging = {query.query_id for query in queries_of(run)[1]}
    is_judging = [query_id in judging for query_id in labelled.column("query_id")]
    parts = labelled.filter([not each for each in is_judging]), labelled.filter(is_judging)
    if not all(map(len, parts)):
        raise UserError(
            f"of {len(labelled)} responses with labelled steps {len(parts[0])} are there to learn "
            f"from and {len(parts[1])} to judge by; raise prm.queries, or prm.heldout"
        )
    return parts


def _train(run: Run, params: dict, labelled: Rollouts) -> None:
    with contextlib.closing(run.process_checkpoints(read_only=False)) as checkpoints:
        if checkpoints.iterations():
            return
        data = encoded(run, labelled)
        # A copy: what is trained is given up, and of a run without further steps it is the policy.
        whole = functools.partial(jnp.array, dtype=jnp.float32, copy=True)
        start = jax.tree.map(whole, run.whole(params))
        config, start = with_scalar_head(run.whole_model, start, run.mesh)
        batch_at = lambda step: data.take(  # noqa: E731
            order(len(data), run.config.prm.batch, step, (run.config.seed, 0, _ORDER))
        )
        schedule = schedule_of(run, "prm")
        weight = run.config.prm.language_weight
        objective = functools.partial(step_loss, language_weight=weight)
        learner = Learner(config, checkpoints, objective, run.config.prm.steps, schedule)
        trained = train(run, learner, 0, "prm", start, None, batch_at)
        checkpoints.save_params(0, trained.params)


def encoded(run: Run, labelled: Rollouts) -> Encoded:
    """Labelled responses as training rows, equal texts of a query once.

    Raises:
      UserError: If none is left to learn from.
    """
    examples = {}
    names = ("prompt", "response", "query_id", "step_rewards")
    for prompt, response, query_id, rewards in zip(*map(labelled.column, names), strict=True):
        ends = step_ends(response, *run.step_marks(run.task.source(query_id)))
        labels = _targets(run, rewards)
        example = StepExample(prompt, response, tuple(ends), tuple(labels), query_id)
        examples.setdefault((query_id, response), example)
    rows, ends_only = list(examples.values()), run.config.prm.label_tokens == "end"
    data, too_long = encode_steps(run.tokenizer, rows, **limits(run), ends_only=ends_only)
    if too_long:
        run.console.warn(
            f"{len(too_long)} of {len(examples)} labelled responses are longer than the limits "
            "once they are encoded again; the process model does not learn from them"
        )
    if len(data) == 0:
        if too_long:
            raise UserError(explain(too_long, len(examples), **limits(run)))
        raise UserError("no response has a labelled step to learn from; warm up longer (sft.steps)")
    return data


def _targets(run: Run, rewards) -> np.ndarray:
    """Labels in [0, 1] from stored step rewards."""
    soft = (np.asarray(rewards, np.float32) + 1) / 2
    return soft if run.config.prm.labels == "soft" else (soft > 0).astype(np.float32)


# Judgement.


def judge(run: Run, labelled: Rollouts) -> dict:
    """How well the process model tells good from bad on labelled responses.

    Returns:
      Means over steps: `step_accuracy` (reward above 0 where some continuation was right) and
      `step_auc` of the same; over responses: `answer_auc` of the process reward against the
      answer; where the task checks steps exactly, `exact_auc` against all steps being valid, and
      `exact_auc_correct` among responses with a correct answer alone; `calibration` of the steps'
      probabilities against the shares that were right. None where a class is empty.
    """
    scored = run.process_model.grade(labelled)
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
    if any(source.step_check for source in run.task.sources.values()):
        exact = run.grader.grade_rollouts(labelled, run.task.query_by_id)
        checks = exact.column("process_reward")
        is_checked = np.array([check is not None for check in checks])
        is_valid, is_correct = np.array([check == 1 for check in checks]), np.array(correct, bool)
        for name, rows in (("", is_checked), ("_correct", is_checked & is_correct)):
            figures[f"exact_auc{name}"] = metrics.auc(reward[rows], is_valid[rows])
    return {**figures, "calibration": metrics.calibration(probability, share)}


def _write_judgement(run: Run, figures: dict) -> None:
    run.path(0, "prm.svg").write_text(plots.calibration(figures["calibration"]))
    file = run.path(0, "prm.json")
    write_json(file, figures, indent=1)
