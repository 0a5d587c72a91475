"""A sandbox: a harness and the submission that it tests, shut in by bubblewrap.

A sandboxed program sees a machine of its own (see `bubblewrap`). The limits on time, memory,
threads, files and output hold for all that it does, as a program is one process (see `syscalls`).
When process 1 of the sandbox, the harness, ends, everything in the sandbox ends with it.

A sandbox serves one program and starts in about 30 ms.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import marshal
import math
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from bstar_jax.config import UserError
from bstar_jax.isolation import bubblewrap
from bstar_jax.isolation.inside.wire import decode, encode
from bstar_jax.isolation.packages import Packages
from bstar_jax.isolation.signals import ignoring_sigterm
from bstar_jax.isolation.syscalls import seccomp_filter

_START_SECONDS = 60.0
_END_SECONDS = 10.0

# Modules of `inside`, in the order in which they import each other.
_INSIDE = ("", ".wire", ".runner", ".submission", ".harness")
_FLAGS = ("-s", "-S", "-P", "-B", "-c")  # no site packages, no current folder, no bytecode files
_BOOT = """\
import marshal, os, sys
code = b""
while len(code) < {size}:
    code += os.read(0, {size} - len(code)) or sys.exit("no harness was sent")
for name, body in marshal.loads(code):
    module = sys.modules[name] = type(sys)(name)
    exec(body, module.__dict__)
module.main()
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on what a program may use.

    Time counts for each process. A program is one process from its loading to its last test; but a
    program that reads standard input is a new process for each test.

    Attributes:
      cpu_seconds: CPU time of a process, in whole seconds.
      wall_seconds: Wall time of a process, which also stops one that only waits.
      total_seconds: Wall time of a program with all its tests.
      memory_bytes: Address space of a process, including the interpreter's 30 MB.
      disk_bytes: Total size of its files in /tmp. Empty files do not count: it can make as many as
        its CPU time allows.
      output_bytes: Size of a file that it writes, of its standard output, of a value that it
        returns.
      threads: Number of threads at a time.
      files: Number of open files at a time, at least 8.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    total_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    disk_bytes: int = 32 << 20
    output_bytes: int = 4 << 20
    threads: int = 16
    files: int = 64

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            may_be_split = name in ("wall_seconds", "total_seconds")
            is_whole = may_be_split or value == int(value)
            if not (is_whole and value > 0 and (name != "files" or value >= 8)):
                raise UserError(
                    f"the limit {name} of a sandbox is {value!r}; it has to be above 0 "
                    "(files: at least 8), and whole but for wall_seconds and total_seconds"
                )

    def doubled(self) -> Limits:
        """Returns the same limits with twice the time."""
        names = ("cpu_seconds", "wall_seconds", "total_seconds")
        return dataclasses.replace(self, **{name: 2 * getattr(self, name) for name in names})


class TimedOut(Exception):
    """The sandbox did not answer in time."""


class Broken(Exception):
    """The sandbox ended without an answer; the message is the last line that it wrote."""


class Sandbox:
    """One running sandbox; a context manager that leaves nothing of it behind.

    It also ends with this process, however that ends, as a pipe to it closes: the lifeline.
    """

    def __init__(
        self, limits: Limits, *, unsafe: bool = False, packages: Packages | None = None
    ) -> None:
        """Starts a sandbox and waits until its harness is ready.

        Args:
          limits: What the program may use.
          unsafe: Whether to do without bubblewrap. A program can then read and write whatever you
            can; the limits hold, except those on threads and disk.
          packages: The installed packages that the program may import; by default none.

        Raises:
          UserError: If bubblewrap, or what it needs, is missing.
          Broken: If the sandbox does not start.
        """
        self._process: subprocess.Popen[bytes] | None = None
        packages = packages or Packages()
        folder = bubblewrap.PACKAGES
        with contextlib.ExitStack() as left:  # what to undo, the last first
            left.callback(self._reap)
            lifeline, _ = _pipe(left)
            if unsafe:
                place, folder = (
                    left.enter_context(tempfile.TemporaryDirectory(prefix=f"{name}-"))
                    for name in ("unsafe", "packages")
                )
                packages.link(folder)
                command = [bubblewrap.interpreter(), *_python_flags()]
                harness = self._spawn(command, left, (lifeline,), place)
            else:
                harness = self._spawn_in_bubblewrap(limits, left, lifeline, packages)
            self._harness_number = harness
            try:
                self._harness = os.pidfd_open(harness)
            except ProcessLookupError:
                raise Broken(self._last_words()) from None
            left.callback(os.close, self._harness)
            left.callback(self.kill)
            self._greet(limits, unsafe, lifeline, (folder, packages.names))
            self._left = left.pop_all()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it with all that runs inside, and waits until it is gone; safe to call twice."""
        self._left.close()

    def kill(self) -> None:
        """Ends the harness, and with it all that runs inside; any thread may call this."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._harness, signal.SIGKILL)

    def program_seconds(self) -> float:
        """Returns the CPU time that the program's process has used; infinity if that is unknown."""
        parent = f"/proc/{self._harness_number}/task/{self._harness_number}"
        try:
            children = pathlib.Path(parent, "children").read_text().split()
            stats = [pathlib.Path(f"/proc/{child}/stat").read_text() for child in children]
        except OSError:
            return math.inf
        fields = [stat.rpartition(")")[2].split() for stat in stats]  # from the third on
        ticks = sum(int(one[11]) + int(one[12]) for one in fields)
        return ticks / os.sysconf("SC_CLK_TCK")

    def ask(self, *command: object, deadline: float) -> tuple[str, str, bytes]:
        """Has the harness do something; returns its finding: (reason, message, output).

        Args:
          command: The name of a method of `inside.harness.Harness`, and its arguments.
          deadline: When to stop waiting, on the monotonic clock.

        Raises:
          TimedOut: If there is no finding in time.
          Broken: If the sandbox has ended.
        """
        data = encode(command)
        self._send(len(data).to_bytes(8, "big") + data, deadline)
        length = int.from_bytes(self._receive(8, deadline), "big")
        return decode(self._receive(length, deadline))

    def _greet(
        self, limits: Limits, unsafe: bool, lifeline: int, packages: tuple[str, tuple[str, ...]]
    ) -> None:
        changes_user = bubblewrap.changes_user() and not unsafe
        settings = dataclasses.asdict(limits) | {
            "filter": seccomp_filter(),
            "threads": 0 if unsafe else limits.threads,  # outside they count with all your others
            "user": bubblewrap.NOBODY if changes_user else 0,
            "lifeline": lifeline,
            "packages": packages,
        }
        deadline = time.monotonic() + _START_SECONDS
        try:
            self._send(_inside_code(), deadline)
            self.ask(settings, deadline=deadline)
        except TimedOut as error:
            raise Broken(f"it did not start within {_START_SECONDS:g} s") from error

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._commands, select.POLLOUT, deadline)
            try:
                left = left[os.write(self._commands.fileno(), left) :]
            except BrokenPipeError:
                self.kill()
                raise Broken(self._last_words()) from None

    def _receive(self, count: int, deadline: float) -> bytes:
        pieces = []
        while count:
            self._wait(self._findings, select.POLLIN, deadline)
            piece = os.read(self._findings.fileno(), min(count, 1 << 20))
            if not piece:
                self.kill()
                raise Broken(self._last_words())
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _wait(self, file: IO[bytes], event: int, deadline: float) -> None:
        if not _is_ready(file, event, deadline):
            raise TimedOut

    def _spawn(
        self,
        command: list[str],
        left: contextlib.ExitStack,
        files: Sequence[int],
        folder: str | None = None,
    ) -> int:
        """Starts a process with pipes to its standard files; `files` stay open in it.

        Returns:
          The number of the process.
        """
        self._process = process = subprocess.Popen(
            ignoring_sigterm(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=bubblewrap.ENVIRONMENT,
            cwd=folder,
            pass_fds=files,
        )
        assert process.stdin and process.stdout and process.stderr  # they are pipes
        self._commands, self._findings = process.stdin, process.stdout
        self._complaints = process.stderr
        for file in (self._commands, self._findings, self._complaints):
            left.callback(file.close)
            os.set_blocking(file.fileno(), False)
        return process.pid

    def _spawn_in_bubblewrap(
        self, limits: Limits, left: contextlib.ExitStack, lifeline: int, packages: Packages
    ) -> int:
        """Starts bubblewrap; returns the number of the sandbox's process 1."""
        awaited, release = _pipe(left)
        told, tell = os.pipe()
        left.callback(os.close, told)
        try:
            command = bubblewrap.command(limits.disk_bytes, tell, awaited, packages)
            # `told` too: without a reader bubblewrap would end and leave process 1 incomplete.
            self._spawn([*command, *_python_flags()], left, (told, tell, awaited, lifeline))
        finally:
            os.close(tell)
        said, deadline = b"", time.monotonic() + _START_SECONDS
        while not said.rstrip().endswith(b"}"):
            if not _is_ready(told, select.POLLIN, deadline):
                raise Broken(f"bubblewrap did not start within {_START_SECONDS:g} s")
            piece = os.read(told, 4096)
            if not piece:
                raise Broken(self._last_words())
            said += piece
        harness = json.loads(said)["child-pid"]
        if bubblewrap.changes_user():
            try:
                bubblewrap.map_users(harness)
            except OSError as error:
                raise Broken(f"no user {bubblewrap.NOBODY} can be made: {error}") from error
        os.write(release, b"1")
        return harness

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process:
                self._process.wait(_END_SECONDS)
        text = self._complaints.read() or b""
        lines = text.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"

    def _reap(self) -> None:
        """Waits for the process to end, once everything else is closed; kills it if it does not."""
        if self._process:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _is_ready(file: IO[bytes] | int, event: int, deadline: float) -> bool:
    """Waits until a file can be read or written, or until the deadline; returns whether it can."""
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))


def _pipe(left: contextlib.ExitStack) -> tuple[int, int]:
    """Makes a pipe; returns the ends to read and to write, which `left` closes later."""
    ends = os.pipe()
    for end in ends:
        left.callback(os.close, end)
    return ends


@functools.cache
def _inside_code() -> bytes:
    """Returns the files of `inside`, compiled, as `_BOOT` expects them."""
    package = f"{__package__}.inside"
    bodies = []
    for name in _INSIDE:
        path = pathlib.Path(__file__).with_name("inside") / f"{name[1:] or '__init__'}.py"
        code = compile(path.read_text(), path.name, "exec", dont_inherit=True, optimize=0)
        bodies.append((package + name, code))
    return marshal.dumps(bodies)


def _python_flags() -> list[str]:
    return [*_FLAGS, _BOOT.format(size=len(_inside_code()))]
