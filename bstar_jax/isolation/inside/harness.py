"""The harness: process 1 of the sandbox, which starts submissions, asks them, and compares.

It reads commands from standard input and answers each on standard output with a finding
(reason, message, output). A command is answered before the next is read, so no process
that an earlier command started knows what a later one brings.
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import resource
import sys

from bstar_jax.isolation.inside import runner
from bstar_jax.isolation.inside.submission import Ended, Failed, Submission, ending, said_why
from bstar_jax.isolation.inside.wire import decode, encode, read_frame, write_all, write_frame

TYPE_CHECKING = False  # `typing` itself takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_HELPERS, _SETUP, _TEST = "<helpers>", "<setup>", "<test>"
_LONGEST_SHOWN, _MOST_DIGITS = 80, 640
_ANY_SIZE = 2**62
_MARGIN_BYTES = 256 << 20  # the harness also holds what the submission sends
_SIGINT, _SIGIO, _SIG_IGN = 2, 29, 1
_PR_SET_DUMPABLE = 4


def same_result(value: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Tells whether a call's result is the expected one, which was read from JSON.

    JSON has no tuples and only texts as keys, and some expected results are wrapped in a list.
    Tuples are therefore compared as lists and keys as texts, and an expected [x] also accepts x.
    Where a float is expected, alone or inside, a number is right that `is_close`. Where a whole
    number is expected, only its value is right. True is 1, but it is not 1.0. NaN equals nothing.

    Examples: (1, 2) and [1, 2]; {1: "a"} and {"1": "a"}; 5 and [5] are the same; so are
      [0.1 + 0.2] and [0.3] with a tolerance of 1e-9.
    """
    result, wanted = _as_json(value), _as_json(expected)
    is_wrapped = isinstance(wanted, list) and len(wanted) == 1
    return _same(result, wanted, tolerance) or (is_wrapped and _same(result, wanted[0], tolerance))


def is_close(value: float, wanted: float, tolerance: float) -> bool:
    """Tells whether |value - wanted| <= tolerance * (|wanted| + 1/1000).

    With a tolerance of 1e-5 it is the rule of NumPy's `allclose`; with 0 both have to be equal.
    NaN is close to nothing, and infinity only to itself.
    """
    if value == wanted:
        return True
    try:
        error = abs(float(value) - wanted)
    except OverflowError:  # a whole number that no float can hold
        return False
    return math.isfinite(error) and error <= tolerance * (abs(wanted) + 1e-3)


def _same(value: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, list) and isinstance(value, list):
        return len(value) == len(wanted) and all(
            _same(one, other, tolerance) for one, other in zip(value, wanted, strict=True)
        )
    if isinstance(wanted, dict) and isinstance(value, dict):
        return value.keys() == wanted.keys() and all(
            _same(value[key], wanted[key], tolerance) for key in wanted
        )
    if isinstance(wanted, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and is_close(value, wanted, tolerance)
    return value == wanted


def _as_json(value: object) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {_json_key(key): _as_json(item) for key, item in value.items()}
    return value


def _json_key(key: Any) -> object:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return repr(key) if isinstance(key, (int, float)) else key


class Harness:
    """The commands: each method takes what its command brings and returns a finding."""

    def __init__(self, limits: dict) -> None:
        self._limits = limits
        self._submission: Submission  # set by `load`, which comes first
        self._names: dict = {}
        self._texts: dict[str, str] = {}

    def load(self, sources: tuple[str, ...], prelude: str) -> tuple:
        """Starts the submission, which later commands ask."""
        self._import(sources)
        self._submission = Submission(sources, prelude, self._limits)
        try:
            kind, message = self._submission.answer()
        except Ended as ended:
            return (*ended.args, b"")
        return ("correct", "", b"") if kind == "value" else (kind, message, b"")

    def prepare(self, helpers: str, names: tuple[str, ...], setup: str) -> tuple:
        """Makes the namespace of the tests: helpers, names taken from the program, setup."""
        self._names = {"__name__": "tests"}
        return self._finding(self._prepare, helpers, names, setup)

    def _prepare(self, helpers: str, names: tuple[str, ...], setup: str) -> None:
        self._run(_HELPERS, helpers)
        for name in names:
            is_there, value = self._submission.ask("look up", name)
            if is_there:
                self._names[name] = value
        self._run(_SETUP, setup)

    def test(self, text: str) -> tuple:
        """Runs a test in that namespace; it passes if it raises nothing."""
        return self._finding(self._run, _TEST, text)

    def call(
        self, function: str, arguments: list, expected: object, tolerance: float = 0.0
    ) -> tuple:
        """Calls a function of the program and compares what it returns, by `same_result`."""
        return self._finding(self._call, function, arguments, expected, tolerance)

    def _call(self, function: str, arguments: list, expected: object, tolerance: float) -> None:
        value = self._submission.ask("apply", function, arguments)
        if not same_result(value, expected, tolerance):
            shown = ", ".join(map(_shown, arguments))
            raise AssertionError(f"{function}({shown}) == {_shown(expected)}")

    def run(self, sources: tuple[str, ...], prelude: str, text: str) -> tuple:
        """Runs the submission as a script; "correct" here only means exit code 0."""
        self._import(sources)
        stdin, stdout = os.memfd_create("input"), os.memfd_create("output")
        write_all(stdin, text.encode("utf-8", "surrogateescape"))
        os.lseek(stdin, 0, os.SEEK_SET)
        told, report = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                (report,) = runner.confine(self._limits, (stdin, stdout), (report,))
                runner.run_script(sources, prelude, report)
            finally:
                os._exit(1)
        os.close(report)
        _, status, usage = os.wait4(process, 0)
        ended = ("correct", "")
        if status:
            ended = ending(status, usage, self._limits["cpu_seconds"])
            if ended[0] == "error":
                ended = _reported(os.read(told, 1 << 16)) or ended
        output = os.pread(stdout, self._limits["output_bytes"], 0)
        for file in (stdin, stdout, told):
            os.close(file)
        return (*ended, output)

    def _import(self, sources: tuple[str, ...]) -> None:
        """Imports the packages that a program names, so that this takes none of its time.

        The program's process is forked from this one, which has imported nothing of the program.
        """
        text = "\n".join(sources)
        for name in self._limits["packages"][1]:
            if name in text and not _can_import(name):
                break  # the program's own import says why
        runner.seed(text)

    def _run(self, place: str, text: str) -> None:
        self._texts[place] = text
        runner.seed(text)
        exec(compile(text, place, "exec", dont_inherit=True, optimize=0), self._names)

    def _finding(self, function: Callable[..., None], *arguments: object) -> tuple:
        self._submission.said = []
        try:
            function(*arguments)
        except Ended as ended:
            return (*ended.args, b"")
        except BaseException as error:
            return (*self._failure(error), b"")
        return "correct", "", b""

    def _failure(self, error: BaseException) -> tuple[str, str]:
        """Returns (reason, message) of a test that raised, with the line of the test."""
        reason = "wrong" if isinstance(error, AssertionError) else "error"
        if isinstance(error, (AssertionError, Failed)):
            text = str(error)
        else:
            text = f"{type(error).__name__}: {error}"
        said = [f"the program's last answer was {_shown(value)}" for value in self._submission.said]
        parts = [self._line(error), text, *(said if reason == "wrong" else ())]
        return reason, ": ".join(part for part in parts if part)[: runner.LONGEST_MESSAGE]

    def _line(self, error: BaseException) -> str:
        """Returns the last line of helpers, setup or test that an exception passed through."""
        line, trace = "", error.__traceback__
        while trace:
            lines = self._texts.get(trace.tb_frame.f_code.co_filename, "").split("\n")
            line = "".join(lines[trace.tb_lineno - 1 : trace.tb_lineno]).strip() or line
            trace = trace.tb_next
        return line


def _can_import(name: str) -> bool:
    try:
        __import__(name)
    except Exception:
        return False
    return True


def _reported(frame: bytes) -> tuple[str, str] | None:
    """Returns what a script said about its failure, if that can be read."""
    try:
        return said_why(*decode(frame[8:])) if frame else None
    except (ValueError, TypeError):
        return None


def _shown(value: object) -> str:
    sys.set_int_max_str_digits(_MOST_DIGITS)
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} too large to show"
    finally:
        sys.set_int_max_str_digits(0)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def main() -> None:
    """Reads the limits, makes itself safe, and answers commands until there are no more."""
    (limits,) = decode(read_frame(0, _ANY_SIZE))
    nowhere = os.open(os.devnull, os.O_RDWR)
    # What a test prints goes nowhere: standard output is not where findings are written.
    runner.renumber((nowhere, nowhere, 2, 0, 1, limits["lifeline"]))
    sys.path.append(limits["packages"][0])
    commands, findings, lifeline = 3, 4, 5
    _protect(limits)
    _end_with(lifeline)
    harness = Harness(limits)
    write_frame(findings, encode(("correct", "", b"")))
    while True:
        try:
            command, *arguments = decode(read_frame(commands, _ANY_SIZE))
        except EOFError:
            os._exit(0)  # and with process 1 all others end
        write_frame(findings, encode(getattr(harness, command)(*arguments)))


def _protect(limits: dict) -> None:
    """Drops root, where it has it, and keeps submissions from disturbing the harness."""
    if limits["user"]:
        os.setgroups([])
        os.setresgid(*[limits["user"]] * 3)
        os.setresuid(*[limits["user"]] * 3)
    runner.prctl(_PR_SET_DUMPABLE, 0)
    # Process 1 gets no signal that it does not ask for; Python asks for this one.
    ctypes.CDLL(None).signal(_SIGINT, ctypes.c_void_p(_SIG_IGN))
    runner.set_limit(resource.RLIMIT_AS, limits["memory_bytes"] + _MARGIN_BYTES)
    sys.set_int_max_str_digits(0)  # digits cost time, which has limits of its own


def _end_with(lifeline: int) -> None:
    """Ends this process when the trainer's end of a pipe closes, as when the trainer dies.

    A closing pipe raises SIGIO, which C's `_exit` handles, whatever Python is doing. If it closed
    before, the pipe of the commands did too, and that is read next.
    """
    libc = ctypes.CDLL(None)
    libc.signal(_SIGIO, ctypes.cast(libc._exit, ctypes.c_void_p))
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
