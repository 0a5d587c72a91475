r"""Grades responses in a file: `python -m bstar_jax.grade --task=gsm8k --input=FILE --output=FILE`.

    python -m bstar_jax.grade --task=math --input=responses.jsonl --output=graded.jsonl
    python -m bstar_jax.grade --task=mbpp --input=programs.jsonl --output=graded.jsonl \
        --config.rewards.workers=8 --config.rewards.code.cpu_seconds=10

Each line of the input has the fields of the task and a `response`. The output has the same lines in
the same order, with `correct`, `answer`, `reason`, `score` and `seconds` added; `message` if there
is something to say; for programs also `first_failing`; and if solution steps are checked,
`process_reward` and `step_rewards`. These replace fields of the same name. For task `file`,
`--config.task.*` names the fields and the reward, which may be a function of yours.

Exit codes: 0 done, 2 bad input, 1 any other failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from absl import flags

from bstar_jax.config import UserError, settings
from bstar_jax.config.door import Door
from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import CommandLine, parse
from bstar_jax.config.help import shows_help
from bstar_jax.console import Console

if TYPE_CHECKING:
    from bstar_jax.grading import GradedResponse
    from bstar_jax.records import Response

_AT_ONCE = 256  # responses between two updates of the progress


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag, a setting or a line of the input is wrong.
    """
    if shows_help(DOOR, argv):
        return
    sys.set_int_max_str_digits(0)  # numbers of any length are written back as they were read
    line = parse(argv, DOOR.define)
    source, target = _paths(line)
    for name in line.overridden:
        if not name.startswith(("task.", "rewards.")):
            raise UserError(
                f"{name} changes no grade; grade takes only settings of task and rewards"
            )
    _grade(line, source, target)


def _grade(line: CommandLine, source: pathlib.Path, target: pathlib.Path) -> None:
    from bstar_jax import tasks
    from bstar_jax.grading import open_grader

    chosen = dataclasses.replace(line.config.task, name=line.flags.task or line.config.task.name)
    task, responses, lines = tasks.load_responses(source, chosen)
    queries = task.splits["train"]
    console = Console(quiet=line.flags.quiet)
    counts = Counter()
    with (
        _output(target) as file,
        open_grader(queries, task.sources, line.config.rewards, task.places) as grader,
        console.progress("grade", None, len(responses), "responses") as progress,
    ):
        for start in range(0, len(responses), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            grades = grader.grade(responses[part])
            for text, response, grade in zip(lines[part], responses[part], grades, strict=True):
                file.write(_with_grade(text, response, grade) + "\n")
            counts.update(grade.reason for grade in grades)
            progress.advance(len(grades))
    figures = {
        "responses": str(len(responses)),
        "accuracy": f"{counts['correct'] / len(responses):.4f}",
    }
    figures |= {reason: str(count) for reason, count in sorted(counts.items())}
    console.summary([], {**figures, "graded": target})


def _define(values: flags.FlagValues) -> None:
    names = settings.all_settings()["task.name"].choices or ()
    text = f"The task of the responses: one of {', '.join(names)}."
    flags.DEFINE_string("task", "", text, flag_values=values)
    text = "The file of JSON Lines that has the responses."
    flags.DEFINE_string("input", "", text, flag_values=values)
    flags.DEFINE_string("output", "", "The file to write graded lines to.", flag_values=values)
    flags.DEFINE_boolean("quiet", False, "Show no progress.", flag_values=values)


def _paths(line: CommandLine) -> tuple[pathlib.Path, pathlib.Path]:
    for name in ("input", "output"):
        if not getattr(line.flags, name):
            raise UserError(f"--{name} is missing; name a file of JSON Lines")
    source, target = pathlib.Path(line.flags.input), pathlib.Path(line.flags.output)
    if source.resolve() == target.resolve():
        raise UserError(f"--input and --output are both {source}; give the output another name")
    if target.is_dir():
        raise UserError(f"--output={target} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise UserError(f"--output={target}: there is no folder {target.parent}; create it first")
    return source, target


@contextlib.contextmanager
def _output(target: pathlib.Path) -> Iterator[IO[str]]:
    """Opens the output file, which gets its name when it is complete."""
    from bstar_jax.records.files import atomic_file

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(atomic_file(target))
        except OSError as error:
            raise UserError(f"--output={target} cannot be written: {error.strerror}") from error
        yield file


def _with_grade(line: str, response: Response, grade: GradedResponse) -> str:
    """Returns the line with the grade after its fields."""
    added = {
        "correct": grade.correct,
        "answer": grade.answer,
        "reason": grade.reason,
        "score": grade.score,
        "seconds": round(grade.seconds, 6),
    }
    is_program = "tests" in response.query.fields
    if is_program or grade.message:
        added |= {"message": grade.message}
    if is_program:
        added |= {"first_failing": grade.first_failing}
    if grade.step_rewards is not None:
        added |= {"process_reward": grade.process_reward, "step_rewards": grade.step_rewards}
    given = json.loads(line)
    if given.keys() & added.keys():
        return json.dumps({**given, **added})
    # The line is not decoded and encoded again, because that could change how numbers are written.
    return line.strip().removesuffix("}") + ", " + json.dumps(added)[1:]


DOOR = Door(
    name="grade",
    does="Grades the responses in a file of JSON Lines, each with the fields of the task and a "
    "`response`. The output has the same lines, with the grades added.",
    usage="--task=NAME --input=FILE --output=FILE [--config.NAME=X]",
    define=_define,
    examples=(
        "--task=math --input=responses.jsonl --output=graded.jsonl",
        "--task=mbpp --input=a.jsonl --output=b.jsonl --config.rewards.workers=8",
    ),
    changed=(
        "task.reward",
        "task.fields.question",
        "task.fields.answer",
        "task.answer_marker",
        "task.correct_at",
        "task.step_reward",
        "rewards.workers",
        "rewards.seconds",
        "rewards.code.cpu_seconds",
        "rewards.code.packages",
    ),
)

if __name__ == "__main__":
    run_door(main)
