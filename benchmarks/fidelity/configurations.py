"""Writes the settings of every file and variant in configs/, in the order of their fields.

    python -m benchmarks.fidelity.configurations --output=FILE

Run in a checkout, whose package it imports. The order counts: it is the order of config.json.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import pathlib
from typing import Any

from benchmarks import figures


def package(*places: str) -> Any:
    """The first of these objects that the package has, such as "bstar_jax.model:init"."""
    for place in places:
        module, _, name = place.partition(":")
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(module)
            if hasattr(found, name):
                return getattr(found, name)
    raise SystemExit(f"the package has none of {', '.join(places)}; say where it is now")


LOAD = ("bstar_jax.config.loading:load_config", "bstar_jax.flags:load")
TO_DICT = ("bstar_jax.config:to_dict", "bstar_jax.schema:to_dict")


def variants_of(file: pathlib.Path) -> list[str]:
    """The names in a config file's table of variants."""
    spec = importlib.util.spec_from_file_location(f"configs_{file.stem}", file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.VARIANTS)


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    load, to_dict = package(*LOAD), package(*TO_DICT)
    settings = {}
    for file in sorted(pathlib.Path("configs").glob("*.py")):
        for variant in ["", *variants_of(file)]:
            name = f"{file}:{variant}" if variant else str(file)
            settings[name] = to_dict(load(name))
    arguments.output.write_text(json.dumps(settings, indent=1) + "\n")
    print(f"{len(settings)} configs")


if __name__ == "__main__":
    main()
