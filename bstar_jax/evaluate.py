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

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import CommandLine, check_overrides, parse, run_target
from bstar_jax.console import Console, silence_libraries

silence_libraries()

from bstar_jax import processes
from bstar_jax.config import Config, UserError
from bstar_jax.phases.monitor import evaluate
from bstar_jax.phases.opening import open_run
from bstar_jax.phases.run import Run
from bstar_jax.records import SPLITS
from bstar_jax.run.workspace import read_config


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag or a setting is wrong, or there is no such run, checkpoint or split.
    """
    is_run = not any(word.startswith("--checkpoint") for word in argv)
    directory, iteration = run_target("evaluate", argv) if is_run else ("", None)
    stored = read_config(directory) if is_run else None
    line = parse(argv, _define, stored=stored)
    silence_libraries(verbose=line.flags.verbose)
    console = Console(quiet=line.flags.quiet, verbose=line.flags.verbose)
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(processes.join(line.flags))
        console = console if team.is_first else Console.nobody()
        if is_run:
            check_overrides(line, "evaluate")
            run = stack.enter_context(
                open_run(directory, line.config, console, write=False, team=team)
            )
            checkpoints = run.policy.checkpoints
            iteration = checkpoints.latest() if iteration is None else iteration
            params = checkpoints.restore_params(iteration)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            config = _config_for_checkpoint(line)
            run = stack.enter_context(open_run(folder, config, console, write=False, team=team))
            iteration, params = 0, run.policy.initial_params()
        _score(run, iteration, params, line)


def _score(run: Run, iteration: int, params: dict, line: CommandLine) -> None:
    """Answers the queries, prints the figures, and writes them to the file of --json."""
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
    processes.define_flags(values)
    text = "Score the checkpoint in this Hugging Face directory, or of this hub name, not a run."
    flags.DEFINE_string("checkpoint", "", text, flag_values=values)
    text = "The split whose queries are answered."
    flags.DEFINE_enum("split", "heldout", SPLITS, text, flag_values=values)
    flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=values)
    flags.DEFINE_boolean("quiet", False, "Show no progress.", flag_values=values)
    flags.DEFINE_boolean("verbose", False, "Show details too.", flag_values=values)


def _text(value) -> str:
    return "-" if value is None else repr(value) if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_door(main)
