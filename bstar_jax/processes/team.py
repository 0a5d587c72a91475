"""What processes tell each other besides what devices exchange: small values, and signs of life.

Process 0 is the hub, to which every other process keeps a connection. The connection of a process
that dies breaks at once, as its system closes it. A process that falls silent, because its host
loses power, say, is noticed after SILENCE seconds. Either way all others end with one line that
names it.

    gather      every process gives some bytes and gets those of all
    agree       process 0 decides for all
    barrier     no process continues before all have arrived
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from bstar_jax.config.errors import OK, PREEMPTED
from bstar_jax.processes.messages import Closed, Connection

SILENCE = 45.0
"""Seconds without a message after which a process counts as lost."""

BEAT = 5.0
"""Seconds between two signs of life."""

_LAST_WORDS = 1.0  # seconds for messages that are on their way when a process ends

EXPECTED = (OK, PREEMPTED)
"""Exit codes with which all processes end together."""


class Team:
    """The processes of a run, seen from one of them. This class is a team of one."""

    def __init__(self, index: int = 0, count: int = 1):
        """Makes a team of one; `Member` is one of several.

        Args:
          index: Number of this process, from 0.
          count: Number of processes.
        """
        self.index, self.count = index, count

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files that exist only once."""
        return self.index == 0

    def gather(self, value: bytes) -> list[bytes]:
        """The values of all processes, by their index. All must call it, in the same order."""
        return [value]

    def agree(self, value: Any) -> Any:
        """The JSON value that process 0 gives; the others' values are ignored."""
        first = self.gather(json.dumps(value).encode() if self.is_first else b"")[0]
        return json.loads(first)

    def gather_json(self, value: Any) -> list:
        """The JSON values of all processes, by their index."""
        return [json.loads(part) for part in self.gather(json.dumps(value).encode())]

    def barrier(self) -> None:
        """Returns once all processes have called it."""
        self.gather(b"")

    def leave(self, code: int, reason: str) -> None:
        """Tells the others that this process ends, with which exit code and why."""


ALONE = Team()


def end_process(line: str, code: int) -> NoReturn:
    """Ends this process at once, without waiting for others."""
    sys.stderr.write(f"error: {line}\n")
    sys.stderr.flush()
    os._exit(code)


def _lost(error: Closed) -> str:
    remedy = "start all again with the same command, and the run goes on from what is stored"
    return f"is lost: {error} ({remedy})"


class Member(Team):
    """A process of a team of several; process 0 serves the others."""

    def __init__(
        self,
        index: int,
        count: int,
        connections: dict[int, Connection],
        names: dict[int, str],
        *,
        end: Callable[[str, int], None] = end_process,
        silence: float = SILENCE,
        beat: float = BEAT,
    ):
        """Starts to listen.

        Args:
          index: Number of this process, from 0.
          count: Number of processes.
          connections: Connections by index: at process 0 to every other process, elsewhere to
            process 0.
          names: By index, a name by which a person can find each process.
          end: Ends this process; takes the reason, in one line, and the exit code.
          silence: Seconds without a message after which a process counts as lost.
          beat: Seconds between two signs of life.
        """
        super().__init__(index, count)
        self._connections, self._names, self._end = connections, names, end
        self._silence, self._beat = silence, beat
        self._round = 0
        self._given: dict[int, dict[int, bytes]] = {}
        self._complete: queue.Queue[list[bytes]] = queue.Queue()
        self._lock, self._over = threading.Lock(), threading.Event()
        for other in connections:
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()

    def gather(self, value: bytes) -> list[bytes]:
        """As `Team.gather`; process 0 collects the values and sends them to all."""
        number, self._round = self._round, self._round + 1
        if self.is_first:
            self._take(0, number, value)
        else:
            self._send(0, {"kind": "value", "round": number}, value)
        return self._complete.get(timeout=None if not self._over.is_set() else self._silence)

    def leave(self, code: int, reason: str) -> None:
        """As `Team.leave`; closes the connections."""
        self._over.set()
        if code in EXPECTED:
            # Nobody hangs up before all have arrived: the others would take it for a loss.
            with contextlib.suppress(queue.Empty):
                self.barrier()
        else:
            for other in self._connections:
                self._send(other, {"kind": "leave", "code": code, "reason": reason})
            time.sleep(_LAST_WORDS)  # what is still on its way when this process ends is lost
        for connection in self._connections.values():
            connection.close()

    def _take(self, other: int, number: int, value: bytes) -> None:
        """At the hub: stores a value; the last one of a round completes it."""
        with self._lock:
            given = self._given.setdefault(number, {})
            given[other] = value
            if len(given) < self.count:
                return
            del self._given[number]
        values = [given[index] for index in range(self.count)]
        header = {"kind": "values", "sizes": [len(part) for part in values]}
        for index in self._connections:
            self._send(index, header, b"".join(values))
        self._complete.put(values)

    def _listen(self, other: int) -> None:
        connection = self._connections[other]
        while True:
            try:
                header, body = connection.receive(self._silence)
            except Closed as error:
                self._stop(other, _lost(error))
                return
            if header["kind"] == "value":
                self._take(other, header["round"], body)
            elif header["kind"] == "values":
                ends = [sum(header["sizes"][:index]) for index in range(self.count + 1)]
                pairs = itertools.pairwise(ends)
                self._complete.put([body[start:end] for start, end in pairs])
            elif header["kind"] == "leave":
                self._stop(other, header["reason"], header["code"])
            elif header["kind"] == "stop":
                self._end(header["line"], header["code"])

    def _stop(self, other: int, what: str, code: int = 1) -> None:
        """Ends this process because another is gone, and tells those that only this one knows."""
        if self._over.is_set():
            return
        line = (
            f"process {other} of {self.count} ({self._names[other]}) {what}; process {self.index} "
            "stops too"
        )
        for index in self._connections:
            if index != other:
                told = line.replace(f"process {self.index} stops", f"process {index} stops")
                self._send(index, {"kind": "stop", "line": told, "code": code})
        if self.is_first:
            time.sleep(_LAST_WORDS)  # without it JAX ends the others before they can say why
        self._end(line, code)

    def _send(self, other: int, header: dict, body: bytes = b"") -> None:
        try:
            self._connections[other].send(header, body)
        except Closed as error:
            # The thread that listens to that process notices too, and knows if it left on purpose.
            if header["kind"] == "value":
                self._stop(other, _lost(error))

    def _live(self) -> None:
        while not self._over.wait(self._beat):
            for other in self._connections:
                self._send(other, {"kind": "alive"})
