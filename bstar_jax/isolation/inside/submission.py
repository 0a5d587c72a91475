"""The submission: a program in another process, and its objects, as the harness sees them."""

from __future__ import annotations

import os
import resource

from bstar_jax.isolation.inside import runner
from bstar_jax.isolation.inside.wire import decode, encode, read_frame, write_frame

TYPE_CHECKING = False  # `typing` itself takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

_SIGKILL, _SIGXCPU = 9, 24


class Failed(Exception):
    """The program was asked and raised an exception."""


class Ended(BaseException):
    """The program's process is gone: (reason, message). No test can catch it by `Exception`."""


class Submission:
    """A program in a process of its own, as the harness sees it."""

    def __init__(self, sources: tuple[str, ...], prelude: str, limits: dict) -> None:
        """Starts the program; the first `answer` is about its loading."""
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._limits = limits
        self._ended: tuple[str, ...] = ()
        self.said: list = []  # the last answer, if any
        self._process = os.fork()
        if self._process == 0:
            try:
                nowhere = os.open(os.devnull, os.O_RDWR)
                requests, answers = runner.confine(limits, (nowhere, nowhere), (requests, answers))
                runner.serve(sources, prelude, (requests, answers), limits["output_bytes"])
            finally:
                os._exit(0)
        os.close(requests)
        os.close(answers)

    def ask(self, *request: object) -> Any:
        """Makes a request of `runner.serve`; returns what the program answers.

        Raises:
          Failed: If it raised an exception.
          Ended: If its process is gone.
          TypeError: If the request holds anything but data and the program's own objects.
        """
        data = encode(request, _number_of)
        if self._ended:
            raise Ended(*self._ended)
        try:
            write_frame(self._requests, data)
        except BrokenPipeError:
            self._end()
        kind, value = self.answer()
        if kind != "value":
            raise Failed(value)
        self.said = [value]
        return value

    def answer(self) -> tuple[str, object]:
        """Returns the next answer: "value" and a value, "error" or "unparseable" and a message.

        Raises:
          Ended: If its process is gone, or is ended because its answer cannot be read.
        """
        try:
            data = read_frame(self._answers, self._limits["output_bytes"])
            kind, value = decode(data, lambda number: Remote(self, number))
        except EOFError:
            self._end()
        except (ValueError, TypeError) as error:
            self._end("error", f"its answer cannot be read: {error}")
        return (kind, value) if kind == "value" else said_why(kind, value)

    def _end(self, *why: str) -> NoReturn:
        os.kill(self._process, _SIGKILL)
        _, status, usage = os.wait4(self._process, 0)
        self._ended = why or ending(status, usage, self._limits["cpu_seconds"])
        raise Ended(*self._ended)


def said_why(kind: object, message: object) -> tuple[str, str]:
    """Returns why a program failed, as `runner` says it; a program may say anything."""
    text = message[: runner.LONGEST_MESSAGE] if isinstance(message, str) else ""
    return "unparseable" if kind == "unparseable" else "error", text or "it gave no reason"


def ending(status: int, usage: resource.struct_rusage, cpu_seconds: int) -> tuple[str, str]:
    """Returns why a process ended too early: (reason, message)."""
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    is_late = usage.ru_utime + usage.ru_stime >= cpu_seconds
    if signal == _SIGXCPU or (signal == _SIGKILL and is_late):
        return "timeout", f"it used more than {cpu_seconds} s of CPU time"
    if signal:
        return "error", f"it was killed by signal {signal}"
    return "error", f"it ended with exit code {os.waitstatus_to_exitcode(status)}"


class Remote:
    """An object of the program that is not plain data: a function, a class, an instance.

    Tests may call it, read and set its attributes, index it and iterate over its items; each is
    done in the program's process. It has no say in comparisons: it equals only itself, and contains
    what its items equal.
    """

    __slots__ = ("_number", "_submission")

    def __init__(self, submission: Submission, number: int) -> None:
        object.__setattr__(self, "_submission", submission)
        object.__setattr__(self, "_number", number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._number == other._number

    def __hash__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return "an object of the program's own"

    def __call__(self, *arguments: object, **named: object) -> Any:
        """Calls the object in the submission."""
        return self._submission.ask("call", self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__array"):  # by which NumPy reads the memory that an object says is its
            raise AttributeError(name)
        return self._submission.ask("get", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._submission.ask("set", self, name, value)

    def __getitem__(self, key: object) -> object:
        return self._submission.ask("getitem", self, key)

    def __iter__(self) -> Iterator:
        return iter(self._submission.ask("list", self))

    def __len__(self) -> int:
        try:
            return self._submission.ask("len", self)
        except Failed as error:  # `list` asks for the length too, and takes this for "unknown"
            raise TypeError(str(error)) from error


def _forward(name: str) -> Callable[[Remote], Any]:
    return lambda self: self._submission.ask(name, self)


for _name in ("bool", "float", "int", "next", "str"):
    setattr(Remote, f"__{_name}__", _forward(_name))


def _number_of(value: object) -> int:
    if isinstance(value, Remote):
        return value._number
    raise TypeError(f"a test can give a program plain data, not a {type(value).__name__}")
