"""Programs compiled, and what the compiler says of them."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Collection

import jax

from bstar_jax.config import UserError
from bstar_jax.planning import moments, work
from bstar_jax.planning.chips import GIB, Chip
from bstar_jax.planning.moments import Moment
from bstar_jax.planning.store import NOWHERE, Said, Store
from bstar_jax.planning.work import Work

_NEEDED = (
    re.compile(r"Used ([\d.]+)([MG]) of [\d.]+G hbm"),
    re.compile(r"total memory required for .*?\(([\d.]+)([MG])\)"),
)
_UNITS = {"M": 2**20, "G": GIB}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One program of a run, as it was compiled or reckoned.

    Attributes:
      name: Short.
      phases: Where in a run.
      method: "compiled"; "refused", where the compiler says that it needs more than there is;
        "arithmetic".
      seconds: That compiling took; 0 where nothing was compiled.
      memory: Bytes a device, by part.
      peak: Of these, what the compiler says is needed of arguments, results and temporaries at
        once; at most what the parts add up to; 0 where nothing was compiled.
      limit: Bytes that a device has.
      work: What a run of it does on a device, of decoding one step; None where it is not known.
      tokens: As in `Moment`.
    """

    name: str
    phases: str
    method: str
    seconds: float
    memory: dict[str, int]
    peak: int
    limit: float
    work: Work | None
    tokens: int

    @property
    def held(self) -> int:
        """Bytes a device holds while it runs."""
        return moments.total(self.memory)

    @property
    def fits(self) -> bool:
        """Whether a device has as much."""
        return self.held <= self.limit


def compiled(moment: Moment, chip: Chip, store: Store = NOWHERE) -> Measured:
    """Compiles the program of a moment, or finds in the store what the compiler said of it.

    Raises:
      UserError: If the compiler refuses it for another reason than memory.
    """
    if moment.lower is None:
        return reckoned(moment, chip)
    lowered = moment.lower()
    key = store.key(lowered.as_text(), moment.mesh, moment.turns)
    said = store.read(key)
    if said is None:
        started = time.perf_counter()
        try:
            said = _said(lowered.compile(), moment, started)
        except jax.errors.JaxRuntimeError as error:
            return _refused(moment, chip, time.perf_counter() - started, str(error))
        store.write(key, said)
    own = {
        # Padding, and small arguments that no part counts.
        "inputs": max(said.arguments - moments.total(moment.arguments), 0),
        "temporaries": said.temporaries,
        "outputs": said.outputs,
        "code": said.code,
    }
    return Measured(
        moment.name, moment.phases, "compiled", said.seconds,
        moments.joined(moment.arguments, moment.beside, own),
        said.peak + moments.total(moment.beside), chip.memory, said.work, moment.tokens,
    )  # fmt: skip


def _said(program, moment: Moment, started: float) -> Said:
    seconds = time.perf_counter() - started
    sizes = program.memory_analysis()
    return Said(
        seconds=seconds,
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
        peak=sizes.peak_memory_in_bytes,
        work=work.of(program.as_text(), dict(moment.mesh.shape), turns=moment.turns),
    )


def _refused(moment: Moment, chip: Chip, seconds: float, reason: str) -> Measured:
    """What is known of a program that needs more than a device has: how much."""
    found = next(filter(None, (pattern.search(reason) for pattern in _NEEDED)), None)
    if "RESOURCE_EXHAUSTED" not in reason or found is None:
        raise UserError(
            f"the compiler refuses {moment.name} ({moment.phases}): "
            f"{' '.join(reason.split())[:400]}; try another mesh"
        )
    needed = int(float(found.group(1)) * _UNITS[found.group(2)])
    given = moments.joined(moment.arguments, moment.beside)
    own = {"temporaries": max(needed - moments.total(moment.arguments), 0)}
    return Measured(
        moment.name, moment.phases, "refused", seconds, moments.joined(given, own), 0, chip.memory,
        None, moment.tokens,
    )  # fmt: skip


def reckoned(moment: Moment, chip: Chip) -> Measured:
    """A moment by arithmetic alone."""
    return Measured(
        moment.name, moment.phases, "arithmetic", 0.0, moments.estimated(moment), 0, chip.memory,
        None, moment.tokens,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Time:
    """The least time that a run of a program takes, of decoding a step, each part at its peak rate.

    Attributes:
      compute: Seconds of products.
      memory: Seconds of reading and writing.
      exchange: Seconds of receiving from other devices, one axis after another.
    """

    compute: float
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        """The longest: all three at once, which is the best that overlap can do."""
        return max(self.compute, self.memory, self.exchange)

    @property
    def bound(self) -> str:
        """What the time goes to."""
        parts = dataclasses.asdict(self)
        return max(parts, key=parts.get)


def time_of(done: Work, chip: Chip, across_hosts: Collection[str] = ()) -> Time:
    """The roofline of a program.

    Args:
      done: What it does.
      chip: On what.
      across_hosts: Mesh axes that reach over hosts, where that is slower.
    """
    exchange = sum(
        each.received / (chip.outside if set(across_hosts) & set(each.axes) else chip.link)
        for each in done.exchanges
    )
    return Time(done.flops / chip.flops, done.bytes / chip.hbm, exchange)
