"""Writes the settings of every file and variant in configs/, in the order of their fields.

    python -m benchmarks.fidelity.configurations --output=FILE

Run in a checkout, whose package it imports. The order counts: it is the order of config.json.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib

from benchmarks import figures
from bstar_jax.config import load_config, to_dict


def variants_of(file: pathlib.Path) -> list[str]:
    """The names in a config file's table of variants."""
    spec = importlib.util.spec_from_file_location(f"configs_{file.stem}", file)
    assert spec is not None and spec.loader is not None, f"{file} is no Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.VARIANTS)


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    settings = {}
    for file in sorted(pathlib.Path("configs").glob("*.py")):
        for variant in ["", *variants_of(file)]:
            name = f"{file}:{variant}" if variant else str(file)
            settings[name] = to_dict(load_config(name))
    arguments.output.write_text(json.dumps(settings, indent=1) + "\n")
    print(f"{len(settings)} configs")


if __name__ == "__main__":
    main()
