"""Grades responses in a file: `python -m bstar_jax.grade --task=gsm8k --input=FILE --output=FILE`.

    python -m bstar_jax.grade --task=math --input=responses.jsonl --output=graded.jsonl
    python -m bstar_jax.grade --task=mbpp --input=programs.jsonl --output=graded.jsonl \\
        --config.rewards.workers=8 --config.rewards.code.cpu_seconds=10

Each line of the input holds the task's own fields and a `response`. The output has the same
lines, in their order, with `correct`, `answer`, `reason` and `seconds`; of programs also
`message` and `first_failing`; where solution steps are checked also `process_reward` and
`step_rewards`. For task `jsonl`, `--config.task.*` names fields and reward.

Exit codes: 0 done, 2 bad input, 1 any other failure.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence

from absl import flags

from bstar_jax import rewards, tasks
from bstar_jax.config import UserError
from bstar_jax.console import Console
from bstar_jax.flags import parse, run_door

_AT_ONCE = 2048  # responses between two looks at the progress


def main(argv: Sequence[str]) -> None:
    """Runs the door."""
    line = parse(argv, _define)
    source, target = _paths(line)
    for name in line.overridden:
        if not name.startswith(("task.", "rewards.")):
            raise UserError(f"{name} changes no grade; grade takes settings of task and rewards")
    settings = dataclasses.replace(line.config.task, name=line.flags.task or line.config.task.name)
    task, responses = tasks.load_responses(source, settings)
    rows = [rewards.Row(*response[:3]) for response in responses]
    console = Console(quiet=line.flags.quiet)
    grades = []
    with (
        rewards.open_grader(task, line.config.rewards) as grader,
        console.progress("grade", None, len(rows), "responses") as progress,
    ):
        for start in range(0, len(rows), _AT_ONCE):
            part = grader.grade(rows[start : start + _AT_ONCE])
            grades += part
            progress.advance(len(part))
    _write(target, responses, grades)
    counts = Counter(grade.reason for grade in grades)
    figures = {"responses": str(len(grades)), "accuracy": f"{counts['correct'] / len(grades):.4f}"}
    figures |= {reason: str(count) for reason, count in sorted(counts.items())}
    console.summary([], {**figures, "graded": target})


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("task", "", f"One of {', '.join(tasks.TASKS)}.", flag_values=values)
    flags.DEFINE_string("input", "", "JSON Lines with responses.", flag_values=values)
    flags.DEFINE_string("output", "", "Where the graded lines go.", flag_values=values)
    flags.DEFINE_boolean("quiet", False, "No progress.", flag_values=values)


def _paths(line) -> tuple[pathlib.Path, pathlib.Path]:
    for name in ("input", "output"):
        if not getattr(line.flags, name):
            raise UserError(f"--{name} is missing; name a file of JSON Lines")
    source, target = pathlib.Path(line.flags.input), pathlib.Path(line.flags.output)
    if source.resolve() == target.resolve():
        raise UserError(f"--input and --output are both {source}; give the output another name")
    if not target.parent.is_dir():
        raise UserError(f"--output={target}: there is no folder {target.parent}; make it first")
    return source, target


def _write(target: pathlib.Path, responses, grades: Sequence[rewards.Grade]) -> None:
    temporary = target.with_name(target.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for response, grade in zip(responses, grades, strict=True):
            added = {
                "correct": grade.correct,
                "answer": grade.answer,
                "reason": grade.reason,
                "seconds": round(grade.seconds, 6),
            }
            if "tests" in response.query.fields:
                added |= {"message": grade.message, "first_failing": grade.first_failing}
            if grade.step_rewards is not None:
                added["process_reward"] = grade.process_reward
                added["step_rewards"] = grade.step_rewards
            given = json.loads(response.record.line)
            file.write(json.dumps({**given, **added}) + "\n")
    os.replace(temporary, target)


if __name__ == "__main__":
    run_door(main)
