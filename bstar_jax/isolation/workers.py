"""Worker processes that can be killed: they apply a function to items within a time limit.

A function that hangs inside C, or takes too much memory, cannot be stopped from inside its process.
So each item is worked on in another process, which is killed and replaced at the limit. Workers are
fresh interpreters that import the function by name: they hold nothing of the parent's memory, and
no JAX. Parent and worker (`serving`) talk through pipes; the parent never blocks on one, so no
worker can make it hang. Needs Linux.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bstar_jax.isolation.serving import HEADER, frame
from bstar_jax.isolation.signals import ignoring_sigterm

_WINDOW = 8  # items sent ahead to a worker, so that it does not wait for the parent
_START_SECONDS = 120.0  # for a worker to import its function
_START_TRIES = 3
_CHUNK = 1 << 16  # bytes read or written at once: what a pipe holds
_CHUNKS_A_TURN = 256  # chunks of one worker before the next has its turn
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {frame.__module__} import serve; serve()"
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one item.

    Attributes:
      kind: "done"; "raised" if the function raised; "timeout" if it took longer than the limit;
        "died" if the worker's process ended, for example out of memory.
      value: What the function returned; None unless done.
      error: What was raised, "ValueError: ...", or how the process died, "SIGSEGV"; "" otherwise.
      seconds: Time that the function took until its end, or until it was stopped.
    """

    kind: str
    value: Any
    error: str
    seconds: float


class WorkersError(RuntimeError):
    """Workers do not start, so that nothing can be worked on."""


class WorkerPool:
    """Worker processes that apply one function to items.

    A context manager: workers start on entering, while the parent continues, and are gone on
    leaving. They also end with the parent, even if it is killed. What the function prints is
    dropped. Only one run at a time.

    Example:
        with WorkerPool("math:factorial", workers=2, limit_seconds=1.0) as pool:
            outcomes = list(pool.run([3, -1, 10**9]))
        # done 6, raised "ValueError: ...", timeout

    Args:
      function: A function of one argument that a worker can import, or its "module:name", so that
        the parent need not import it.
      workers: Number of processes.
      limit_seconds: Longest time for one item. Starting a worker does not count.
      memory_bytes: Address space that a worker may use beyond what starting took; 0 is no limit.
      warm_up: Items that every worker works on before it counts as started.
      environment: Environment variables of the workers, besides those of this process.

    Raises:
      ValueError: If a number is out of range, or workers cannot import the function.
    """

    def __init__(
        self,
        function: Callable[[object], object] | str,
        workers: int,
        limit_seconds: float,
        *,
        memory_bytes: int = 2 << 30,
        warm_up: Sequence[object] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        for name, value in {"workers": workers, "limit_seconds": limit_seconds}.items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        if memory_bytes < 0:
            raise ValueError(f"memory_bytes is {memory_bytes}; it must be 0 or more")
        self.limit_seconds = limit_seconds
        self._name = _name(function)
        self._hello = frame((self._name, memory_bytes, tuple(warm_up)))
        self._environment = dict(environment or {})
        self._size = workers
        self._crew: list[_Worker] = []
        self._killed: list[_Worker] = []  # until the kernel is done with them
        self._failed_starts = 0
        self._running = False

    def __enter__(self) -> WorkerPool:
        self._crew = [_Worker(self._hello, self._environment) for _ in range(self._size)]
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._crew:
            worker.kill()
        for worker in self._crew + self._killed:
            worker.process.wait()
        self._crew, self._killed = [], []

    @property
    def alive(self) -> int:
        """Number of workers whose process is running."""
        return sum(worker.process.poll() is None for worker in self._crew)

    def run(
        self,
        items: Iterable[object],
        *,
        limit_seconds: float | None = None,
        at_once: int | None = None,
    ) -> Iterator[Outcome]:
        """Applies the function to every item.

        A worker that is stopped or dies loses only the item that it was working on: the items sent
        ahead to it go to the next worker.

        Args:
          items: Anything that can be pickled; taken as workers become free.
          limit_seconds: Longest time for one item; None takes the pool's.
          at_once: Largest number of busy workers at a time; None takes all.

        Yields:
          The outcomes, in the order of the items.

        Raises:
          WorkersError: If workers do not start.
          RuntimeError: If another run is under way, or the pool is not entered.
        """
        if self._running or not self._crew:
            state = "has a run under way" if self._running else "is not entered"
            raise RuntimeError(
                f"the pool of {self._name} {state}; `with WorkerPool(...)`, run by run"
            )
        self._running = True
        for worker in [worker for worker in self._crew if worker.process.poll() is not None]:
            self._replace(worker)  # it ended between runs, so no item is to blame
        try:
            limit = self.limit_seconds if limit_seconds is None else limit_seconds
            yield from self._run(enumerate(items), limit, at_once or self._size)
        finally:
            self._running = False
            for worker in [worker for worker in self._crew if worker.waiting]:
                self._replace(worker)  # the run was abandoned: nobody awaits its results

    def _run(self, source: Iterator, limit: float, at_once: int) -> Iterator[Outcome]:
        returned: deque[tuple[int, object]] = deque()
        finished: dict[int, Outcome] = {}
        wanted = 0
        while True:
            self._feed(source, returned, at_once)
            if not any(worker.waiting for worker in self._crew):
                break
            self._wait(limit)
            for worker in list(self._crew):
                finished.update(worker.collect(limit))
                if worker.is_over:
                    returned.extend(worker.waiting)
                    self._check_start(worker)
                    self._replace(worker)
                elif worker.is_ready:
                    self._failed_starts = 0
            while wanted in finished:
                yield finished.pop(wanted)
                wanted += 1

    def _feed(self, source: Iterator, returned: deque, at_once: int) -> None:
        """Sends items ahead, one to each in turn: to busy workers first, then to ready ones."""
        self._crew.sort(key=lambda worker: (not worker.waiting, not worker.is_ready))
        busy = self._crew[:at_once]
        for _, worker in itertools.product(range(_WINDOW), busy):
            if len(worker.waiting) < _WINDOW:
                entry = returned.popleft() if returned else next(source, None)
                if entry is None:
                    break
                worker.send(*entry)

    def _wait(self, limit: float) -> None:
        """Waits until a worker can be read or written, or until the next deadline."""
        with selectors.DefaultSelector() as selector:
            for worker in self._crew:
                selector.register(worker.results, selectors.EVENT_READ)
                if worker.outgoing:
                    selector.register(worker.commands, selectors.EVENT_WRITE)
            deadline = min(worker.deadline(limit) for worker in self._crew)
            selector.select(max(deadline - time.monotonic(), 0.0) + 0.001)

    def _check_start(self, worker: _Worker) -> None:
        if worker.is_ready:
            return
        self._failed_starts += 1
        if worker.failure or self._failed_starts >= _START_TRIES:
            reason = worker.failure or f"{self._failed_starts} ended or hung before they began"
            raise WorkersError(f"workers of {self._name} do not start: {reason}")

    def _replace(self, worker: _Worker) -> None:
        worker.kill()
        self._killed = [other for other in self._killed if other.process.poll() is None]
        self._killed.append(worker)
        self._crew[self._crew.index(worker)] = _Worker(self._hello, self._environment)


class _Worker:
    """The parent's end of one worker process.

    Attributes:
      waiting: (index, item) of what was sent and has no outcome; the first is being worked on.
      outgoing: Bytes to send.
      is_ready: Whether it has started.
      is_over: Whether nothing more comes from it, so that another must take its place.
      failure: Why it could not start; "" otherwise.
    """

    def __init__(self, hello: bytes, environment: Mapping[str, str]) -> None:
        reading, self.commands = os.pipe()
        self.results, writing = os.pipe()
        living, self.lifeline = os.pipe()
        theirs = (reading, writing, living)
        self.process = subprocess.Popen(
            ignoring_sigterm(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), *map(str, theirs)]
            ),
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                **environment,
            },
            start_new_session=True,  # an interrupt from the keyboard is the parent's to handle
        )
        for descriptor in theirs:
            os.close(descriptor)
        os.set_blocking(self.commands, False)
        os.set_blocking(self.results, False)
        self.waiting: deque[tuple[int, object]] = deque()
        self.outgoing = bytearray(hello)
        self.is_ready, self.is_over, self.failure = False, False, ""
        self._incoming = bytearray()
        self._since = time.monotonic()  # when it began to start, or when its first waiting item did

    def send(self, index: int, item: object) -> None:
        if self.is_ready and not self.waiting:
            self._since = time.monotonic()
        self.outgoing += frame(item)
        self.waiting.append((index, item))

    def deadline(self, limit: float) -> float:
        """Returns when to stop it, on the monotonic clock."""
        if not self.is_ready:
            return self._since + _START_SECONDS
        return self._since + limit if self.waiting else float("inf")

    def collect(self, limit: float) -> dict[int, Outcome]:
        """Moves bytes both ways; returns outcomes by index, also that of an item just stopped."""
        self._write()
        ended = self._read()
        found = dict(self._outcomes())
        elapsed = time.monotonic() - self._since
        if self.is_over or self.failure:
            self.is_over = True
        elif ended:
            self.is_over = True
            if self.is_ready and self.waiting:
                found[self.waiting.popleft()[0]] = Outcome("died", None, self._end(), elapsed)
        elif time.monotonic() >= self.deadline(limit):
            self.is_over = True
            if self.is_ready:
                found[self.waiting.popleft()[0]] = Outcome("timeout", None, "", elapsed)
        return found

    def kill(self) -> None:
        """Kills it and what it started, without waiting for their end."""
        self._kill_group()
        for descriptor in (self.commands, self.results, self.lifeline):
            os.close(descriptor)

    def _kill_group(self) -> None:
        if self.process.returncode is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _write(self) -> None:
        # A worker that is gone is noticed when it is read from.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self.outgoing:
                written = os.write(self.commands, self.outgoing[:_CHUNK])
                del self.outgoing[:written]

    def _read(self) -> bool:
        """Reads what has come; returns whether the pipe has ended."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_CHUNKS_A_TURN):
                chunk = os.read(self.results, _CHUNK)
                if not chunk:
                    return True
                self._incoming += chunk
        return False

    def _outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Yields what the complete frames say that have come in."""
        while len(self._incoming) >= HEADER.size and not self.is_over:
            (length,) = HEADER.unpack_from(self._incoming)
            if len(self._incoming) < HEADER.size + length:
                return
            kind, *rest = pickle.loads(self._incoming[HEADER.size : HEADER.size + length])
            del self._incoming[: HEADER.size + length]
            self._since = time.monotonic()
            if kind == "ready":
                self.is_ready = True
            elif kind == "failed":
                (self.failure,) = rest
            else:
                self.is_over = kind == "died"  # it says so itself where memory runs out
                yield self.waiting.popleft()[0], Outcome(kind, *rest)

    def _end(self) -> str:
        """Returns how its process ended: the signal, or the exit status."""
        self._kill_group()  # what it started may live on; its own status stands by now
        status = self.process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _name(function: Callable | str) -> str:
    if isinstance(function, str):
        return function
    module, name = function.__module__, function.__qualname__
    if module == "__main__" or not name.isidentifier():
        raise ValueError(
            f"workers cannot import {module}.{name}: define it in a module, at its top"
        )
    return f"{module}:{name}"
