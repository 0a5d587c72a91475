"""The host's part of sampling a unit: its layout, its arrays, and starting the device again.

While the device decodes, the host turns the unit before into text and prepares the one after.
A call of the decode program is queued before the status of the call before is read, so that the
device does not wait: where the status asks for a change of shape, the queued call does nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bstar_jax import sharding
from bstar_jax.config import ModelConfig
from bstar_jax.sampling import cache as caches
from bstar_jax.sampling import decode
from bstar_jax.sampling.decode import DecodeState, Responses, Status, Work
from bstar_jax.sampling.prefill import TOKENS_A_TURN, bucket, prefill

STEPS_A_CALL = 64
FIRST_COLUMNS = 256
MOST_SLOTS_A_LANE = 16
ROUNDS_A_LANE = 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rows of a unit share the device.

    Attributes:
      lanes: U, a shard.
      slots: R, a lane.
      sides: K, prompts a lane: 2 where lanes serve one query after another.
    """

    lanes: int
    slots: int
    sides: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(U, R, K)."""
        return self.lanes, self.slots, self.sides


def layout(queries: int, samples: int, slots: int) -> Layout:
    """The layout of Q queries a shard with N responses each on about `slots` slots.

    Where there is a slot for every row, every query has a lane. Else a lane's slots are few
    beside a query's responses: they go through ROUNDS_A_LANE of them, so that the lane, with a
    second prompt at hand, does not wait for the longest of a query.

    Example: 64 queries, 32 responses, 64 slots -> 16 lanes of 4 slots with 2 prompts; 20 queries
    of 32 responses on 512 slots -> 20 lanes of 25 slots, as there are no more queries.
    """
    if queries * samples <= slots:
        return Layout(queries, samples, 1)
    per_lane = 1
    while 2 * per_lane * ROUNDS_A_LANE <= samples and 2 * per_lane <= MOST_SLOTS_A_LANE:
        per_lane *= 2
    lanes = min(max(slots // per_lane, 1), queries)
    return Layout(lanes, max(min(slots // lanes, samples), 1), 2)


@dataclasses.dataclass(frozen=True)
class Order:
    """Where the queries of a unit stand: query `index_DQ[d, q]` of the list; -1 fills.

    Attributes:
      index_DQ: int, [D, Q].
    """

    index_DQ: np.ndarray

    def gather(self, table: np.ndarray) -> np.ndarray:
        """A list of the queries as [D, Q, ...]; fillers take the last."""
        return np.asarray(table)[self.index_DQ]

    def of(self, shards: Sequence[int]) -> Order:
        """The part of some shards."""
        return Order(self.index_DQ[list(shards)])

    @property
    def queries(self) -> np.ndarray:
        """The queries that stand here, in the order of the list."""
        return np.sort(self.index_DQ[self.index_DQ >= 0])

    def scatter(self, table_DQ: np.ndarray) -> np.ndarray:
        """The inverse of `gather`: [D, Q, ...] -> [len(queries), ...], a row a query."""
        real = self.index_DQ >= 0
        return table_DQ[real][np.argsort(self.index_DQ[real])]


def deal(lengths: list[int], size: int, shards: int) -> Order:
    """Deals queries to shards like cards, by the length of their prompts, fillers last."""
    by_length = np.argsort(lengths, kind="stable")
    cards = np.concatenate([by_length, np.full(size - len(lengths), -1)]).astype(np.int64)
    return Order(cards.reshape(-1, shards).T)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A unit, or a process's part of one, ready to go to the device.

    Attributes:
      order: Where its queries stand; of shards of other processes nothing.
      tokens_DQP: Prompt tokens, padded.
      longest_Q: Tokens of the longest prompt in each place, over all shards of the unit.
      shards: All shards of the unit; with `longest_Q` they make the programs of a part those of
        the whole.
      work: The rest; `prompts` is still to be computed.
    """

    order: Order
    tokens_DQP: np.ndarray
    longest_Q: np.ndarray
    shards: int
    work: Work


class Flight:
    """A unit on the device.

    Attributes:
      order: Where its queries stand.
      layout: Its lanes and slots.
      slot_steps: Once landed: decode steps times the slots that took part in each.
      idle_seconds: Once landed: time in which nothing was queued on the device.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: dict,
        prepared: Prepared,
        *,
        slots: int,
        max_tokens: int,
        end_id: int,
        num_tokens: int = 0,
        mesh: Mesh | None,
    ):
        """Queues prefill and the first steps; does not wait."""
        self.order = prepared.order
        self.slot_steps = 0
        self.idle_seconds = 0.0
        self._mesh = mesh
        self._counted = 0
        with self._on_mesh():
            work = _computed(config, params, prepared, mesh)
            queries, samples = work.keys_DQN2.shape[1:3]
            self.layout = layout(queries, samples, max(slots // prepared.shards, 1))
            self._state = decode.start(
                config,
                work,
                shape=self.layout.shape,
                columns=min(FIRST_COLUMNS, max(max_tokens - 1, 1)),
                max_tokens=max_tokens,
            )
            self._go = lambda state: decode.decode(
                config, params, work, state, np.int32(STEPS_A_CALL), end_id=end_id,
                num_tokens=num_tokens,
            )  # fmt: skip
            self._state, self._status = self._go(self._state)

    def land(self) -> Responses:
        """Waits for the unit, changing the shape of the state as its slots ask for."""
        with self._on_mesh():
            while True:
                status, (self._state, self._status) = self._status, self._go(self._state)
                status = np.asarray(status)
                now = time.perf_counter()
                if not status[Status.ALIVE]:
                    self._count(status)
                    return self._state.responses
                if status[Status.MUST_GROW] or status[Status.CAN_SHRINK]:
                    self._count(status)
                    self._state = self._reshaped(self._state, status)
                    self._state, self._status = self._go(self._state)
                    self.idle_seconds += time.perf_counter() - now

    def _count(self, status: np.ndarray) -> None:
        steps = int(status[Status.STEPS])
        self.slot_steps += (steps - self._counted) * self._state.slots.row_UR.size
        self._counted = steps

    def _reshaped(self, state: DecodeState, status: np.ndarray) -> DecodeState:
        if status[Status.MUST_GROW]:
            columns, most = state.cache.key.shape[-2], state.responses.tokens_DWL.shape[-1]
            state = decode.grow(state, min(2 * columns, most - 1))
        if status[Status.CAN_SHRINK]:
            state = decode.shrink(state)
        return state

    def _on_mesh(self):
        return jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext()


def _computed(config, params, prepared: Prepared, mesh: Mesh | None) -> Work:
    """The work with its prompts computed, bucket by bucket."""
    tokens_DQP, work, longest_Q = prepared.tokens_DQP, prepared.work, prepared.longest_Q
    shards, queries, length = tokens_DQP.shape
    rows = min(max(TOKENS_A_TURN // (length * prepared.shards), 1), queries)
    prompts = caches.empty_prompts(config, shards, queries, length)
    for first in range(0, queries, rows):
        first = min(first, queries - rows)
        place = slice(first, first + rows)
        width = bucket(int(longest_Q[place].max()), length)
        prompts = prefill(
            config,
            params,
            prompts,
            _rows_on(mesh, tokens_DQP[:, place, :width]),
            _rows_on(mesh, work.lengths_DQ[:, place]),
            np.int32(first),
        )
    by_shard = ["real_D", "lengths_DQ", "last_DQ", "keys_DQN2", "limit_DQN"]
    by_shard += ["stop_DQ"] if work.stop_DQ is not None else []
    alike = ("temperature_N", "top_k_N", "top_p", "min_p", "stop_AV")
    alike = [name for name in alike if getattr(work, name) is not None]
    return dataclasses.replace(
        work,
        prompts=prompts,
        **{name: _rows_on(mesh, getattr(work, name)) for name in by_shard},
        **{name: _copies_on(mesh, getattr(work, name)) for name in alike},
    )


def _rows_on(mesh: Mesh | None, array):
    return sharding.put_rows(mesh, array) if mesh else jnp.asarray(array)


def _copies_on(mesh: Mesh | None, array):
    return sharding.put_copies(mesh, array) if mesh else jnp.asarray(array)
