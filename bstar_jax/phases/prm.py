"""Warm-up of the process model: label solution steps by continuing them, learn, judge.

responses    the warm-up model answers some train queries, and some calibration queries
completer    the warm-up model, taught further: by human solutions, or its own right responses
labels       from the end of every step the completer goes on n times; the share that reaches
             the reference answer is the step's label, that of the last step the answer's grade
training     a copy of the completer with a scalar head learns the labels
judgement    on the calibration queries: iterations/0000/prm.json and prm.svg
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax import metrics
from bstar_jax.config import UserError
from bstar_jax.journal import write_json
from bstar_jax.phases import plots
from bstar_jax.phases.data import human_examples, limits
from bstar_jax.phases.run import Run
from bstar_jax.phases.sampled import discard_units, finish, sample
from bstar_jax.phases.train import Learner, sampling_params, schedule_of, train
from bstar_jax.records import Query, Rollouts
from bstar_jax.rewards.process import step_ends, with_scalar_head
from bstar_jax.sampling import Draw, Keys
from bstar_jax.training.batches import (
    Encoded,
    Example,
    StepExample,
    encode,
    encode_steps,
    explain,
    order,
)
from bstar_jax.training.losses import response_loss, step_loss
from bstar_jax.training.optimizer import Schedule

# Beside (seed, iteration): whatever else is drawn in an iteration has another number.
_ORDER, _COMPLETER = 2, 3


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
    if not file.exists():
        better, labelled = _labelled(run, params)
        learnt_from, judged_by = split(run, labelled)
        _train(run, better, learnt_from)
        started = time.perf_counter()
        figures = judge(run, judged_by)
        _write_judgement(run, figures | {"judge_seconds": time.perf_counter() - started})
    # The rows before it are those of training.
    if "step_auc" not in (run.log.last(0, "prm") or {}):
        run.log.append(_summary(run, json.loads(file.read_text())))


def _summary(run: Run, figures: dict) -> dict:
    """The last row of the phase: the figures, and the seconds that each part took."""
    del figures["calibration"]
    labelling = Rollouts.read(run.path(0, "prm.parquet")).seconds
    seconds = {f"{part}_seconds": labelling[part] for part in ("sample", "grade")}
    for part, phase in (("completer", "completer"), ("train", "prm")):
        rows = (row for row in run.log.rows() if row["phase"] == phase)
        seconds[f"{part}_seconds"] = sum(row["wall_seconds"] for row in rows)
    seconds["judge_seconds"] = figures.pop("judge_seconds")
    total = sum(seconds.values())
    return {"iteration": 0, "phase": "prm", "wall_seconds": total, **figures, **seconds}


def completer(run: Run, params: dict, responses: Rollouts) -> dict:
    """The parameters of the model that goes on from steps.

    A weak model misses the answer from good steps too, so its continuations tell less. The
    warm-up model itself may stay weak, which keeps it diverse.

    Args:
      run: The run.
      params: The warm-up model's parameters.
      responses: What it answered, graded.
    """
    settings, steps = run.config.sft, run.config.prm.completer_steps
    if not steps:
        return params
    with contextlib.closing(run.completer_checkpoints()) as checkpoints:
        if checkpoints.iterations():
            return checkpoints.restore_params(0)
        data = _completer_data(run, responses)
        batch_at = lambda step: data.take(  # noqa: E731
            order(len(data), settings.batch, step, (run.config.seed, 0, _COMPLETER))
        )
        rate = Schedule(settings.learning_rate, 0, steps, settings.final_rate, settings.fall)
        learner = Learner(run.model, checkpoints, response_loss, steps, rate)
        # A copy: what is trained is given up, and the warm-up model is still wanted.
        start = jax.tree.map(jnp.copy, params)
        trained = train(run, learner, 0, "completer", start, None, batch_at)
        checkpoints.save_params(0, trained.params)
        return trained.params


def _completer_data(run: Run, responses: Rollouts) -> Encoded:
    """What the completer learns; of calibration queries, which judge, nothing.

    Raises:
      UserError: If nothing is there to learn.
    """
    wanted, examples = run.config.prm.completer_data, []
    if wanted != "own":
        examples += human_examples(run)
    if wanted != "human":
        right = responses.filter(responses.column("correct"))
        right = right.filter([split == "train" for split in right.column("split")])
        rows = zip(*map(right.column, ("prompt", "response", "query_id")), strict=True)
        examples += dict.fromkeys(Example(*row) for row in rows)
    data, too_long = encode(run.tokenizer, examples, **limits(run))
    if len(data) == 0:
        raise UserError(
            f"prm.completer_data is {wanted!r}, but of {len(responses)} responses none to a train "
            "query is right; warm up longer (sft.steps), or raise prm.queries"
        )
    if too_long:
        run.console.warn(explain(too_long, len(examples), **limits(run)) + "; they are left out")
    return data


# Labels.


def queries_of(run: Run) -> tuple[list[Query], list[Query]]:
    """The train queries whose responses are learnt from, in an order of their own, and the
    calibration queries that judge, which are no train queries. (Of stories these have no set of
    numbers in common; two train queries may, so one would not judge what another taught.)
    """
    train_queries = run.task.splits["train"]
    rng = np.random.default_rng([3, run.config.seed, 0, _ORDER])
    chosen = rng.permutation(len(train_queries))[: run.config.prm.queries]
    judging = run.task.splits["calibration"][: run.config.prm.heldout]
    return [train_queries[place] for place in chosen], list(judging)


def _labelled(run: Run, params: dict) -> tuple[dict, Rollouts]:
    """The completer's parameters, and responses with the label of every step as its reward.

    A reward is 2 label - 1.

    Args:
      run: The run.
      params: The parameters that answer.
    """
    file = run.path(0, "prm.parquet")
    if file.exists():
        discard_units(run, 0, "prm")
        labelled = Rollouts.read(file)
        return completer(run, params, labelled), labelled
    settings = run.config.prm
    keys = Keys(run.config.seed, 0, "prm")
    draw = Draw(settings.temperature, 0, settings.responses)
    answering = sampling_params(run, params)
    responses = sample(run, answering, sum(queries_of(run), []), [draw], keys, scored=False)
    del answering
    better = completer(run, params, responses)
    draw = Draw(settings.completer_temperature, 0, settings.continuations)
    steps, going_on = begun(run, responses), sampling_params(run, better)
    continued = sample(run, going_on, steps, [draw], keys, name="prm-continued", scored=False)
    seconds = {  # where every response is one step, there is nothing to continue
        name: responses.seconds[name] + continued.seconds.get(name, 0.0)
        for name in ("sample", "grade")
    }
    labelled = label(run, responses, continued).with_seconds(**seconds)
    finish(run, 0, "prm.parquet", labelled, "prm")
    return better, labelled


def begun(run: Run, responses: Rollouts) -> list[Query]:
    """A query for every beginning that some response has up to the end of a step but its last."""
    found = {}
    rows = zip(responses.column("query_id"), responses.column("response"), strict=True)
    for query_id, response in rows:
        for prefix in _prefixes(run, response):
            query = dataclasses.replace(
                run.task.query_by_id[query_id],
                query_id=_id_of(query_id, prefix),
                prefix=prefix,
            )
            found.setdefault(query.query_id, query)
    limit = run.config.generate.max_tokens
    return [query for query in found.values() if len(run.tokenizer.encode(query.prefix)) < limit]


def label(run: Run, responses: Rollouts, continued: Rollouts) -> Rollouts:
    """The responses with `step_rewards` 2 label - 1 from graded continuations of their steps.

    A step without a continuation, as no token was left for one, has no label; responses with
    such a step are left out, counted in a warning, and so are those without any step.
    """
    reached: dict[str, list[bool]] = {}
    for query_id, correct in zip(
        continued.column("query_id"), continued.column("correct"), strict=True
    ):
        reached.setdefault(query_id, []).append(correct)
    names = ("query_id", "response", "correct")
    labels = []
    for query_id, response, correct in zip(*map(responses.column, names), strict=True):
        steps = [reached.get(_id_of(query_id, text)) for text in _prefixes(run, response)]
        is_whole = response.strip() and None not in steps
        labels.append([*map(np.mean, steps), float(correct)] if is_whole else None)
    left_out = sum(each is None for each in labels)
    if left_out:
        run.console.warn(
            f"{left_out} of {len(labels)} responses have no step, or one at the length limit; "
            "the process model does not learn from them"
        )
    rewards = [each and [2 * value - 1 for value in each] for each in labels]
    return responses.with_columns(
        step_rewards=rewards, process_reward=[each and min(each) for each in rewards]
    ).filter([each is not None for each in labels])


def _prefixes(run: Run, response: str) -> list[str]:
    ends = step_ends(response, run.separator, run.task.answer_marker)
    return [response[:end] for end in ends[:-1]]


def _id_of(query_id: str, prefix: str) -> str:
    return f"{query_id}+{hashlib.sha256(prefix.encode()).hexdigest()[:16]}"


# Training.


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
        # A copy, as above.
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
        ends = step_ends(response, run.separator, run.task.answer_marker)
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
    if run.task.steps:
        exact = run.grader.grade_rollouts(labelled)
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
