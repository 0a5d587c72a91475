"""Loads tasks by name and settings."""

from __future__ import annotations

from bstar_jax.config import FieldNames, TaskConfig, UserError
from bstar_jax.tasks import (
    apps,
    arc,
    arithmetic,
    gsm8k,
    humaneval,
    jsonl,
    mathematics,
    mbpp,
)
from bstar_jax.tasks import format as formats
from bstar_jax.tasks.task import Task

# Stories are generated, but responses to them may come in files.
FORMATS = {
    module.FORMAT.name: module.FORMAT
    for module in (arithmetic, gsm8k, mathematics, arc, humaneval, mbpp, apps)
}
TASKS = (*FORMATS, "jsonl")


def load(
    name: str,
    path: str = "",
    *,
    seed: int,
    sft_examples: int,
    calibration_queries: int,
    heldout_queries: int,
    train_queries: int = 10240,
    prompt: str = "",
    hint_prompt: str = "",
    answer_marker: str = "",
    reward: str = "number",
    fields: FieldNames | None = None,
    shots: int = 0,
) -> Task:
    """Loads or generates a task; the same arguments give the same task.

    Args:
      name: One of `TASKS`.
      path: A JSON Lines file, or a folder with `train.jsonl` and optionally `test.jsonl`; ""
        for a generated task.
      seed: Decides which records are held out, or what is generated.
      sft_examples: Number of queries in the split sft.
      calibration_queries: Number of queries in the split calibration.
      heldout_queries: Number of queries in the split heldout.
      train_queries: Queries of the split train, if generated; of a file, train is all that is left.
      prompt: Template holding {question}; "" takes the task's own.
      hint_prompt: Template holding {question} and {reference}; "" takes the task's own.
      answer_marker: The text before an answer; "" takes the task's own. For `jsonl` only.
      reward: How the answers of `jsonl` compare, one of `jsonl.REWARDS`.
      fields: Names of the fields in a line of a `jsonl` file.
      shots: Number of solved train examples put before every prompt, and taken out of train.

    Returns:
      The task; its splits have exactly the sizes asked for.

    Raises:
      UserError: If the name is unknown, a file is missing, broken or too short, a field is
        missing or of the wrong type, an id occurs twice, an answer cannot be read, or there are
        too few human solutions.
    """
    fields = fields or FieldNames()
    form = find_format(name, fields, reward=reward, answer_marker=answer_marker)
    if not path and name != "arithmetic":
        raise UserError(
            f"task.path is '', but task {name!r} reads a file; "
            "add --config.task.path=FILE_OR_FOLDER"
        )
    sizes = {
        "sft": sft_examples,
        "train": train_queries,
        "calibration": calibration_queries,
        "heldout": heldout_queries,
        "shots": shots,
    }
    templates = {"prompt": prompt, "hint_prompt": hint_prompt}
    if name == "arithmetic":
        if shots:
            raise UserError(
                f"task.shots is {shots}, but task 'arithmetic' shows no examples, as its models "
                "learn from warm-up alone; drop it"
            )
        return arithmetic.load(seed=seed, sizes=sizes, **templates)
    return formats.load(form, path, seed=seed, sizes=sizes, **templates)


def check_distinct(settings: TaskConfig, distinct: str) -> None:
    """Checks that responses to a task can be told apart as a config says.

    Args:
      settings: The task, which need not be loaded.
      distinct: What tells repeats apart, as `balance.distinct`.

    Raises:
      UserError: If equations do, and responses have none.
    """
    is_own = settings.name == "jsonl"
    known = jsonl.REWARDS[settings.reward] if is_own else FORMATS[settings.name].source
    if distinct == "equations" and known.equations is None:
        kind = settings.reward if is_own else settings.name
        raise UserError(
            f"balance.distinct is 'equations', but responses of task {kind!r} have none to tell "
            "them apart by; use balance.distinct=text"
        )


def find_format(
    name: str, fields: FieldNames, *, reward: str, answer_marker: str
) -> formats.Format:
    """Finds the format of a task's files; see `load` for the arguments.

    Raises:
      UserError: If the name is unknown, or a task with a format of its own is given another.
    """
    if name not in TASKS:
        raise UserError(f"task.name is {name!r}; it takes one of {', '.join(TASKS)}")
    if name == "jsonl":
        return jsonl.format_for(fields, reward=reward, answer_marker=answer_marker)
    if (answer_marker, reward, fields) != ("", "number", FieldNames()):
        raise UserError(
            f"task {name} has its own answer_marker, reward and fields; drop "
            f"task.answer_marker={answer_marker!r}, task.reward={reward!r} and {fields}, or use "
            "task jsonl"
        )
    return FORMATS[name]
