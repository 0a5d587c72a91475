"""Training data: human solutions and selected responses, encoded as rows."""

from __future__ import annotations

from bstar_jax.config import Config, UserError
from bstar_jax.records import Rollouts
from bstar_jax.run.workspace import Workspace
from bstar_jax.tasks import LoadedTask
from bstar_jax.tokenizer import Tokenizer
from bstar_jax.training.batches import Batch, Encoded, Example, encode, too_long_message


def human_data(config: Config, task: LoadedTask, tokenizer: Tokenizer) -> Encoded[Batch]:
    """Encodes the human solutions as training rows.

    Raises:
      UserError: If a solution is missing or longer than the limits.
    """
    examples = human_examples(config, task)
    data, too_long = encode(tokenizer, examples, **length_limits(config))
    if too_long:
        raise UserError(too_long_message(too_long, len(examples), **length_limits(config)))
    return data


def human_examples(config: Config, task: LoadedTask) -> list[Example]:
    """Lists the human solutions of split sft, up to `sft.solutions` for each query.

    Raises:
      UserError: If a query has no solution.
    """
    queries = task.splits["sft"]
    missing = [query.query_id for query in queries if not query.solution]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(queries)} queries of split sft have no human solution, such "
            f"as {missing[0]!r}; name the field in task.fields.solution, or set sft.steps=0"
        )
    return [
        Example(query.asked, solution, query.query_id)
        for query in queries
        for solution in query.solutions(config.sft.solutions)
    ]


def selected_data(
    config: Config,
    workspace: Workspace,
    tokenizer: Tokenizer,
    iteration: int,
    selected: Rollouts,
) -> Encoded[Batch]:
    """Encodes the selected responses as training rows.

    With `improve.data` "accumulated" the responses of earlier iterations come first. A text may
    have more tokens when it is encoded again, because the sampler can draw a text as other tokens
    than the tokenizer's own. Rows that are then too long are left out, and a warning gives their
    number.

    Args:
      config: The settings.
      workspace: The run directory, which has the rows of earlier iterations.
      tokenizer: Encodes the texts.
      iteration: From 1.
      selected: The selected rows of this iteration.

    Raises:
      UserError: If no row is left.
    """
    parts = [selected]
    if config.improve.data == "accumulated":
        for before in range(iteration - 1, 0, -1):
            rollouts = Rollouts.read(workspace.path(before, "generate.parquet"))
            parts.insert(0, rollouts.filter(rollouts.column("selected")))
    # A text that several iterations selected counts once.
    examples = dict.fromkeys(
        Example(*row)
        for part in parts
        for row in zip(
            part.prompts(), part.column("response"), part.column("query_id"), strict=True
        )
    )
    data, too_long = encode(tokenizer, list(examples), **length_limits(config))
    if too_long:
        workspace.console.warn(
            f"iteration {iteration}: {len(too_long)} of {len(examples)} selected texts are longer "
            "than the limits when they are encoded again; training leaves them out"
        )
    if len(data) == 0:
        raise UserError(too_long_message(too_long, len(examples), **length_limits(config)))
    return data


def length_limits(config: Config) -> dict[str, int]:
    """Returns the length limits that `encode` takes, in tokens."""
    return {
        "max_prompt_tokens": config.generate.max_prompt_tokens,
        "max_tokens": config.generate.max_tokens,
    }
