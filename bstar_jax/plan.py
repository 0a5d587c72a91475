"""Says whether a run fits: `python -m bstar_jax.plan --config=FILE --topology=v5e:8x8`.

    python -m bstar_jax.plan --config=configs/math_mistral7b.py --topology=v5e:8x8 --json=plan.json
    python -m bstar_jax.plan --config=configs/gsm8k.py --topology=h100:8 --config.mesh.fsdp=8

Compiles every program of the run for devices that this machine need not have, and counts the memory
that a device needs while each runs. For TPUs it needs libtpu (`pip install -e .[tpu]`) but no TPU.
For GPUs all figures are estimated by arithmetic. It reads neither the checkpoint's weights nor the
task's files.

Exit codes: 0 it fits, 3 it does not fit, 2 bad input, 1 any other failure.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from bstar_jax.config import UserError
from bstar_jax.config.door import Door
from bstar_jax.config.errors import DOES_NOT_FIT, run_door
from bstar_jax.config.flags import CommandLine, parse
from bstar_jax.config.help import shows_help
from bstar_jax.console import Console, silence_libraries


def main(argv: Sequence[str]) -> None:
    """Runs the command. Ends the process with code 3 if the run does not fit.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag or a setting is wrong.
    """
    if shows_help(DOOR, argv):
        return
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs on an accelerator, even if there is one
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    silence_libraries()  # before a config file may import them
    line = parse(argv, DOOR.define)
    if line.arguments:
        raise UserError(f"plan takes flags only, not {line.arguments[0]!r}; see --help")
    for name, example in (("config", "configs/arithmetic.py"), ("topology", "v5e:8x8")):
        if not (line.config_file if name == "config" else line.flags.topology):
            raise UserError(f"--{name} is missing; try --{name}={example}")
    _plan(line)


def _plan(line: CommandLine) -> None:
    from bstar_jax import planning
    from bstar_jax.tasks import check_distinct

    check_distinct(line.config.task, line.config.balance.distinct)
    console = Console(quiet=line.flags.quiet)
    if line.note:
        console.note(line.note)
    topology = planning.find_topology(line.flags.topology)
    cache = planning.ReportCache(Path(line.flags.store) if line.flags.store else None)
    made = planning.plan(
        line.config, topology, is_searching=line.flags.search, cache=cache, say=console.note,
        stated=line.overridden,
    )  # fmt: skip
    planning.show(made)
    if line.flags.json:
        text = json.dumps(planning.to_json(made), indent=1, allow_nan=False)
        Path(line.flags.json).write_text(text + "\n")
    if not made.fits:
        sys.stdout.flush()
        sys.exit(DOES_NOT_FIT)


def _define(values: flags.FlagValues) -> None:
    text = "The devices to plan for, such as v5e:8x8, v5p:2x2x4, h100:8, h200:2x8 or gpu-80gb:8."
    flags.DEFINE_string("topology", "", text, flag_values=values)
    flags.DEFINE_string("json", "", "Also write the plan to this file.", flag_values=values)
    text = "Also find the largest settings that fit; if nothing fits, compile a config that would."
    flags.DEFINE_boolean("search", True, text, flag_values=values)
    text = "Keep the compiler's reports in this directory, and do not compile what is found there."
    flags.DEFINE_string("store", "", text, flag_values=values)
    flags.DEFINE_boolean("quiet", False, "Show no progress.", flag_values=values)


DOOR = Door(
    name="plan",
    does="Says whether a run fits devices that this machine need not have, and about how long a "
    "step takes. It reads neither weights nor the task's files.",
    usage="--config=FILE[:VARIANT] --topology=DEVICES [--config.NAME=X]",
    define=_define,
    examples=(
        "--config=configs/math_mistral7b.py --topology=v5e:8x8 --json=plan.json",
        "--config=configs/gsm8k.py --topology=h100:8 --config.mesh.fsdp=8",
    ),
    changed=(
        "model.checkpoint",
        "mesh.data",
        "mesh.fsdp",
        "mesh.tensor",
        "training.row_tokens",
        "training.micro_rows",
        "model.remat",
        "model.lora_rank",
        "generate.slots",
        "generate.weights",
    ),
    ends="0 it fits, 3 it does not fit, 2 bad input, 1 any other failure",
)

if __name__ == "__main__":
    run_door(main)
