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

from bstar_jax.config import UserError
from bstar_jax.config.door import Door, define_display_flags, define_process_flags
from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import CommandLine, flag_value, parse
from bstar_jax.config.help import shows_help
from bstar_jax.config.stored import read_config
from bstar_jax.console import Console, silence_libraries


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag or a setting is wrong.
      Preempted: If a stop was requested; the state is saved.
    """
    if shows_help(DOOR, argv):
        return
    silence_libraries()  # before a config file may import them
    workdir = flag_value(argv, "workdir")
    if not workdir:
        raise UserError(
            "--workdir is missing; name the run directory, such as --workdir=runs/first"
        )
    stored = read_config(workdir) if (Path(workdir) / "config.json").is_file() else None
    line = parse(argv, DOOR.define, stored=stored)
    if line.arguments:
        raise UserError(f"main takes flags only, not {line.arguments[0]!r}; see --help")
    if stored is None and not line.config_file:
        raise UserError("--config is missing; try --config=configs/arithmetic.py")
    _train(workdir, line)


def _train(workdir: str, line: CommandLine) -> None:
    """Opens the run and trains it, with everything that this needs imported."""
    silence_libraries(verbose=line.flags.verbose)
    from bstar_jax import processes
    from bstar_jax.iterate import self_train
    from bstar_jax.phases.opening import open_run
    from bstar_jax.run.journal import iteration_rows

    _compile_cache(Path(workdir))
    with processes.join(line.flags) as team:
        started = time.monotonic()
        stop = processes.StopRequest(team)
        stop.listen()
        shown = Console(quiet=line.flags.quiet, verbose=line.flags.verbose)
        console = shown if team.is_first else Console.nobody()
        if line.note:
            console.note(line.note)
        accept = tuple(line.flags.accept)
        with open_run(
            workdir, line.config, console, stop=stop, team=team, accept=accept,
            stated=line.overridden,
        ) as run:  # fmt: skip
            self_train(run)
            directory = run.workspace.directory
            places = {
                "metrics": directory / "metrics.jsonl",
                "rollouts": directory / "iterations",
                "checkpoints": directory / "checkpoints",
                "curves": f"tensorboard --logdir {directory / 'tensorboard'}",
                "evaluate": f"python -m bstar_jax.evaluate {directory}",
            }
            rows = run.workspace.metrics.rows()
            if errors := sum(row.get("errors", 0) for row in rows):
                places["errors"] = f"{errors} responses could not be graded; see column message"
            seconds = time.monotonic() - started
            console.summary(iteration_rows(rows), places, seconds=seconds)


def _compile_cache(workdir: Path) -> None:
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # the user has chosen a folder for compiled programs, such as one for several runs
    import jax

    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _define(values: flags.FlagValues) -> None:
    text = "The run directory; made where there is none, continued where it holds a run."
    flags.DEFINE_string("workdir", None, text, flag_values=values)
    text = "Go on although these changed since the run began: data, task, reward, step_reward."
    flags.DEFINE_list("accept", [], text, flag_values=values)
    define_display_flags(values)
    define_process_flags(values)


DOOR = Door(
    name="main",
    does="Trains a run, or goes on with the one that the run directory holds.",
    usage="--config=FILE[:VARIANT] --workdir=RUN [--config.NAME=X]",
    define=_define,
    examples=(
        "--config=configs/arithmetic.py --workdir=runs/first",
        "--config=configs/arithmetic.py:online_rft --workdir=runs/online",
        "--workdir=runs/first        # goes on",
    ),
    changed=(
        "task.name",
        "task.path",
        "task.reward",
        "model.checkpoint",
        "loop.iterations",
        "calibrate.temperatures",
        "generate.queries",
        "generate.responses",
        "generate.max_tokens",
        "improve.steps",
    ),
    ends="0 done, 2 bad input, 75 preempted (the state is saved), 1 any other failure",
)

if __name__ == "__main__":
    run_door(main)
