"""Programs compiled for devices that need not be there, and what the compiler reports of them."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from bstar_jax.config import UserError
from bstar_jax.hlo.cost import cost_of
from bstar_jax.planning.memory import Occupancy, joined, total
from bstar_jax.planning.reports import NO_CACHE, CompilerReport, ReportCache
from bstar_jax.planning.topologies import GIB, Accelerator
from bstar_jax.sharding import Cost, Program

_NEEDED = (
    re.compile(r"Used ([\d.]+)([MG]) of [\d.]+G hbm"),
    re.compile(r"total memory required for .*?\(([\d.]+)([MG])\)"),
)
_UNITS = {"M": 2**20, "G": GIB}


@dataclasses.dataclass(frozen=True)
class PlannedProgram:
    """One program of a run, as it was compiled or estimated.

    Attributes:
      name: A short name.
      phases: The phases that run it, as text.
      method: "compiled"; "refused", where the compiler says that it needs more memory than there
        is; "arithmetic".
      seconds: Seconds of compiling; 0 where nothing was compiled.
      memory: Bytes on a device, by part.
      peak: Bytes that the compiler says are needed at once, with what else lies there; 0 where
        nothing was compiled.
      limit: Bytes that a device has.
      cost: The work of a device in one run, or in one decode step; None where the compiler
        reported none.
      tokens: Tokens that one run, or one decode step, trains on or draws, over all devices.
    """

    name: str
    phases: str
    method: str
    seconds: float
    memory: dict[str, int]
    peak: int
    limit: float
    cost: Cost | None
    tokens: int

    @property
    def held(self) -> int:
        """Bytes that a device holds while it runs."""
        return total(self.memory)

    @property
    def fits(self) -> bool:
        """Whether a device has as much."""
        return self.held <= self.limit


def compiled(
    occupancy: Occupancy, accelerator: Accelerator, cache: ReportCache = NO_CACHE
) -> PlannedProgram:
    """Compiles a program, or reads from the cache what the compiler reported of it.

    Raises:
      UserError: If the compiler refuses it for a reason other than memory.
    """
    program, resident = occupancy.program, occupancy.resident
    if program.lower is None:
        return estimated(occupancy, accelerator)
    lowered = program.lower()
    key = cache.key(lowered.as_text(), program.mesh, program.turns)
    report = cache.read(key)
    if report is None:
        started = time.perf_counter()
        try:
            report = _report(lowered.compile(), program, started)
        except jax.errors.JaxRuntimeError as error:
            return _refused(occupancy, accelerator, time.perf_counter() - started, str(error))
        cache.write(key, report)
    own = {
        # Padding, and small arguments that no part counts.
        "inputs": max(report.arguments - total(program.arguments), 0),
        "temporaries": report.temporaries,
        "outputs": report.outputs,
        "code": report.code,
    }
    return _planned(
        program, accelerator, "compiled", joined(program.arguments, resident, own),
        report.seconds, report.peak + total(resident), report.cost,
    )  # fmt: skip


def estimated(occupancy: Occupancy, accelerator: Accelerator) -> PlannedProgram:
    """Returns a program by arithmetic alone."""
    return _planned(occupancy.program, accelerator, "arithmetic", occupancy.parts)


def _planned(
    program: Program,
    accelerator: Accelerator,
    method: str,
    parts: dict[str, int],
    seconds: float = 0.0,
    peak: int = 0,
    cost: Cost | None = None,
) -> PlannedProgram:
    return PlannedProgram(
        program.name, ", ".join(program.phases), method, seconds, parts, peak,
        accelerator.memory, cost, program.tokens,
    )  # fmt: skip


def _report(executable: Any, program: Program, started: float) -> CompilerReport:
    seconds = time.perf_counter() - started
    sizes = executable.memory_analysis()
    return CompilerReport(
        seconds=seconds,
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
        peak=sizes.peak_memory_in_bytes,
        cost=cost_of(executable.as_text(), dict(program.mesh.shape), turns=program.turns),
    )


def _refused(
    occupancy: Occupancy, accelerator: Accelerator, seconds: float, reason: str
) -> PlannedProgram:
    """Reads from a refusal how much memory a program needs."""
    program = occupancy.program
    found = next(filter(None, (pattern.search(reason) for pattern in _NEEDED)), None)
    if "RESOURCE_EXHAUSTED" not in reason or found is None:
        raise UserError(
            f"the compiler refuses {program.name} ({', '.join(program.phases)}): "
            f"{' '.join(reason.split())[:400]}; try another mesh"
        )
    needed = int(float(found.group(1)) * _UNITS[found.group(2)])
    given: Mapping[str, int] = joined(program.arguments, occupancy.resident)
    own = {"temporaries": max(needed - total(program.arguments), 0)}
    return _planned(program, accelerator, "refused", joined(given, own), seconds)
