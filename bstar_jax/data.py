r"""Shows what a run will see of its data: `python -m bstar_jax.data --config=FILE`.

    python -m bstar_jax.data --config=configs/gsm8k.py --config.task.path=gsm8k/
    python -m bstar_jax.data --config=configs/own.py --config.task.path=mine.jsonl \
        --config.task.reward=score.py:score --json=seen.json

For each source it prints what was read and left out, the lengths in tokens, how the reward does on
responses that must be right and on junk, and three prompts exactly as the model gets them. Nothing
is trained, and JAX is not imported.

Exit codes: 0 done, 2 bad input, also where the run would refuse to start, 1 any other failure.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from bstar_jax.config import UserError
from bstar_jax.config.door import Door
from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import CommandLine, parse
from bstar_jax.config.help import shows_help


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag, a setting or the data is wrong, or the reward fails its trial.
    """
    if shows_help(DOOR, argv):
        return
    line = parse(argv, DOOR.define)
    if line.arguments:
        raise UserError(f"data takes flags only, not {line.arguments[0]!r}; see --help")
    _look(line)


def _look(line: CommandLine) -> None:
    from bstar_jax import tasks
    from bstar_jax.grading import open_grader
    from bstar_jax.tasks.preview import preview, written
    from bstar_jax.tasks.tokens import choose_tokenizer

    config = line.config
    task = tasks.load_task(config)
    tokenizer = choose_tokenizer(config, task, _checkpoint(config.model.checkpoint))
    queries = task.query_by_id.values()
    with open_grader(queries, task.sources, config.rewards, task.places) as grader:
        found = preview(config, task, tokenizer, grader)
    for each in found:
        print(written(each, _mark), end="\n\n")
    for note in task.notes:
        print(f"note: {note}")
    for record in task.left_out[:10]:
        print(f"left out: {record.place}: {record.reason}")
    if line.flags.json:
        content = {"sources": found, "notes": list(task.notes)}
        content["left_out"] = [record._asdict() for record in task.left_out]
        pathlib.Path(line.flags.json).write_text(json.dumps(content, indent=2) + "\n")
    failures = [each["failure"] for each in found if each["failure"]]
    if failures and config.task.check_reward:
        raise UserError("\n".join(failures))


def _checkpoint(name: str) -> pathlib.Path | None:
    if not name:
        return None
    if pathlib.Path(name).expanduser().is_dir():
        return pathlib.Path(name).expanduser()
    from bstar_jax import hub

    return hub.locate(name)


def _mark(token: str) -> str:
    """Sets a special token apart: inverse on a terminal, in brackets elsewhere."""
    return f"\x1b[7m{token}\x1b[0m" if sys.stdout.isatty() else f"⟦{token}⟧"


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("json", "", "Also write what is shown to this file.", flag_values=values)


DOOR = Door(
    name="data",
    does="Shows what a run will see of its data: prompts, lengths, references, and its reward.",
    usage="--config=FILE[:VARIANT] [--config.NAME=X]",
    define=_define,
    examples=(
        "--config=configs/gsm8k.py --config.task.path=gsm8k/",
        "--config=configs/own.py --config.task.path=mine.jsonl --config.task.reward=score.py:score",
    ),
    changed=(
        "task.name",
        "task.path",
        "task.reward",
        "task.fields.question",
        "task.fields.answer",
        "task.fields.solution",
        "task.answer_marker",
        "task.unreadable",
        "task.chat_template",
        "tokenizer.path",
    ),
)

if __name__ == "__main__":
    run_door(main)
