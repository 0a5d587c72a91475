"""Verifies programs: does a program pass its tests, in a sandbox?

What a program can do to its verdict. The tests run in another process than the program, which is
forked before they arrive. Only arguments and plain values pass between the two, and a value proves
no more than that the program said it (see `inside`). So exit codes, patched builtins, values that
claim to equal everything, forged results, and expected outputs read from memory, frames or files
achieve nothing: what makes a verdict is out of the program's reach, for every kind of tests.

What a program can still do:

- Know the tests. Many prompts show asserts, and a program may hold a table of their answers.
- Claim what is asked only as yes or no: `assert f(x)`, or a method of an object of its own, as in
  `assert f(x).startswith("a")`.
- Supply both sides of a comparison: any two functions that agree pass `assert f(x) == g(x)`.
  Names in asserts are the program's only if nothing else defines them; see `test_plans`.
- Escape through the kernel: a sandbox is as good as the namespaces and the seccomp of Linux.

What an honest program might want and cannot do: start processes, open sockets, import installed
packages other than those that it was given, be given functions by a test, or return something
endless that is read item by item. Arguments are passed by value, so a test does not see what a
program does to them. Objects of a program's own classes equal only themselves. Numbers of NumPy are
numbers; an array that a call returns is a list, and in asserts an object with items.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bstar_jax.grading.code import test_plans
from bstar_jax.grading.code.outputs import same_output
from bstar_jax.grading.code.test_plans import TestPlan
from bstar_jax.isolation.packages import find_packages
from bstar_jax.isolation.sandbox import Broken, Limits, Sandbox, TimedOut
from bstar_jax.isolation.self_test import check, check_imports

_SHOWN = 60
_START_TRIES, _START_PAUSE = 3, 0.5
_AGAIN = 6  # how many times the wall time limit the second tries of a call may take together
_IDLE_SHARE = 0.05  # of the wall time limit: a program that used no more was not hindered


@dataclasses.dataclass(frozen=True)
class TestResult:
    """The outcome of one test.

    Attributes:
      reason: "correct"; "wrong": an assert failed or the output differs; "error": an exception,
        a crash, too much memory or output; "timeout": too much CPU time or wall time.
      message: What went wrong, in one line; "" if nothing did.
      seconds: Wall time.
    """

    reason: str
    message: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class CodeVerdict:
    """The verdict on a program.

    Attributes:
      passed: Whether it passed every test.
      reason: The reason of the first test that it failed, "correct" if it failed none; or
        "unparseable": there is no program, or it does not compile. A program may also fail
        before its tests, while it is loaded.
      message: What went wrong, in a line; "" where nothing did.
      first_failing: Place of the first test that it failed, from 0; None where it failed none,
        or failed before.
      tests: The tests that were run, in order; they end with the first that failed, unless all
        were asked for.
      seconds: Wall time, the start of the sandbox included.
    """

    passed: bool
    reason: str
    message: str
    first_failing: int | None
    tests: tuple[TestResult, ...]
    seconds: float


class CodeVerifier:
    """Verifies programs, several at a time; a context manager that leaves no sandbox behind.

    Example:
      with CodeVerifier() as verifier:
          tests = {"kind": "stdio", "inputs": ["2 3"], "outputs": ["5"]}
          verifier.verify(tests, "print(sum(map(int, input().split())))").passed  -> True
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        workers: int = 0,
        every_test: bool = False,
        unsafe: bool = False,
        packages: str = "",
        tolerance: float = 0.0,
    ) -> None:
        """Tries a sandbox, and prepares the workers.

        Args:
          limits: What a program may use; `Limits()` by default.
          workers: Sandboxes at a time; 0 for one for each core that this process may use.
          every_test: Whether to continue after a test that failed, as long as the program can.
          unsafe: Whether to run programs without bubblewrap, with all rights that you have.
          packages: Installed packages that programs may import, names between commas.
          tolerance: The largest relative difference of two floats that are equal, in results of
            calls, and in outputs where it is above 1e-5.

        Raises:
          UserError: If no sandbox can be made here, or a package cannot be imported in one.
        """
        self._packages = find_packages(packages)
        check(unsafe=unsafe, packages=self._packages)
        self._limits = limits or Limits()
        check_imports(self._packages, self._limits, unsafe=unsafe)
        self._tolerance = tolerance
        self._every_test = every_test
        self._unsafe = unsafe
        workers = workers or len(os.sched_getaffinity(0))
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, "verifier")
        self._running: set[Sandbox] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> CodeVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is running, and waits until it is gone."""
        self._is_closed = True
        self._kill()
        self._pool.shutdown(cancel_futures=True)

    def verify(self, tests: Mapping[str, Any], response: str, reference: str = "") -> CodeVerdict:
        """Verifies the program in one response.

        Args:
          tests: As `tasks.task` describes them.
          response: The response, which holds a program.
          reference: A program that passes; "" if none is known.

        Raises:
          UserError: If the tests are not Python.
          Broken: If the machine cannot start a sandbox.
        """
        return self._verify((tests, response, reference), self._limits)[0]

    def verify_many(self, jobs: Iterable[tuple], *, retry: bool = True) -> list[CodeVerdict]:
        """Verifies many programs with all workers, and keeps their order.

        Args:
          jobs: What `verify` takes: (tests, response) or (tests, response, reference).
          retry: Whether a program that ran out of wall time is tried once more, alone and with
            twice the time, as others may have slowed it down. There is no second try for one that
            hardly used the CPU, such as one that sleeps, nor for one that ran out of CPU time.
            Second tries begin as long as those of the call have taken no more than six times the
            limit on wall time together.

        Raises:
          As `verify`; what is still running is then ended.
        """
        jobs = list(jobs)
        futures = [self._pool.submit(self._verify, job, self._limits) for job in jobs]
        try:
            graded = [future.result() for future in futures]
        except BaseException:
            self._abandon(futures)
            raise
        verdicts = []
        last = time.monotonic() + _AGAIN * self._limits.wall_seconds
        for job, (verdict, was_hindered) in zip(jobs, graded, strict=True):
            if was_hindered and retry and time.monotonic() <= last:
                verdict, _ = self._verify(job, self._limits.doubled())
            verdicts.append(verdict)
        return verdicts

    def _abandon(self, futures: list[concurrent.futures.Future]) -> None:
        """Ends what nobody waits for any longer."""
        for future in futures:
            future.cancel()
        while not all(future.done() for future in futures):
            self._kill()  # repeatedly, as one may have just begun
            time.sleep(0.05)

    def _kill(self) -> None:
        with self._lock:
            for sandbox in self._running:
                sandbox.kill()

    def _verify(self, job: tuple, limits: Limits) -> tuple[CodeVerdict, bool]:
        """Returns the verdict, and whether wall time ran out that others may have used."""
        start = time.monotonic()
        plan = test_plans.plan_tests(*job, tolerance=self._tolerance)
        if plan is None:
            message = "there is no program in the response"
            return _failed_before("unparseable", message, start), False
        with self._sandbox(limits) as sandbox:
            session = _Session(sandbox, limits)
            verdict = self._carry_out(plan, session, start)
        if self._is_closed:
            raise RuntimeError("the verifier was closed while it worked")
        return verdict, session.was_hindered

    def _carry_out(self, plan: TestPlan, session: _Session, start: float) -> CodeVerdict:
        for command in plan.before:
            reason, message, _ = session.ask(command)
            if reason != "correct":
                return _failed_before(reason, message, start)
        results = []
        for place, command in enumerate(plan.tests):
            begun = time.monotonic()
            reason, message, output = session.ask(command)
            if reason == "unparseable":
                return _failed_before(reason, message, start)
            if reason == "correct" and plan.outputs:
                reason, message = _compared(output, plan.outputs[place], self._tolerance)
            results.append(TestResult(reason, message, time.monotonic() - begun))
            if reason != "correct" and (session.is_over or not self._every_test):
                break
        failing = [place for place, result in enumerate(results) if result.reason != "correct"]
        first = failing[0] if failing else None
        result = results[first or 0]
        seconds = time.monotonic() - start
        return CodeVerdict(
            not failing, result.reason, result.message, first, tuple(results), seconds
        )

    @contextlib.contextmanager
    def _sandbox(self, limits: Limits) -> Iterator[Sandbox]:
        with self._started(limits) as sandbox:
            with self._lock:
                if self._is_closed:
                    raise RuntimeError("this verifier is closed")
                self._running.add(sandbox)
            try:
                yield sandbox
            finally:
                with self._lock:
                    self._running.remove(sandbox)

    def _started(self, limits: Limits) -> Sandbox:
        """Starts a sandbox; tries again if the machine is short of something for a moment."""
        for _ in range(_START_TRIES - 1):
            try:
                return Sandbox(limits, unsafe=self._unsafe, packages=self._packages)
            except Broken:
                time.sleep(_START_PAUSE)
        return Sandbox(limits, unsafe=self._unsafe, packages=self._packages)


class _Session:
    """A program's time in a sandbox.

    Attributes:
      is_over: Whether the sandbox can be asked nothing more.
      was_hindered: Whether that is because wall time ran out, and others may have been in its way.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        self._sandbox, self._limits = sandbox, limits
        self._deadline = self._last = time.monotonic() + limits.total_seconds
        self.is_over = self.was_hindered = False

    def ask(self, command: tuple) -> tuple[str, str, bytes]:
        """Returns the harness's finding, or "timeout" or "error" if there is none."""
        if command[0] in ("load", "run"):  # a new process of the program's
            self._deadline = min(time.monotonic() + self._limits.wall_seconds, self._last)
        try:
            return self._sandbox.ask(*command, deadline=self._deadline)
        except TimedOut:
            share = self._sandbox.program_seconds() / self._limits.wall_seconds
            self.is_over, self.was_hindered = True, share > _IDLE_SHARE
            is_all = self._deadline == self._last
            name = "total_seconds" if is_all else "wall_seconds"
            limit = getattr(self._limits, name)
            return "timeout", f"it took more than {limit:g} s of wall time ({name})", b""
        except Broken as error:
            self.is_over = True
            return "error", f"the sandbox ended: {error}", b""


def _failed_before(reason: str, message: str, start: float) -> CodeVerdict:
    return CodeVerdict(False, reason, message, None, (), time.monotonic() - start)


def _compared(output: bytes, expected: str, tolerance: float) -> tuple[str, str]:
    text = output.decode("utf-8", "replace")
    if same_output(text, expected, tolerance):
        return "correct", ""
    return "wrong", f"it printed {_shown(text)} where {_shown(expected)} was expected"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
