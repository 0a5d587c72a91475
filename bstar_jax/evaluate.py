"""Scores a checkpoint of a run: `python -m bstar_jax.evaluate RUN[@ITERATION]`.

    python -m bstar_jax.evaluate runs/first                    # its last iteration, held out
    python -m bstar_jax.evaluate runs/first@2 --split=train
    python -m bstar_jax.evaluate runs/first --config.monitor.responses=128 --json=scores.json

The draws are those of the run's own monitor phase: with the run's settings the held-out split
gives the figures that the run wrote, to the last digit. Settings are the run's; `monitor.*`,
`generate.batch`, `generate.slots` and `mesh.*` may be overridden.

Exit codes: 0 done, 2 bad input, 1 any other failure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from bstar_jax.console import Console, silence_libraries
from bstar_jax.flags import parse, run_door

silence_libraries()

from bstar_jax.config import UserError  # noqa: E402
from bstar_jax.phases.monitor import evaluate  # noqa: E402
from bstar_jax.phases.run import open_run, read_config  # noqa: E402
from bstar_jax.phases.train import sampling_params  # noqa: E402
from bstar_jax.records import SPLITS  # noqa: E402

_MAY_DIFFER = ("monitor.", "mesh.", "generate.batch", "generate.slots", "log.")


def main(argv: Sequence[str]) -> None:
    """Runs the door."""
    directory, iteration = _target(argv)
    line = parse(argv, _define, stored=read_config(directory))
    silence_libraries(verbose=line.flags.verbose)
    for name in line.overridden:
        if not name.startswith(_MAY_DIFFER):
            raise UserError(
                f"{name} belongs to how the run was made; evaluate changes {', '.join(_MAY_DIFFER)}"
            )
    console = Console(quiet=line.flags.quiet, verbose=line.flags.verbose)
    with open_run(directory, line.config, console, write=False) as run:
        iterations = run.checkpoints.iterations()
        if not iterations:
            raise UserError(f"{directory} has no checkpoint yet")
        iteration = iterations[-1] if iteration is None else iteration
        params = sampling_params(run, run.checkpoints.restore_params(iteration))
        queries = run.task.splits[line.flags.split][: line.config.monitor.queries]
        if not queries:
            raise UserError(f"split {line.flags.split} of the run has no queries")
        figures = evaluate(run, iteration, params, queries)
    row = {
        "iteration": iteration,
        "split": line.flags.split,
        "queries": len(queries),
        "responses": line.config.monitor.responses,
        **figures,
    }
    console.summary([], {name: _text(value) for name, value in row.items()})
    if line.flags.json:
        Path(line.flags.json).write_text(json.dumps(row, indent=2, allow_nan=False) + "\n")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_enum("split", "heldout", SPLITS, "Queries to answer.", flag_values=values)
    flags.DEFINE_string("json", "", "Also write the figures to this file.", flag_values=values)
    flags.DEFINE_boolean("quiet", False, "No progress.", flag_values=values)
    flags.DEFINE_boolean("verbose", False, "Also details.", flag_values=values)


def _target(argv: Sequence[str]) -> tuple[str, int | None]:
    targets = [word for word in argv[1:] if not word.startswith("-")]
    if len(targets) != 1:
        raise UserError(
            f"evaluate takes one run directory, such as runs/first or runs/first@2, "
            f"not {len(targets)}; write flags as --name=value"
        )
    directory, at, iteration = targets[0].rpartition("@")
    if not at:
        return targets[0], None
    if not iteration.isdecimal():
        raise UserError(f"{targets[0]}: what follows @ is an iteration, such as @2")
    return directory, int(iteration)


def _text(value) -> str:
    return "-" if value is None else repr(value) if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_door(main)
