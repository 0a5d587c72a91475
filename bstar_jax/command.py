"""The command `bstar-jax`, with a subcommand for each door; also `python -m bstar_jax`.

    bstar-jax main --config=configs/arithmetic.py --workdir=runs/first
    bstar-jax evaluate --help
    eval "$(bstar-jax completion bash)"

`bstar-jax NAME` and `python -m bstar_jax.NAME` are the same. A door is one entry of `DOORS`: the
module `bstar_jax.NAME`, with a `Door` named DOOR, and `main(argv)`.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence

from bstar_jax import __version__
from bstar_jax.config import UserError, completion
from bstar_jax.config.door import Door
from bstar_jax.config.errors import run_door
from bstar_jax.config.help import PROGRAM, asks_for_help
from bstar_jax.config.schema import unknown_name

DOORS = ("main", "data", "evaluate", "grade", "export", "plan")


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program, its second the name of a door.

    Raises:
      UserError: If there is no such door, or as the door does.
      Preempted: As the door does.
    """
    name = argv[1] if len(argv) > 1 else "--help"
    if name in DOORS:
        importlib.import_module(f"bstar_jax.{name}").main([f"{PROGRAM} {name}", *argv[2:]])
    elif name == "completion":
        print(completion.script("".join(argv[2:3]) or "bash", PROGRAM, _doors()), end="")
    elif name == "--version":
        print(f"bstar_jax {__version__}")
    elif name == "help" or asks_for_help(["", name]):
        print(_help())
    else:
        raise UserError(
            unknown_name(name, [*DOORS, "completion"], "command") + f"; see {PROGRAM} --help"
        )


def run() -> None:
    """Runs the command of this process, and exits."""
    run_door(main)


def _doors() -> list[Door]:
    return [importlib.import_module(f"bstar_jax.{name}").DOOR for name in DOORS]


def _help() -> str:
    lines = [f"usage: {PROGRAM} COMMAND ...", ""]
    for door in _doors():
        text = textwrap.wrap(door.does, 80, initial_indent=" " * 13, subsequent_indent=" " * 13)
        lines += [f"  {door.name}".ljust(13) + text[0].strip(), *text[1:]]
    lines += ["  completion bash|zsh: prints a script that completes command lines", ""]
    lines += [f"{PROGRAM} COMMAND --help says more of a command; --helpfull lists all settings."]
    return "\n".join(lines)


if __name__ == "__main__":
    run()
