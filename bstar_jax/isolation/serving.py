"""The worker's side of `workers`: a process that applies a function to what a pipe brings.

A message is a frame: eight bytes of length and a pickle. The parent sends the function's name and
then items. The worker answers "ready", or "failed" and why, and then each item's outcome, in order.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pickle
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

HEADER = struct.Struct(">Q")
_LONGEST_RESULT = 1 << 28  # bytes, pickled
_END = object()  # the parent's pipe has ended


def frame(message: object) -> bytes:
    """Returns a message as it goes through a pipe."""
    payload = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(payload)) + payload


def serve() -> None:
    """Runs a worker: starts it, then works item by item until the parent's pipe ends."""
    commands, results, lifeline = map(int, sys.argv[2:5])
    for descriptor in (commands, results, lifeline):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(commands, "rb") as source, os.fdopen(results, "wb") as sink:
        name, memory_bytes, warm_up = _receive(source)
        try:
            module, _, attribute = name.partition(":")
            function = getattr(importlib.import_module(module), attribute)
            for item in warm_up:
                function(item)
        except Exception as error:
            _send(sink, ("failed", _describe(error)))
            return
        _limit_memory(memory_bytes)
        _send(sink, ("ready",))
        while (item := _receive(source)) is not _END:
            message = _apply(function, item)
            _send(sink, message)
            if message[0] == "died":
                return


def _receive(source: BinaryIO) -> Any:
    header = source.read(HEADER.size)
    return pickle.loads(source.read(*HEADER.unpack(header))) if header else _END


def _send(sink: BinaryIO, message: tuple) -> None:
    try:
        framed = frame(message)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        framed = frame(("raised", None, f"no pickle of the result: {_describe(error)}", 0.0))
    if len(framed) > _LONGEST_RESULT:
        framed = frame(("raised", None, f"a result of {len(framed)} bytes is too long", 0.0))
    sink.write(framed)
    sink.flush()


def _apply(function: Callable, item: object) -> tuple:
    """Works on one item; returns (kind, value, error, seconds)."""
    start, process = time.perf_counter(), os.getpid()
    try:
        kind, value, error = "done", function(item), ""
    except MemoryError as raised:
        # The state of the process is unknown: it ends, and this item is reported.
        kind, value, error = "died", None, _describe(raised)
    except (Exception, SystemExit) as raised:
        kind, value, error = "raised", None, _describe(raised)
    if os.getpid() != process:
        os._exit(0)  # the function forked, and this copy has nothing to say
    return kind, value, error, time.perf_counter() - start


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"


def _limit_memory(memory_bytes: int) -> None:
    if not memory_bytes:
        return
    with open("/proc/self/statm") as sizes:
        used = int(sizes.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = used + memory_bytes if hard == resource.RLIM_INFINITY else min(used + memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _end_with_parent(lifeline: int) -> None:
    """Has the kernel end this process when the parent's end of the pipe closes.

    The pipe carries no data. Its closing raises SIGIO, which nothing here handles, so it ends the
    process even while C code holds the interpreter. (Linux also has a death signal, but that
    follows the thread that started the worker, not the process.)
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # what the parent does with it is inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):  # it was closed before
        os._exit(1)
