"""Labels of solution steps without people: every step is continued, by a better model if wanted.

responses    the warm-up model answers some train queries, and some calibration queries
completer    the warm-up model, taught further: by human solutions, or its own right responses
labels       from the end of every step the completer goes on n times; the share that reaches
             the reference answer is the step's label, that of the last step the answer's grade
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax.config import UserError
from bstar_jax.phases.data import human_examples, limits
from bstar_jax.phases.run import Run
from bstar_jax.phases.sampled import discard_units, finish, sample
from bstar_jax.phases.train import Learner, sampling_params, train
from bstar_jax.process_reward.model import step_ends
from bstar_jax.records import Query, Rollouts
from bstar_jax.sampling import Draw, Keys
from bstar_jax.training.batches import Encoded, Example, encode, explain, order
from bstar_jax.training.losses import response_loss
from bstar_jax.training.optimizer import Schedule

# Beside (seed, iteration): whatever else is drawn in an iteration has another number.
_QUERIES, _COMPLETER = 2, 3


def queries_of(run: Run) -> tuple[list[Query], list[Query]]:
    """The train queries whose responses are learnt from, in an order of their own, and the
    calibration queries that judge, which are no train queries. (Of stories these have no set of
    numbers in common; two train queries may, so one would not judge what another taught.)
    """
    train_queries = run.task.splits["train"]
    rng = np.random.default_rng([3, run.config.seed, 0, _QUERIES])
    chosen = rng.permutation(len(train_queries))[: run.config.prm.queries]
    judging = run.task.splits["calibration"][: run.config.prm.heldout]
    return [train_queries[place] for place in chosen], list(judging)


def labelled(run: Run, params: dict) -> tuple[dict, Rollouts]:
    """The completer's parameters, and responses with the label of every step as its reward.

    A reward is 2 label - 1.

    Args:
      run: The run.
      params: The parameters that answer.
    """
    file = run.path(0, "prm.parquet")
    if run.exists(file):
        discard_units(run, 0, "prm")
        stored = Rollouts.read(file)
        return completer(run, params, stored), stored
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
    rows = label(run, responses, continued).with_seconds(**seconds)
    finish(run, 0, "prm.parquet", rows, "prm")
    return better, rows


def begun(run: Run, responses: Rollouts) -> list[Query]:
    """A query for every beginning that some response has up to the end of a step but its last."""
    found = {}
    rows = zip(responses.column("query_id"), responses.column("response"), strict=True)
    for query_id, response in rows:
        for prefix in _prefixes(run, query_id, response):
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
        steps = [reached.get(_id_of(query_id, text)) for text in _prefixes(run, query_id, response)]
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


def _prefixes(run: Run, query_id: str, response: str) -> list[str]:
    ends = step_ends(response, *run.step_marks(run.task.source(query_id)))
    return [response[:end] for end in ends[:-1]]


def _id_of(query_id: str, prefix: str) -> str:
    return f"{query_id}+{hashlib.sha256(prefix.encode()).hexdigest()[:16]}"


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
        learner = Learner(run.model, checkpoints, response_loss, steps, rate, run.frozen)
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
