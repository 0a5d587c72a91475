"""A door: what a command does, its flags and its examples, known before anything heavy is imported.

A door's module holds a `Door` and `main(argv)`, which reads the command line and only then imports
what does the work. So help, and a mistake in the command line, take no longer than Python's start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from absl import flags

from bstar_jax.config import settings

CLUSTER_KINDS = ("auto", "none", "slurm", "tpu")


@dataclasses.dataclass(frozen=True)
class Door:
    """What is said about a command.

    Attributes:
      name: The word after `bstar-jax`, and the name of the module.
      does: What it does, in a sentence or two.
      usage: Its arguments.
      define: Defines its own flags.
      examples: Command lines, without the name of the program.
      changed: The settings that are changed most often, most important first.
      ends: What its exit codes say.
      takes_config: Whether the settings may come from a file, --config.
    """

    name: str
    does: str
    usage: str
    define: Callable[[flags.FlagValues], None]
    examples: tuple[str, ...]
    changed: tuple[str, ...]
    ends: str = "0 done, 2 bad input, 1 any other failure"
    takes_config: bool = True

    def __post_init__(self) -> None:
        unknown = set(self.changed) - set(settings.all_settings())
        if unknown:
            raise ValueError(f"door {self.name} lists {min(unknown)!r}, which is no setting")

    def own_flags(self) -> list[flags.Flag]:
        """Lists the door's own flags, in the order in which they are defined."""
        values = flags.FlagValues()
        self.define(values)
        return [values[name] for name in values]


def define_process_flags(values: flags.FlagValues) -> None:
    """Defines the flags by which several processes find each other."""
    text = "How processes find each other; auto uses what SLURM, Cloud TPU and GKE set."
    flags.DEFINE_enum("distributed", "auto", CLUSTER_KINDS, text, flag_values=values)
    text = "HOST:PORT of process 0; give --processes and --process too."
    flags.DEFINE_string("coordinator", "", text, flag_values=values)
    text = "Number of processes."
    flags.DEFINE_integer("processes", None, text, lower_bound=1, flag_values=values)
    text = "Number of this process, from 0."
    flags.DEFINE_integer("process", None, text, lower_bound=0, flag_values=values)


def define_display_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say how much is shown."""
    text = "Show only warnings, errors and results."
    flags.DEFINE_boolean("quiet", False, text, flag_values=values)
    flags.DEFINE_boolean("verbose", False, "Show details too.", flag_values=values)
