"""The submission's side of the sandbox: its process, its limits, and how it is asked.

Nothing that runs here is trusted once the submission has started, not even this file.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import fcntl
import os
import resource
import sys

from bstar_jax.isolation.inside.wire import decode, encode, read_frame, write_frame

TYPE_CHECKING = False  # `typing` itself takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

SOURCE = "<program>"
LONGEST_MESSAGE = 300

_SIGKILL = 9
_FILES_END = 1 << 20  # where the number of files has no limit
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 1, 38, 22, 2
_UNCOMPILABLE = (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError)


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog` of the Linux headers."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def prctl(option: int, *arguments: object) -> None:
    """Makes the system call of that name.

    Raises:
      OSError: If it fails.
    """
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(ctypes.c_int(option), *words) < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def confine(limits: dict, standard: tuple[int, int], kept: tuple[int, ...]) -> tuple[int, ...]:
    """Makes this freshly forked process the submission's: its files, its limits, its filter.

    Args:
      limits: `cpu_seconds`, `memory_bytes`, `output_bytes`, `files`, `threads` (0: no limit)
        and the seccomp `filter`.
      standard: File descriptors that become standard input and output; errors are dropped.
      kept: The other file descriptors to keep; all the rest are closed.

    Returns:
      The new numbers of `kept`.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    renumber((*standard, nowhere, *kept))
    cpu = limits["cpu_seconds"]
    set_limit(resource.RLIMIT_CPU, cpu, cpu + 1)
    set_limit(resource.RLIMIT_AS, limits["memory_bytes"])
    set_limit(resource.RLIMIT_FSIZE, limits["output_bytes"])
    set_limit(resource.RLIMIT_NOFILE, limits["files"])
    if limits["threads"]:
        set_limit(resource.RLIMIT_NPROC, limits["threads"] + 1)  # the harness counts too
    set_limit(resource.RLIMIT_CORE, 0)
    set_limit(resource.RLIMIT_MEMLOCK, 0)
    builtins.exit = builtins.quit = sys.exit  # as `site` has it, which is not loaded
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    instructions = _FilterProgram(len(limits["filter"]) // 8, limits["filter"])
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(instructions))
    return tuple(range(3, 3 + len(kept)))


def renumber(files: tuple[int, ...]) -> None:
    """Makes these the file descriptors 0, 1, 2, ... of this process, and closes all others."""
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, len(files)) for file in files]
    for place, file in enumerate(moved):
        os.dup2(file, place, inheritable=place < 3)
    end, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.closerange(len(files), end if end > 0 else _FILES_END)


def seed(text: str) -> None:
    """Seeds what a text may draw from, with one number: one program, one verdict."""
    if "random" in text:
        __import__("random").seed(0)
        if "numpy" in text and "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)


def set_limit(which: int, soft: int, hard: int | None = None) -> None:
    """Sets a limit for good; a stricter one stays."""
    hard = soft if hard is None else hard
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def describe(error: BaseException) -> str:
    """Describes an exception in one short line, with the last line of the program it passed.

    Example: "ZeroDivisionError: division by zero (line 3)"
    """
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == SOURCE:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}".removesuffix(": ")[:LONGEST_MESSAGE]
    return f"{text} (line {line})" if line else text


def serve(sources: tuple[str, ...], prelude: str, files: tuple[int, ...], most: int) -> None:
    """Loads a program, then does what it is asked until nobody asks any longer.

    Every answer, of which the first is about the loading, is ("value", value), or "error" or
    "unparseable" with a message.

    Args:
      sources: Forms of the program; the first that compiles is taken.
      prelude: Statements that run before it.
      files: File descriptors of the requests (operation, argument, ...) and of the answers.
      most: Largest size of an answer, in bytes.
    """
    requests, answers = files
    kept: list[object] = []  # what the harness knows only by its number
    numbers: dict[int, int] = {}

    def number_of(value: object) -> int:
        if id(value) not in numbers:
            numbers[id(value)] = len(kept)
            kept.append(value)
        return numbers[id(value)]

    def tell(kind: str, value: object) -> None:
        answer = encode((kind, value), number_of)
        if len(answer) > most:
            answer = encode(("error", f"the answer is larger than the limit of {most} bytes"))
        write_frame(answers, answer)

    names = _load(sources, "program", prelude, tell)
    if names is not None:
        tell("value", None)
    while True:
        try:
            operation, *arguments = decode(read_frame(requests, 2**62), kept.__getitem__)
        except EOFError:
            return
        try:
            tell("value", _OPERATIONS[operation](names, *arguments))
        except BaseException as error:  # SystemExit too: only the harness ends a program
            tell("error", describe(error))


def run_script(sources: tuple[str, ...], prelude: str, report: int) -> None:
    """Runs a program as a script, and ends this process with its exit code.

    Args:
      sources: Forms of the program; the first that compiles is taken.
      prelude: Statements that run before it.
      report: File descriptor for why it failed: "error" or "unparseable" with a message.
    """
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115  (open to the program's end)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115  (open to the program's end)
    code: object = 0
    try:
        names = _load(sources, "__main__", prelude, lambda *why: write_frame(report, encode(why)))
        if names is None:
            os._exit(1)
    except SystemExit as error:
        code = error.code
    _leave(code)


def _leave(code: object) -> None:
    """Ends the process as the interpreter does, except that it does not free its memory.

    That would take longest. It waits for threads, runs exit functions, and writes what was
    printed, also to files that the program opened.
    """
    stdout = sys.__stdout__
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    _flush(sys.stdout)
    sys.modules["__main__"].__dict__.clear()
    _flush(stdout)
    os._exit(code & 0xFF if isinstance(code, int) else 0 if code is None else 1)


def _flush(file: Any) -> None:
    """Writes what is left; a program may have closed its standard output, or set it to None."""
    if file is not None and not getattr(file, "closed", False):
        file.flush()


def _load(
    sources: tuple[str, ...], name: str, prelude: str, complain: Callable[[str, str], None]
) -> dict | None:
    """Runs a program as a module; returns its namespace, or None after a complaint."""
    source, code = _compiled(sources)
    if code is None:
        complain("unparseable", source)
        return None
    module = type(sys)(name)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        seed(source)
        exec(prelude, module.__dict__)
        exec(code, module.__dict__)
    except SystemExit:
        if name == "__main__":
            raise
        complain("error", "SystemExit while it was loaded")
    except BaseException as error:
        complain("error", describe(error))
    else:
        return module.__dict__
    return None


def _compiled(sources: tuple[str, ...]) -> tuple[str, CodeType | None]:
    """Returns the first form that compiles and its code, or what is wrong with it and None."""
    complaints = []
    for source in sources:
        try:
            return source, compile(source, SOURCE, "exec", dont_inherit=True)
        except _UNCOMPILABLE as error:
            complaints.append(describe(error))
    return complaints[0], None


def _look_up(names: dict, name: str) -> tuple[bool, object]:
    return name in names, names.get(name)


def _apply(names: dict, name: str, arguments: list) -> object:
    """Calls the program's function of that name, or that method of its class `Solution`."""
    if callable(names.get(name)):
        value = names[name](*arguments)
    elif hasattr(names.get("Solution"), name):
        value = getattr(names["Solution"](), name)(*arguments)
    else:
        raise NameError(f"the program defines no function {name!r}, also not in a class Solution")
    is_array = type(value).__module__ == "numpy" and hasattr(value, "tolist")
    return value.tolist() if is_array else value


_OPERATIONS = {
    "look up": _look_up,
    "apply": _apply,
    "call": lambda _, function, arguments, named: function(*arguments, **named),
    "get": lambda _, value, name: getattr(value, name),
    "set": lambda _, value, name, new: setattr(value, name, new),
    "getitem": lambda _, value, key: value[key],
    "bool": lambda _, value: bool(value),
    "float": lambda _, value: float(value),
    "int": lambda _, value: int(value),
    "len": lambda _, value: len(value),
    "list": lambda _, value: list(value),
    "next": lambda _, value: next(value),
    "str": lambda _, value: str(value),
}
