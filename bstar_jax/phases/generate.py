"""Phases 2 to 4: answer the training queries, grade the answers, select."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from bstar_jax import balance
from bstar_jax.balance import Choice
from bstar_jax.config import UserError
from bstar_jax.phases import pools
from bstar_jax.phases.run import Run
from bstar_jax.run.collect import discard_units, finish, sample
from bstar_jax.records import Query, Rollouts
from bstar_jax.sampling import Draw, Keys


def queries_of(run: Run, iteration: int) -> list[Query]:
    """The train queries of an iteration.

    All of them, or the next block of a seeded permutation that is drawn again when used up.
    """
    train, count = run.task.splits["train"], run.config.generate.queries
    if count == 0:
        return list(train)
    blocks = len(train) // count
    turn, block = divmod(iteration - 1, blocks)
    order = np.random.default_rng([run.config.seed, turn]).permutation(len(train))
    return [train[place] for place in order[block * count : (block + 1) * count]]


def generate(run: Run, iteration: int, params: dict, choice: Choice) -> Rollouts:
    """Responses to the iteration's train queries, each graded as it comes.

    With `generate.rationalize`, queries without a correct response get one more try whose
    prompt gives the answer away (STaR, arXiv:2203.14465).

    Args:
      run: The run.
      iteration: From 1.
      params: The parameters, on the sampling map.
      choice: How to sample.
    """
    file = run.path(iteration, "generate.parquet")
    queries = queries_of(run, iteration)
    if run.exists(file):
        rollouts = Rollouts.read(file)
    else:
        rollouts = _sample(run, iteration, params, choice, queries)
    tokens = int(rollouts.array("num_tokens").sum())
    seconds = rollouts.seconds["sample"]
    run.log_once(
        iteration,
        "generate",
        seconds,
        responses=len(rollouts),
        tokens=tokens,
        tokens_per_second=tokens / seconds,
    )
    return rollouts


def _sample(run: Run, iteration, params, choice: Choice, queries) -> Rollouts:
    count = run.config.generate.responses
    draw = Draw(choice.temperature, choice.top_k, count)
    keys = Keys(run.config.seed, iteration, "generate")
    rollouts = sample(run, params, queries, [draw], keys)
    if not run.config.generate.rationalize:
        return rollouts
    ids, correct = rollouts.column("query_id"), rollouts.column("correct")
    solved = {query_id for query_id, is_correct in zip(ids, correct, strict=True) if is_correct}
    failed = [
        dataclasses.replace(query, prompt=run.task.hint(query))
        for query in queries
        if query.query_id not in solved
    ]
    if not failed:
        return rollouts
    keys = dataclasses.replace(keys, phase="rationalize")
    draw = dataclasses.replace(draw, responses=1, first=count)
    retries = sample(run, params, failed, [draw], keys, rationalized=True)
    return Rollouts.concatenate([rollouts, retries]).sorted([query.query_id for query in queries])


def grade(run: Run, iteration: int, rollouts: Rollouts) -> Rollouts:
    """What the grades say; each was given once, when its response came, and is stored with it."""
    process = [value for value in rollouts.column("process_reward") if value is not None]
    run.log_once(
        iteration,
        "grade",
        rollouts.seconds["grade"],
        answer_accuracy=float(np.mean(rollouts.column("correct"))),
        process_reward_mean=float(np.mean(process)) if process else None,
    )
    return rollouts


def select(run: Run, iteration: int, rollouts: Rollouts, choice: Choice) -> Rollouts:
    """Rewards every response and marks those that training may use; returns these.

    Leaves `generate.parquet`, by the same function that scored the grid.

    Raises:
      UserError: If nothing is selected.
    """
    started = time.perf_counter()
    rules = run.config.balance
    pool = pools.pool(run.task, rollouts, pools.query_shape(rollouts), distinct=rules.distinct)
    threshold, cap = choice.threshold, rules.cap
    if rules.rules == "reference":
        threshold, cap = balance.choose_filter(
            pool,
            run.config.calibrate.thresholds,
            process_weight=choice.process_weight,
            target_correct=rules.target_correct,
            target_total=rules.target_total,
        )
    selected_QN = np.asarray(
        balance.select(
            pool,
            threshold=threshold,
            process_weight=choice.process_weight,
            cap=cap,
            rules=rules.rules,
        )
    )
    rollouts = rollouts.with_columns(
        reward=pools.rewards(rollouts, choice.process_weight),
        selected=pools.flatten(rollouts, selected_QN),
    )
    if run.exists(run.path(iteration, "generate.parquet")):
        discard_units(run, iteration, "generate", "rationalize")
    else:
        finish(run, iteration, "generate.parquet", rollouts, "generate", "rationalize")
    figures = _figures(run, pool, selected_QN, rollouts)
    seconds = time.perf_counter() - started
    run.log_once(iteration, "select", seconds, threshold=threshold, cap=cap, **figures)
    if not selected_QN.any():
        raise UserError(
            f"iteration {iteration} selected none of {len(rollouts)} responses: no finished, "
            f"readable one has a reward above the threshold {threshold}; lower "
            "calibrate.thresholds, or warm up longer (sft.steps)"
        )
    return rollouts.filter(rollouts.column("selected"))


def _figures(run: Run, pool, selected_QN, rollouts: Rollouts) -> dict:
    rules = run.config.balance
    covered_Q = selected_QN.any(axis=1)
    total = int(selected_QN.sum())
    distinct = len(set(zip(*map(rollouts.column, ("query_id", "response")), strict=True)))
    return {
        "selected": total,
        "queries_covered": int(covered_Q.sum()),
        "correct_fraction": float((selected_QN & pool.is_correct).sum() / total) if total else None,
        "unique_per_query": distinct / len(covered_Q),
        "balance_score": balance.objective(
            pool.is_correct, selected_QN, target_correct=rules.target_correct, rules=rules.rules
        ),
    }
