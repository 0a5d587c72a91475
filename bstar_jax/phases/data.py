"""The texts that a run reads and learns from, and their check before anything is spent."""

from __future__ import annotations

from bstar_jax.config import UserError
from bstar_jax.phases.run import Run
from bstar_jax.records import Rollouts
from bstar_jax.sampling import check_prompt
from bstar_jax.training.batches import Encoded, Example, encode, too_long_message


def check_inputs(run: Run) -> None:
    """Refuses at the start what would otherwise stop the run in an hour.

    Raises:
      UserError: If a prompt is empty or too long, a human solution is missing or too long, or
        there are fewer train queries than an iteration or the process model asks for.
    """
    config, splits = run.config, run.task.splits
    if config.loop.iterations and config.generate.queries > len(splits["train"]):
        raise UserError(
            f"generate.queries is {config.generate.queries}, but the train split has "
            f"{len(splits['train'])}; lower it, or 0 takes all"
        )
    for name, split in (("queries", "train"), ("heldout", "calibration")):
        wanted, there = getattr(config.prm, name), len(splits[split])
        if config.prm.enabled and wanted > there:
            raise UserError(f"prm.{name} is {wanted}, but the {split} split has {there}; lower it")
    limit = config.generate.max_prompt_tokens
    for query in (*splits["train"], *splits["calibration"], *splits["heldout"]):
        check_prompt(query.query_id, run.tokenizer.encode_prompt(query.prompt), limit)
        if config.generate.rationalize and query.split == "train":
            hint = run.tokenizer.encode_prompt(run.task.hint(query))
            check_prompt(f"{query.query_id} with its hint", hint, limit)
    teaches = config.prm.completer_steps and config.prm.completer_data != "own"
    if config.sft.steps or config.improve.reference_share or teaches:
        human_data(run)


def human_data(run: Run) -> Encoded:
    """The human solutions as training rows; errors as of `human_examples`, and

    Raises:
      UserError: If one does not fit the lengths.
    """
    examples = human_examples(run)
    data, too_long = encode(run.tokenizer, examples, **limits(run))
    if too_long:
        raise UserError(too_long_message(too_long, len(examples), **limits(run)))
    return data


def human_examples(run: Run) -> list[Example]:
    """The human solutions.

    Raises:
      UserError: If one is missing.
    """
    queries = run.task.splits["sft"]
    missing = [query.query_id for query in queries if not query.solution]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(queries)} queries of split sft have no human solution, such "
            f"as {missing[0]!r}; name the field in task.fields.solution, or set sft.steps=0"
        )
    return [
        Example(query.prompt, solution, query.query_id)
        for query in queries
        for solution in query.solutions(run.config.sft.solutions)
    ]


def selected_data(run: Run, iteration: int, selected: Rollouts) -> Encoded:
    """The selected responses as training rows, with those before where data accumulates.

    A text may be longer once it is encoded again, as the sampler need not draw the tokens that
    the tokenizer would write; such rows are left out, counted in a warning.

    Raises:
      UserError: If none is left.
    """
    parts = [selected]
    if run.config.improve.data == "accumulated":
        for before in range(iteration - 1, 0, -1):
            rollouts = Rollouts.read(run.path(before, "generate.parquet"))
            parts.insert(0, rollouts.filter(rollouts.column("selected")))
    columns = [
        [value for part in parts for value in part.column(name)]
        for name in ("prompt", "response", "query_id")
    ]
    # What several iterations selected alike counts once.
    examples = dict.fromkeys(Example(*row) for row in zip(*columns, strict=True))
    data, too_long = encode(run.tokenizer, list(examples), **limits(run))
    if too_long:
        run.console.warn(
            f"iteration {iteration}: {len(too_long)} of {len(examples)} selected texts are longer "
            "than the limits once they are encoded again; training leaves them out"
        )
    if len(data) == 0:
        raise UserError(too_long_message(too_long, len(examples), **limits(run)))
    return data


def limits(run: Run) -> dict[str, int]:
    """The lengths that `encode` takes."""
    settings = run.config.generate
    return {
        "max_prompt_tokens": settings.max_prompt_tokens,
        "max_tokens": settings.max_tokens,
    }
