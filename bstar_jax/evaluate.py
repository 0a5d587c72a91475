r"""Scores a checkpoint: `python -m bstar_jax.evaluate RUN[@ITERATION]`, or `--checkpoint=DIR`.

    python -m bstar_jax.evaluate runs/first               # its last iteration, held-out queries
    python -m bstar_jax.evaluate runs/first@2 --split=train
    python -m bstar_jax.evaluate runs/first --config.monitor.responses=128 --json=scores.json
    python -m bstar_jax.evaluate --checkpoint=/models/Qwen3-0.6B --config=configs/gsm8k.py \
        --config.task.path=gsm8k/

The draws are those of the run's own monitor phase: with the run's settings the held-out split gives
the figures that the run logged, to the last digit. The settings are those of the run; `monitor.*`,
`generate.batch`, `generate.slots` and `mesh.*` may be overridden. A Hugging Face checkpoint is
scored as iteration 0 of a run with the settings of `--config`, without a learnt process reward.

Exit codes: 0 done, 2 bad input, 1 any other failure.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from bstar_jax.config import Config, UserError, leave_to_checkpoint
from bstar_jax.config.door import Door, define_display_flags, define_process_flags
from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import CommandLine, check_overrides, flag_value, parse, run_target
from bstar_jax.config.help import shows_help
from bstar_jax.config.stored import read_config
from bstar_jax.console import Console, silence_libraries

if TYPE_CHECKING:
    from bstar_jax.phases.run import Run

_SPLITS = ("sft", "train", "calibration", "heldout")  # those of `records`, which imports Arrow


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag or a setting is wrong, or there is no such run, checkpoint or split.
    """
    if shows_help(DOOR, argv):
        return
    silence_libraries()  # before a config file may import them
    is_run = not flag_value(argv, "checkpoint")
    directory, iteration = run_target("evaluate", argv) if is_run else ("", None)
    line = parse(argv, DOOR.define, stored=read_config(directory) if is_run else None)
    if is_run:
        check_overrides(line, "evaluate")
        _evaluate(line, directory, line.config, iteration)
    else:
        config, note = leave_to_checkpoint(_config_for_checkpoint(line), line.overridden)
        with tempfile.TemporaryDirectory() as folder:
            _evaluate(line, folder, config, 0, line.note or note)


def _evaluate(
    line: CommandLine, directory: str, config: Config, iteration: int | None, note: str = ""
) -> None:
    """Scores an iteration of a run, None for its last; or 0 of a run that has none stored."""
    silence_libraries(verbose=line.flags.verbose)
    from bstar_jax import processes
    from bstar_jax.phases.opening import open_run

    with processes.join(line.flags) as team:
        shown = Console(quiet=line.flags.quiet, verbose=line.flags.verbose)
        console = shown if team.is_first else Console.nobody()
        if note:
            console.note(note)
        with open_run(
            directory, config, console, write=False, team=team, stated=line.overridden
        ) as run:
            checkpoints = run.policy.checkpoints
            if line.flags.checkpoint:
                params = run.policy.initial_params()
            else:
                iteration = checkpoints.latest() if iteration is None else iteration
                params = checkpoints.restore_params(iteration)
            _score(run, iteration or 0, params, line)


def _score(run: Run, iteration: int, params: dict, line: CommandLine) -> None:
    """Answers the queries, prints the figures, and writes them to the file of --json."""
    from bstar_jax.phases.monitor import evaluate

    queries = run.task.splits[line.flags.split][: run.config.monitor.queries]
    if not queries:
        raise UserError(f"split {line.flags.split} of the run has no queries; name another --split")
    with run.collecting(params) as collect:
        figures = evaluate(run.config, run.task, collect, iteration, queries)
    row = {
        "iteration": iteration,
        "split": line.flags.split,
        "queries": len(queries),
        "responses": run.config.monitor.responses,
        **figures,
    }
    run.workspace.console.summary([], {name: _text(value) for name, value in row.items()})
    if line.flags.json and run.workspace.team.is_first:
        Path(line.flags.json).write_text(json.dumps(row, indent=2, allow_nan=False) + "\n")


def _config_for_checkpoint(line: CommandLine) -> Config:
    """Returns the settings of `--config` for a run that only evaluates the checkpoint."""
    if line.arguments:
        raise UserError(
            f"evaluate scores a run or a --checkpoint, not both; drop {line.arguments[0]!r}"
        )
    if not line.config_file:
        raise UserError(
            "--checkpoint needs a task and settings; add --config=FILE, such as "
            "--config=configs/gsm8k.py"
        )
    return line.config.changed(
        {
            "model.checkpoint": line.flags.checkpoint,
            "prm.enabled": False,
            "log.tensorboard": False,
            "log.wandb_project": "",
        }
    )


def _define(values: flags.FlagValues) -> None:
    text = "Score the checkpoint in this Hugging Face directory, or of this hub name, not a run."
    flags.DEFINE_string("checkpoint", "", text, flag_values=values)
    text = "The split whose queries are answered."
    flags.DEFINE_enum("split", "heldout", _SPLITS, text, flag_values=values)
    flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=values)
    define_display_flags(values)
    define_process_flags(values)


def _text(value) -> str:
    return "-" if value is None else repr(value) if isinstance(value, float) else str(value)


DOOR = Door(
    name="evaluate",
    does="Scores a checkpoint of a run, or a published one, on queries of the task. The settings "
    "are those of the run; monitor.*, generate.batch, generate.slots and mesh.* may differ.",
    usage="RUN[@ITERATION] | --checkpoint=DIR --config=FILE [--config.NAME=X]",
    define=_define,
    examples=(
        "runs/first               # its last iteration",
        "runs/first@2 --split=train --json=scores.json",
        "--checkpoint=/models/Qwen3-0.6B --config=configs/gsm8k.py",
    ),
    changed=(
        "monitor.queries",
        "monitor.responses",
        "monitor.ks",
        "monitor.temperature",
        "monitor.s",
        "generate.batch",
        "generate.slots",
        "mesh.data",
        "mesh.fsdp",
        "mesh.tensor",
    ),
)

if __name__ == "__main__":
    run_door(main)
