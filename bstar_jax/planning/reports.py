"""What the compiler reported of programs, kept on disk: the same program is not compiled twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

from jax.sharding import Mesh

from bstar_jax.sharding import Collective, Cost


@dataclasses.dataclass(frozen=True)
class CompilerReport:
    """What the compiler reported of a program. Bytes are those of one device.

    Attributes:
      seconds: Seconds of compiling.
      arguments: Bytes of arguments.
      temporaries: Bytes of temporaries.
      outputs: Bytes of results that do not reuse the memory of an argument.
      code: Bytes of the program itself.
      peak: Bytes needed at once.
      cost: The work of the program.
    """

    seconds: float
    arguments: int
    temporaries: int
    outputs: int
    code: int
    peak: int
    cost: Cost


def cost_to_json(cost: Cost) -> dict:
    """Returns a cost as JSON values."""
    exchanges = [dataclasses.asdict(each) for each in cost.collectives]
    return {"flops": cost.flops, "bytes": cost.bytes, "exchanges": exchanges}


def _cost_from_json(stored: dict) -> Cost:
    collectives = tuple(
        Collective(**{**each, "axes": tuple(each["axes"])}) for each in stored["exchanges"]
    )
    return Cost(stored["flops"], stored["bytes"], collectives)


@dataclasses.dataclass(frozen=True)
class ReportCache:
    """A directory with one file for each program.

    Attributes:
      directory: The directory; None keeps nothing.
    """

    directory: pathlib.Path | None = None

    def key(self, text: str, mesh: Mesh, turns: int) -> str:
        """Returns the name of a program: a hash of its text, its devices and the compiler."""
        if self.directory is None:
            return ""
        first = mesh.devices.flat[0]
        coordinates = [(device.id, tuple(device.coords)) for device in mesh.devices.flat]
        parts = text, turns, first.device_kind, first.client.platform_version, coordinates
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def read(self, key: str) -> CompilerReport | None:
        """Returns the report of a program; None if there is none."""
        file = self.directory / f"{key}.json" if self.directory else None
        if file is None or not file.exists():
            return None
        stored = json.loads(file.read_text())
        return CompilerReport(cost=_cost_from_json(stored.pop("work")), **stored)

    def write(self, key: str, report: CompilerReport) -> None:
        """Stores the report of a program."""
        if self.directory is None:
            return
        stored = dataclasses.asdict(report)
        del stored["cost"]
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / f"{key}.tmp"
        temporary.write_text(json.dumps(stored | {"work": cost_to_json(report.cost)}))
        temporary.replace(self.directory / f"{key}.json")


NO_CACHE = ReportCache()
"""Keeps nothing."""
