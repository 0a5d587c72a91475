"""What the compiler said of programs, kept on disk: the same program is not compiled twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

from jax.sharding import Mesh

from bstar_jax.planning.exchanges import Exchange
from bstar_jax.planning.work import Work
from bstar_jax.records.files import atomic_file


@dataclasses.dataclass(frozen=True)
class Said:
    """What the compiler said of a program; bytes a device.

    Attributes:
      seconds: That it took.
      arguments: Bytes.
      temporaries: Bytes.
      outputs: Bytes of results that no argument makes room for.
      code: Bytes of the program itself.
      peak: Bytes needed at once.
      work: What it does.
    """

    seconds: float
    arguments: int
    temporaries: int
    outputs: int
    code: int
    peak: int
    work: Work


@dataclasses.dataclass(frozen=True)
class Store:
    """A directory with a file for each program.

    Attributes:
      directory: Where; None keeps nothing.
    """

    directory: pathlib.Path | None = None

    def key(self, text: str, mesh: Mesh, turns: int) -> str:
        """The name of a program: of its text, its devices, and the compiler."""
        if self.directory is None:
            return ""
        first = mesh.devices.flat[0]
        places = [(device.id, tuple(device.coords)) for device in mesh.devices.flat]
        parts = text, turns, first.device_kind, first.client.platform_version, places
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def read(self, key: str) -> Said | None:
        """What was said of a program, None where nothing is known."""
        file = self.directory / f"{key}.json" if self.directory else None
        if file is None or not file.exists():
            return None
        stored = json.loads(file.read_text())
        done = stored.pop("work")
        exchanges = tuple(
            Exchange(**{**each, "axes": tuple(each["axes"])}) for each in done["exchanges"]
        )
        return Said(**stored, work=Work(done["flops"], done["bytes"], exchanges))

    def write(self, key: str, said: Said) -> None:
        """Keeps what was said of a program."""
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.directory / f"{key}.json") as file:
            file.write(json.dumps(dataclasses.asdict(said)))


NOWHERE = Store()
