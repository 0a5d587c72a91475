"""Exports a run to Transformers: `python -m bstar_jax.export RUN[@ITERATION] --output=DIR`.

    python -m bstar_jax.export runs/first --output=/models/first       # its last iteration
    python -m bstar_jax.export runs/first@2 --output=/models/second
    python -m bstar_jax.export runs/lora --adapter --output=/models/adapter    # for PEFT

Transformers loads the directory: it has config, safetensors and tokenizer. If the run started from
a checkpoint, the export has the family, names, dtypes and files of that checkpoint; if it started
from random parameters, the export is a Llama in f32 with the run's tokenizer. An output that is not
empty is refused. The settings are those of the run; `mesh.*` may be overridden.

Exit codes: 0 done, 2 bad input, 1 any other failure.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from bstar_jax.config import Config, UserError
from bstar_jax.config.door import Door, define_display_flags
from bstar_jax.config.errors import run_door
from bstar_jax.config.flags import CommandLine, check_overrides, parse, run_target
from bstar_jax.config.help import shows_help
from bstar_jax.config.stored import read_config
from bstar_jax.console import Console, silence_libraries

if TYPE_CHECKING:
    from bstar_jax.run.policy import Policy


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Args:
      argv: The command line; its first word is the program.

    Raises:
      UserError: If a flag or a setting is wrong, or there is no such run or checkpoint.
    """
    if shows_help(DOOR, argv):
        return
    silence_libraries()  # before a config file may import them
    directory, iteration = run_target("export", argv)
    line = parse(argv, DOOR.define, stored=read_config(directory))
    check_overrides(line, "export")
    if not line.flags.output:
        raise UserError(
            "--output is missing; export writes a directory: say which, as --output=DIR"
        )
    _export(line, directory, iteration)


def _export(line: CommandLine, directory: str, iteration: int | None) -> None:
    silence_libraries(verbose=line.flags.verbose)
    from bstar_jax.phases.opening import open_run

    console = Console(quiet=line.flags.quiet, verbose=line.flags.verbose)
    with open_run(directory, line.config, console, write=False) as run:
        iteration = run.policy.checkpoints.latest() if iteration is None else iteration
        write = export_adapter if line.flags.adapter else export
        write(run.config, run.policy, iteration, pathlib.Path(line.flags.output))
    console.summary([], {"iteration": str(iteration), "output": line.flags.output})


def export(config: Config, policy: Policy, iteration: int, output: pathlib.Path) -> None:
    """Writes the parameters after an iteration as a Hugging Face directory, adapters merged.

    Args:
      config: The settings of the run.
      policy: The model, with its checkpoints.
      iteration: The iteration, from 0.
      output: The directory to write; it must not exist or be empty.

    Raises:
      UserError: If there is no such checkpoint, the output is not empty, or Transformers has no
        class for the model.
    """
    from bstar_jax import hub

    params = policy.merged(policy.checkpoints.restore_params(iteration), dtype="float32")
    tokenizer = policy.tokenizer
    ids = {"bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    ids |= {"pad_token_id": tokenizer.pad_id}
    keeps_tokenizer = policy.source and not config.tokenizer.path

    def add_tokenizer(folder: pathlib.Path) -> None:
        for pattern in hub.TOKENIZER_FILES:
            for file in folder.glob(pattern):
                file.unlink()
        tokenizer.save(folder)

    hub.export_checkpoint(
        policy.merged_model,
        params,
        policy.source,
        output,
        special_ids={name: token for name, token in ids.items() if token is not None},
        add=None if keeps_tokenizer else add_tokenizer,
    )


def export_adapter(config: Config, policy: Policy, iteration: int, output: pathlib.Path) -> None:
    """Writes the adapters after an iteration for PEFT, without the model that they belong to.

    Args:
      config: The settings of the run.
      policy: The model, with its checkpoints.
      iteration: The iteration, from 0.
      output: The directory to write; it must not exist or be empty.

    Raises:
      UserError: If the run has no adapters, or they belong to random parameters, which nobody else
        has; if there is no such checkpoint; or if the output is not empty.
    """
    from bstar_jax import hub

    base = config.model.checkpoint
    if not base:
        raise UserError(
            "--adapter writes adapters of a published checkpoint, but the run started from random "
            "parameters; drop the flag"
        )
    params = policy.checkpoints.restore_params(iteration)
    hub.export_adapter(policy.model, params, base, output, source=policy.source)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("output", "", "The directory to write.", flag_values=values)
    text = "Write only the adapters, in the format of PEFT."
    flags.DEFINE_boolean("adapter", False, text, flag_values=values)
    define_display_flags(values)


DOOR = Door(
    name="export",
    does="Exports an iteration of a run as a directory that Transformers loads, or its adapters "
    "for PEFT. The settings are those of the run; mesh.* may differ.",
    usage="RUN[@ITERATION] --output=DIR [--adapter]",
    define=_define,
    examples=(
        "runs/first --output=/models/first         # its last iteration",
        "runs/first@2 --output=/models/second",
        "runs/lora --adapter --output=/models/adapter",
    ),
    changed=("mesh.data", "mesh.fsdp", "mesh.tensor"),
    takes_config=False,
)

if __name__ == "__main__":
    run_door(main)
