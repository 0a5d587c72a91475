"""Grades published programs in the sandbox: references pass, their mutants fail, and how fast.

    python -m benchmarks.grading.sandbox --data=FOLDER [--json=FILE]

FOLDER holds mbpp_part.jsonl and humaneval_part.jsonl, as their publishers wrote them; either may
be absent. Of every reference program five mutants are made: one returns None, one raises, one is
off by one in its text or, where there is nothing to change, in its result, one never ends, one
sleeps. Each has to fail, for one of the reasons that fit. Mutants that the tests cannot tell from
the reference are listed; a bare interpreter, which runs program and tests in one namespace as the
publishers do, says whether that is so. The programs of `tests/escapes.py` and
`tests/forgeries.py` have to fail too.
"""

from __future__ import annotations

import os
import pathlib
import resource
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks import figures
from benchmarks.figures import ROOT, Spread
from benchmarks.grading import problems as published
from benchmarks.grading.problems import FITTING, Problem, passes_bare
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.isolation.sandbox import Limits
from tests.escapes import ESCAPES
from tests.forgeries import FORGERIES

WAITING = 16  # sandboxes at a time whose programs sleep
ENDLESS = ("loop", "sleep")


def grade_references(
    problems: Sequence[Problem], repeats: int
) -> tuple[list[str], list[float], list[float]]:
    """Grades all references `repeats` times.

    Returns:
      Those that failed the last time, programs a second, CPU milliseconds a program.
    """
    rates, costs, failing = list[float](), list[float](), list[str]()
    with CodeVerifier() as verifier:
        for _ in range(repeats):
            start, used = time.perf_counter(), cpu_seconds()
            jobs = [(problem.tests, problem.response, problem.reference) for problem in problems]
            verdicts = verifier.verify_many(jobs)
            rates.append(len(problems) / (time.perf_counter() - start))
            costs.append(1e3 * (cpu_seconds() - used) / len(problems))
            pairs = zip(problems, verdicts, strict=True)
            failing = [f"{p.name}: {v.reason}: {v.message}" for p, v in pairs if not v.passed]
    return failing, rates, costs


def cpu_seconds() -> float:
    """CPU time of this process and of the children that it waited for."""
    both = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def grade_mutants(problems: Sequence[Problem], kind: str) -> dict[str, Any]:
    """Grades the mutants of a kind: counts of reasons, those that pass, those that do not fit."""
    is_short = kind not in ENDLESS
    limits = Limits() if is_short else Limits(wall_seconds=1.0)
    jobs = [(problem.tests, problem.mutants[kind], problem.reference) for problem in problems]
    with CodeVerifier(limits, workers=WAITING if kind == "sleep" else 0) as verifier:
        verdicts = verifier.verify_many(jobs, retry=is_short)
    pairs = list(zip(problems, verdicts, strict=True))
    return {
        "graded": len(jobs),
        "reasons": dict(Counter(verdict.reason for verdict in verdicts)),
        "passing": [problem.name for problem, verdict in pairs if verdict.passed],
        "unfitting": [
            f"{problem.name}: {verdict.reason}: {verdict.message}"
            for problem, verdict in pairs
            if not verdict.passed and verdict.reason not in FITTING[kind]
        ],
        "bare interpreter differs": [
            problem.name
            for problem, verdict in pairs
            if is_short and verdict.passed != passes_bare(problem, problem.mutants[kind])
        ],
    }


def scripts_per_second(tests: int = 20, programs: int = 60) -> float:
    """Programs a second that read standard input, of so many tests each."""
    numbers = [str(number) for number in range(tests)]
    outputs = [str(2 * number) for number in range(tests)]
    problem = {"kind": "stdio", "inputs": numbers, "outputs": outputs}
    with CodeVerifier() as verifier:
        start = time.perf_counter()
        verdicts = verifier.verify_many([(problem, "print(2 * int(input()))")] * programs)
        seconds = time.perf_counter() - start
    assert all(verdict.passed for verdict in verdicts)
    return programs / seconds


def grade_escapes() -> tuple[int, list[str]]:
    """The number of escapes and forgeries, and those that do not fail as they should."""
    cases = ESCAPES + FORGERIES
    secret = ROOT / "tests" / "escapes.py"  # it holds the word that they are after
    values = {"@SECRET@": secret, "@PROJECT@": __file__, "@PORT@": 9, "@PID@": os.getpid()}
    found = []
    for waits in (False, True):
        limits = Limits(1, 2.0 if waits else 60.0, memory_bytes=300 << 20)
        chosen = [case for case in cases if case.waits() == waits]
        jobs = []
        for case in chosen:
            program = case.program
            for name, value in values.items():
                program = program.replace(name, str(value))
            jobs.append((case.tests, program))
        with CodeVerifier(limits) as verifier:
            verdicts = verifier.verify_many(jobs, retry=False)
        found += [
            f"{case.name}: {verdict.reason}: {verdict.message}"
            for case, verdict in zip(chosen, verdicts, strict=True)
            if verdict.reason != case.reason or case.says not in verdict.message
        ]
    return len(cases), found


def main() -> None:
    """Measures everything, prints and writes the figures."""
    parser = figures.flags(__doc__)
    parser.add_argument(
        "--data", type=pathlib.Path, required=True, metavar="FOLDER", help="of the data sets"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of the reference programs")
    arguments = parser.parse_args()
    problems = published.read(arguments.data)
    if not problems:
        parser.error(f"{arguments.data} has neither mbpp_part.jsonl nor humaneval_part.jsonl")
    failing, rates, costs = grade_references(problems, arguments.repeats)
    print(f"{len(problems) - len(failing)} of {len(problems)} reference programs pass", *failing)
    print(
        f"programs a second on {len(os.sched_getaffinity(0))} cores: {Spread.of(rates):.1f}, "
        f"{Spread.of(costs).median:.1f} ms of CPU time each"
    )
    results: dict[str, Any] = {
        "references": len(problems),
        "failing": failing,
        "programs_per_second": rates,
        "cpu_milliseconds_per_program": costs,
        "scripts_per_second": scripts_per_second(),
    }
    print(f"scripts of 20 tests a second: {results['scripts_per_second']:.1f}")
    for kind in FITTING:
        results[kind] = grade_mutants(problems, kind)
        print(f"{kind}: " + ", ".join(f"{name} {value}" for name, value in results[kind].items()))
    tried, results["escaping"] = grade_escapes()
    contained = tried - len(results["escaping"])
    print(f"{contained} of {tried} escapes fail as they should", *results["escaping"])
    figures.write(arguments.json, results)


if __name__ == "__main__":
    main()
