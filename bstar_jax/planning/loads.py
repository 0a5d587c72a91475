"""What the programs of a run work on: rows of an optimizer step, units of every sampling phase.

All at their largest: rows full of text, prompts as long as allowed, responses at the limit.
"""

from __future__ import annotations

import dataclasses
import math

from bstar_jax.config import Config
from bstar_jax.sampling.engine import FIRST_COLUMNS, Layout, layout
from bstar_jax.sampling.prefill import TOKENS_A_TURN
from bstar_jax.training.batches import LENGTH_STEP
from bstar_jax.training.packing import row_count


@dataclasses.dataclass(frozen=True)
class Step:
    """The batch of an optimizer step.

    Attributes:
      rows: B.
      length: L, tokens of a row.
      micro_rows: Rows of one forward and backward pass.
      packed: Whether rows may hold several texts.
    """

    rows: int
    length: int
    micro_rows: int
    packed: bool

    @property
    def tokens(self) -> int:
        """Tokens of the batch, padding included."""
        return self.rows * self.length


def step(config: Config, phase: str, shards: int) -> Step:
    """The batch of phase "sft", "prm" or "improve" when every text is as long as allowed.

    Args:
      config: All settings.
      phase: The phase.
      shards: Row shards of the mesh.
    """
    batch, training = getattr(config, phase).batch, config.training
    longest = config.generate.max_prompt_tokens + config.generate.max_tokens
    if training.row_tokens:
        rows = row_count(batch, training.micro_rows or shards)
        return Step(rows, training.row_tokens, training.micro_rows or rows, True)
    columns = longest - (phase != "prm")
    length = min(-(-columns // LENGTH_STEP) * LENGTH_STEP, columns)
    return Step(batch, length, training.micro_rows or batch, False)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of a sampling phase, as one row shard has it.

    Attributes:
      phase: The phase.
      queries: Q, a shard.
      samples: N, responses a query.
      prompt: P, tokens that prompts have room for.
      columns: L, tokens of a response that are stored at the end.
      turn: Queries of a shard that one call of prefill takes.
      layout: Lanes, slots and prompts.
    """

    phase: str
    queries: int
    samples: int
    prompt: int
    columns: int
    turn: int
    layout: Layout

    @property
    def slots(self) -> int:
        """Responses that a shard decodes at once."""
        return self.layout.lanes * self.layout.slots

    @property
    def prompt_tokens(self) -> int:
        """Tokens whose keys and values are kept for prompts: of the unit, and again of lanes."""
        own = self.layout.lanes * self.layout.sides if self.layout.sides > 1 else 0
        return (self.queries + own) * self.prompt

    @property
    def response_tokens(self) -> int:
        """Tokens that the cache has room for at the end."""
        return self.slots * self.columns

    @property
    def tokens_before(self) -> int:
        """Tokens that it had room for before it grew for the last time; 0 where it never grows."""
        columns = min(FIRST_COLUMNS, self.columns)
        while 2 * columns < self.columns:
            columns *= 2
        return self.slots * columns if columns < self.columns else 0


def units(config: Config, shards: int) -> list[Unit]:
    """The units of every sampling phase that a run has, at their largest.

    Args:
      config: All settings.
      shards: Row shards of the mesh.
    """
    settings = config.generate
    grid, prm, monitor = config.calibrate, config.prm, config.monitor
    many = 10**9  # queries of which the config does not say how many there are
    phases = [("monitor", monitor.queries, monitor.responses + 1, 0)]
    if config.loop.iterations:
        queries = settings.queries or many
        phases.insert(0, ("generate", queries, settings.responses, 0))
        if not grid.is_single_cell:
            phases.append(("calibrate", grid.queries, grid.sampling_cells * grid.responses, 0))
    if prm.enabled:
        phases.append(("prm", prm.queries + prm.heldout, prm.responses, 0))
        phases.append(("prm-continued", many, prm.continuations, settings.max_tokens - 1))
    return [unit(config, shards, *phase) for phase in phases]


def unit(
    config: Config, shards: int, phase: str, queries: int, samples: int, begun: int = 0
) -> Unit:
    """The largest unit of a phase; `begun` are the tokens that responses may have to begin with."""
    settings = config.generate
    most = max(settings.batch // (samples * shards), 1) * shards
    count = max(math.ceil(queries / most), 1)
    size = math.ceil(queries / count / shards)
    prompt = settings.max_prompt_tokens + begun
    return Unit(
        phase,
        size,
        samples,
        prompt,
        max(settings.max_tokens - 1, 1),
        min(max(TOKENS_A_TURN // (prompt * shards), 1), size),
        layout(size, samples, max(settings.slots // shards, 1)),
    )
