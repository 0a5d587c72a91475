"""Starts or continues a run: `python -m bstar_jax.main --config=FILE --workdir=RUN`.

    python -m bstar_jax.main --config=configs/arithmetic.py --workdir=runs/first
    python -m bstar_jax.main --config=configs/arithmetic.py:online_rft --workdir=runs/online
    python -m bstar_jax.main --workdir=runs/first        # continues from what is stored

To use several hosts, run the same command on each, with one run directory that all of them share;
the scripts in launch/ do this. Under SLURM, on TPU pods and on GKE the processes find each other.
Elsewhere pass --coordinator=HOST:PORT --processes=N --process=I to each of them.

Exit codes: 0 done, 2 bad input, 75 preempted with the state saved, 1 any other failure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import parse
from bstar_jax.console import Console, silence_libraries

silence_libraries()

import jax

from bstar_jax import processes
from bstar_jax.config import Config, UserError
from bstar_jax.iterate import self_train
from bstar_jax.phases.opening import open_run
from bstar_jax.processes import StopRequest, Team
from bstar_jax.run.journal import iteration_rows
from bstar_jax.run.workspace import read_config


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag or a setting is wrong.
      Preempted: If a stop was requested; the state is saved.
    """
    workdir = _workdir(argv)
    stored = read_config(workdir) if (Path(workdir) / "config.json").is_file() else None
    line = parse(argv, _define, stored=stored)
    if line.arguments:
        raise UserError(f"main takes flags only, not {line.arguments[0]!r}; see --helpfull")
    if stored is None and not line.config_file:
        raise UserError("--config is missing; try --config=configs/arithmetic.py")
    silence_libraries(verbose=line.flags.verbose)
    _compile_cache(Path(workdir))
    with processes.join(line.flags) as team:
        console = Console(quiet=line.flags.quiet, verbose=line.flags.verbose)
        _train(workdir, line.config, console if team.is_first else Console.nobody(), team)


def _train(workdir: str, config: Config, console: Console, team: Team) -> None:
    started = time.monotonic()
    stop = StopRequest(team)
    stop.listen()
    with open_run(workdir, config, console, stop=stop, team=team) as run:
        self_train(run)
        directory = run.workspace.directory
        places = {
            "metrics": directory / "metrics.jsonl",
            "rollouts": directory / "iterations",
            "checkpoints": directory / "checkpoints",
            "curves": f"tensorboard --logdir {directory / 'tensorboard'}",
            "evaluate": f"python -m bstar_jax.evaluate {directory}",
        }
        seconds = time.monotonic() - started
        console.summary(iteration_rows(run.workspace.metrics.rows()), places, seconds=seconds)


def _define(values: flags.FlagValues) -> None:
    processes.define_flags(values)
    flags.DEFINE_string("workdir", None, "The run directory.", flag_values=values)
    text = "Show only warnings, errors and the summary."
    flags.DEFINE_boolean("quiet", False, text, flag_values=values)
    flags.DEFINE_boolean("verbose", False, "Show details too.", flag_values=values)


def _workdir(argv: Sequence[str]) -> str:
    for place, word in enumerate(argv):
        if word.startswith("--workdir="):
            return word.partition("=")[2]
        if word == "--workdir" and place + 1 < len(argv):
            return argv[place + 1]
    raise UserError("--workdir is missing; name the run directory, such as --workdir=runs/first")


def _compile_cache(workdir: Path) -> None:
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # the user has chosen a folder for compiled programs, such as one for several runs
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    run_door(main)
