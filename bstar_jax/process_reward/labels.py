"""Labels of solution steps without human annotators: a model continues every step.

    responses    the warm-up model answers some train queries and some calibration queries
    completer    the warm-up model, trained further on human solutions or on its own right answers
    labels       the completer continues the response n times from the end of every step. The label
                 of a step is the share of continuations that reach the reference answer; that of
                 the last step is 1 if the response is correct, else 0

Source: Math-Shepherd, arXiv:2312.08935.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax.config import Config, UserError
from bstar_jax.console import Console
from bstar_jax.process_reward.store import ProcessRewardStore
from bstar_jax.records import Query, Rollouts
from bstar_jax.run.collect import Collector, discard_units, finish
from bstar_jax.run.data import human_examples, length_limits
from bstar_jax.run.train import TrainingJob, train
from bstar_jax.run.workspace import Workspace
from bstar_jax.sampling import Draw, Keys
from bstar_jax.tasks import LoadedTask
from bstar_jax.tokenizer import Tokenizer
from bstar_jax.training.batches import Batch, Encoded, Example, encode, row_order, too_long_message
from bstar_jax.training.losses import response_loss
from bstar_jax.training.optimizer import Schedule

# These seed random numbers with (seed, iteration). Other draws in an iteration use other numbers.
_QUERIES, _COMPLETER = 2, 3

Collecting = Callable[..., AbstractContextManager[Collector]]
"""Opens a collector under trained parameters; with `score_steps=False` it scores no steps."""

StepSplitter = Callable[[str, str], list[str]]
"""Gives, for (query_id, response), the beginnings that end with a step, the response excluded."""


def labelling_queries(config: Config, task: LoadedTask) -> tuple[list[Query], list[Query]]:
    """Chooses the queries whose responses are labelled.

    Returns:
      The train queries that the process reward model learns from, in random order, and the
      calibration queries that it is evaluated on. (No calibration story shares its set of numbers
      with a train story; two train stories may.)
    """
    train_queries = task.splits["train"]
    rng = np.random.default_rng([3, config.seed, 0, _QUERIES])
    chosen = rng.permutation(len(train_queries))[: config.prm.queries]
    evaluated = task.splits["calibration"][: config.prm.heldout]
    return [train_queries[index] for index in chosen], list(evaluated)


def labelled_responses(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    store: ProcessRewardStore,
    collecting: Collecting,
    params: dict,
) -> tuple[dict, Rollouts]:
    """Samples responses and labels their steps. Writes `prm.parquet`.

    Args:
      config: The settings.
      task: The queries.
      workspace: The run directory.
      store: Stores the completer.
      collecting: Opens a collector.
      params: The parameters of the warm-up model, sharded as training stores them.

    Returns:
      The parameters of the completer, and the responses with 2 label - 1 as `step_rewards`.
    """
    file = workspace.path(0, "prm.parquet")
    if workspace.exists(file):
        discard_units(workspace, 0, "prm")
        stored = Rollouts.read(file)
        return completer(config, task, workspace, store, params, stored), stored
    settings = config.prm
    keys = Keys(config.seed, 0, "prm")
    draw = Draw(settings.temperature, 0, settings.responses)
    with collecting(params, score_steps=False) as collect:
        queries = list(itertools.chain.from_iterable(labelling_queries(config, task)))
        responses = collect(queries, [draw], keys)
    better = completer(config, task, workspace, store, params, responses)
    draw = Draw(settings.completer_temperature, 0, settings.continuations)
    split = functools.partial(beginnings, store)
    tokenizer = store.policy.tokenizer
    queries = continued_queries(task, tokenizer, split, responses, config.generate.max_tokens)
    with collecting(better, score_steps=False) as collect:
        continued = collect(queries, [draw], keys, name="prm-continued")
    seconds = {  # if every response is one step, there is nothing to continue
        name: responses.seconds[name] + continued.seconds.get(name, 0.0)
        for name in ("sample", "grade")
    }
    rows = label(workspace.console, split, responses, continued).with_seconds(**seconds)
    finish(workspace, 0, "prm.parquet", rows, "prm")
    return better, rows


def continued_queries(
    task: LoadedTask,
    tokenizer: Tokenizer,
    split: StepSplitter,
    responses: Rollouts,
    max_tokens: int,
) -> list[Query]:
    """Makes a query for every beginning of a response that ends with any step but the last.

    Args:
      task: The queries of the responses.
      tokenizer: Counts the tokens of a beginning.
      split: Gives the beginnings of a response.
      responses: The responses.
      max_tokens: The most tokens of a response. Beginnings of that many are left out, because
        they cannot be continued.
    """
    found: dict[str, Query] = {}
    rows = zip(responses.column("query_id"), responses.column("response"), strict=True)
    for query_id, response in rows:
        for prefix in split(query_id, response):
            query = dataclasses.replace(
                task.query_by_id[query_id],
                query_id=_continued_id(query_id, prefix),
                prefix=prefix,
            )
            found.setdefault(query.query_id, query)
    return [query for query in found.values() if len(tokenizer.encode(query.prefix)) < max_tokens]


def label(
    console: Console, split: StepSplitter, responses: Rollouts, continued: Rollouts
) -> Rollouts:
    """Labels the steps of responses by graded continuations.

    A step has no label if no token was left to continue it. Responses with such a step, and those
    without any step, are left out, and a warning gives their number.

    Args:
      console: Shows the warning.
      split: Gives the beginnings of a response.
      responses: The responses, graded.
      continued: Graded responses to the queries of `continued_queries`.

    Returns:
      The responses with 2 label - 1 as `step_rewards`, and their minimum as `process_reward`.
    """
    reached: dict[str, list[bool]] = {}
    for query_id, correct in zip(
        continued.column("query_id"), continued.column("correct"), strict=True
    ):
        reached.setdefault(query_id, []).append(correct)
    names = ("query_id", "response", "correct")
    labels = []
    for query_id, response, correct in zip(*map(responses.column, names), strict=True):
        steps = [reached.get(_continued_id(query_id, text)) for text in split(query_id, response)]
        known = [hits for hits in steps if hits is not None]
        is_labelled = response.strip() and len(known) == len(steps)
        labels.append([*map(np.mean, known), float(correct)] if is_labelled else None)
    left_out = sum(each is None for each in labels)
    if left_out:
        console.warn(
            f"{left_out} of {len(labels)} responses have no step, or one at the length limit; "
            "the process reward model does not use them"
        )
    rewards = [each and [2 * value - 1 for value in each] for each in labels]
    return responses.with_columns(
        step_rewards=rewards, process_reward=[each and min(each) for each in rewards]
    ).filter([each is not None for each in labels])


def beginnings(store: ProcessRewardStore, query_id: str, response: str) -> list[str]:
    """Splits off the beginnings of a response that end with a solution step, itself excluded."""
    return [response[:end] for end in store.step_ends(query_id, response)[:-1]]


def completer(
    config: Config,
    task: LoadedTask,
    workspace: Workspace,
    store: ProcessRewardStore,
    params: dict,
    responses: Rollouts,
) -> dict:
    """Trains the model that continues solution steps, and saves it as a checkpoint.

    A weak model often misses the answer even after good steps, so its continuations say less about
    a step. The warm-up model may itself stay weak, which keeps its responses diverse.

    Args:
      config: The settings.
      task: The human solutions.
      workspace: The run directory.
      store: Stores the completer.
      params: The parameters of the warm-up model.
      responses: Responses of the warm-up model, graded.

    Returns:
      The parameters of the completer. If `prm.completer_steps` is 0, those of the warm-up model.
    """
    settings, steps = config.sft, config.prm.completer_steps
    policy = store.policy
    if not steps:
        return params
    with contextlib.closing(store.completer_checkpoints()) as checkpoints:
        if checkpoints.iterations():
            return checkpoints.restore_params(0)
        data = _completer_data(config, task, workspace.console, policy.tokenizer, responses)

        def batch_at(step: int) -> Batch:
            rows = row_order(len(data), settings.batch, step, (config.seed, 0, _COMPLETER))
            return data.take(rows)

        rate = Schedule(settings.learning_rate, 0, steps, settings.final_rate, settings.fall)
        job = TrainingJob(
            "completer", 0, policy.model, checkpoints, response_loss, steps, rate, batch_at,
            policy.frozen,
        )  # fmt: skip
        # A copy: training donates its parameters, and the warm-up model is still needed.
        copied = jax.tree.map(jnp.copy, params)
        trained = train(config, workspace, policy.mesh, job, copied)
        checkpoints.save_params(0, trained.params)
        return trained.params


def _completer_data(
    config: Config, task: LoadedTask, console: Console, tokenizer: Tokenizer, responses: Rollouts
) -> Encoded[Batch]:
    """Encodes training rows for the completer.

    Calibration queries are left out, because they evaluate the process reward model.

    Raises:
      UserError: If there is nothing to learn from.
    """
    wanted, examples = config.prm.completer_data, []
    if wanted != "own":
        examples += human_examples(config, task)
    if wanted != "human":
        right = responses.filter(responses.column("correct"))
        right = right.filter([split == "train" for split in right.column("split")])
        texts = (right.prompts(), right.column("response"), right.column("query_id"))
        rows = zip(*texts, strict=True)
        examples += dict.fromkeys(Example(*row) for row in rows)
    data, too_long = encode(tokenizer, examples, **length_limits(config))
    if len(data) == 0:
        raise UserError(
            f"prm.completer_data is {wanted!r}, but none of {len(responses)} responses answers a "
            "train query correctly; warm up longer (sft.steps), or raise prm.queries"
        )
    if too_long:
        console.warn(
            too_long_message(too_long, len(examples), **length_limits(config))
            + "; they are left out"
        )
    return data


def _continued_id(query_id: str, prefix: str) -> str:
    return f"{query_id}+{hashlib.sha256(prefix.encode()).hexdigest()[:16]}"
