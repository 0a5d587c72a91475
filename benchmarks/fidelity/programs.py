"""Writes the text of every program that runs on the devices, as it is before XLA compiles it.

    python -m benchmarks.fidelity.programs --output=DIR

For small configs on virtual CPU devices, DIR/VARIANT/PROGRAM.txt. Whatever can move a bit on a
device shows in these texts; names, which cannot, are taken out: of modules, of functions inside
them (numbered in their order) and of the fields of arguments and results. Half a minute in all,
as programs are lowered and not run.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
from jax.sharding import Mesh

from benchmarks import figures
from bstar_jax.config import Config, load_config
from bstar_jax.planning.memory import timeline
from bstar_jax.planning.models import planned_model
from bstar_jax.sharding import Placement, make_mesh

AXES = ("mesh.data", "mesh.fsdp", "mesh.tensor")
SMALL: dict[str, object] = {
    "model.width": 32, "model.layers": 2, "model.feed_forward": 64, "sft.batch": 32,
    "calibrate.queries": 8, "calibrate.responses": 4, "calibrate.temperatures": (0.5, 1.0),
    "calibrate.thresholds": (-0.5, 0.5), "generate.queries": 32, "generate.batch": 32,
    "improve.batch": 32, "monitor.queries": 8, "monitor.responses": 7, "monitor.ks": (1, 4),
    "monitor.s": 2,
}  # fmt: skip
PRM: dict[str, object] = {
    "prm.queries": 96,
    "prm.heldout": 8,
    "prm.batch": 16,
    "prm.score_batch": 32,
}
VARIANTS = {  # name -> file and variant, settings, (data, fsdp, tensor)
    "tiny": ("configs/arithmetic.py", SMALL, (1, 1, 1)),
    "prm": ("configs/arithmetic.py:prm", {**SMALL, **PRM}, (1, 1, 1)),
    "prm_mesh": ("configs/arithmetic.py:prm", {**SMALL, **PRM}, (2, 2, 2)),
    "mesh": ("configs/arithmetic.py", SMALL, (2, 2, 2)),
    "lora": ("configs/arithmetic.py", {**SMALL, "model.lora_rank": 4}, (1, 1, 1)),
    "lora_mesh": ("configs/arithmetic.py", {**SMALL, "model.lora_rank": 4}, (2, 2, 2)),
    "packed": (
        "configs/arithmetic.py",
        {**SMALL, "training.row_tokens": 64, "training.micro_rows": 4},
        (2, 2, 2),
    ),
    "int8": (
        "configs/arithmetic.py",
        {**SMALL, "generate.weights": "int8", "generate.top_p": 0.9, "generate.min_p": 0.1},
        (2, 2, 2),
    ),
    "bfloat16": (
        "configs/arithmetic.py",
        {**SMALL, "model.dtype": "bfloat16", "generate.weights": "bfloat16"},
        (1, 1, 1),
    ),
    "default": ("configs/arithmetic.py", {}, (1, 1, 1)),
}


def lowered(config: Config, mesh: Mesh) -> Iterator[tuple[str, Any]]:
    """Every program of a run on a mesh, with its name: what the planner lists."""
    for occupancy in timeline(Placement(config, planned_model(config).model, mesh, mesh)):
        if occupancy.program.lower:
            yield occupancy.program.name, occupancy.program.lower()


def plain(text: str) -> str:
    """A program's text without names that a rename may change."""
    text = re.sub(r"^module @\S+", "module", text, flags=re.MULTILINE)
    name = r'jax\.result_info = "[^"]*"'
    text = re.sub(rf" \{{{name}\}}|{name}, |, {name}", "", text)
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"@f{numbers.setdefault(match[0], len(numbers))}"

    return re.sub(r'(?<!custom_call )@(?:[\w.$-]+|"[^"]*")', number, text)


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names, with commas")
    arguments = parser.parse_args()
    for name in arguments.variants.split(","):
        file, settings, sizes = VARIANTS[name]
        axes = dict(zip(AXES, sizes, strict=True))
        config = load_config(file).changed({**settings, **axes})
        devices = jax.devices()[: sizes[0] * sizes[1] * sizes[2]]
        folder = arguments.output / name
        folder.mkdir(parents=True, exist_ok=True)
        for program, low in lowered(config, make_mesh(config.mesh, devices)):
            text = plain(low.as_text())
            (folder / f"{program}.txt").write_text(text)
            print(f"{name}: {program}, {len(text):,} bytes", flush=True)


if __name__ == "__main__":
    main()
