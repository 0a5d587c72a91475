"""The code grader on published problems: reference programs pass, their mutants fail, and how fast.

    python -m benchmarks.grading.sandbox --data=FOLDER [--json=FILE]

FOLDER holds mbpp_part.jsonl and humaneval_part.jsonl, as their publishers wrote them; either may
be absent. Of every reference program five mutants are made: one returns None, one raises, one is
off by one in its text or, where there is nothing to change, in its result, one never ends, one
sleeps. Each has to fail, for one of the reasons that fit. What the tests cannot tell from the
reference is listed; whether that is so is asked of a bare interpreter, which runs program and tests
in one namespace, as the publishers do. The programs of `tests/escapes.py` and `tests/forgeries.py`
have to fail too.
"""

from __future__ import annotations

import argparse
import ast
import collections
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

from benchmarks.launching import ROOT
from bstar_jax import tasks
from bstar_jax.grading.code.submissions import written
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.isolation.sandbox import Limits
from tests.escapes import ESCAPES
from tests.forgeries import FORGERIES

FITTING = {
    "none": {"wrong", "error"},
    "raise": {"error"},
    "off by one": {"wrong", "error", "timeout"},
    "loop": {"timeout"},
    "sleep": {"timeout"},
}
BODIES = {
    "none": "return None",
    "raise": "raise RuntimeError('mutant')",
    "loop": "while True:\n        pass",
    "sleep": "import time\n    time.sleep(3600)",
}
OPPOSITE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.Add: ast.Sub, ast.Sub: ast.Add,
}  # fmt: skip
OFF_BY_ONE = """
def _shifted(function):
    def shifted(*given):
        value = function(*given)
        if isinstance(value, (int, float, complex)):
            return value + 1
        if isinstance(value, str):
            return value + "x"
        if isinstance(value, (list, tuple)):
            return value[1:] if value else type(value)([0])
        return [value]
    return shifted
"""
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 20}
WAITING = 16  # sandboxes at a time whose programs sleep


@dataclasses.dataclass(frozen=True)
class Problem:
    """A published problem: its name, tests, reference response and mutants by kind."""

    name: str
    tests: dict
    response: str
    reference: str
    mutants: dict[str, str]


def mbpp(query):
    code, tests = query.reference, query.fields["tests"]
    asserts = "\n".join(tests["asserts"])
    called = {node.id for node in ast.walk(ast.parse(asserts)) if is_name(node)}
    names = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
    mutants = {}
    for kind, body in BODIES.items():
        definitions = [f"def {name}(*given):\n    {body}\n" for name in sorted(names & called)]
        mutants[kind] = "\n".join([code, "", *definitions])
    mutants["off by one"] = off_by_one(code, names & called)
    mutants = {kind: f"```python\n{program}\n```" for kind, program in mutants.items()}
    return Problem(f"MBPP/{query.query_id}", tests, query.solution, code, mutants)


def humaneval(query):
    tests = query.fields["tests"]
    mutants = {kind: f"    {body}\n" for kind, body in BODIES.items()}
    whole = off_by_one(tests["prompt"] + query.solution, {tests["entry_point"]})
    mutants["off by one"] = f"```python\n{whole}\n```"
    return Problem(query.query_id, tests, query.solution, query.reference, mutants)


def is_name(node):
    return isinstance(node, ast.Name)


def off_by_one(code, names):
    """The program with a number, comparison or sum in one of its functions changed, or a result."""
    tree = ast.parse(code)
    bodies = [node for node in tree.body if getattr(node, "name", None) in names]
    nodes = [node for body in bodies for node in ast.walk(body)]
    for node in nodes:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
            return ast.unparse(tree)
    for node in nodes:
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
            node.ops[0] = OPPOSITE[type(node.ops[0])]()
            return ast.unparse(tree)
        if isinstance(node, ast.BinOp) and type(node.op) in OPPOSITE:
            node.op = OPPOSITE[type(node.op)]()
            return ast.unparse(tree)
    return "\n".join([code, OFF_BY_ONE, *(f"{name} = _shifted({name})\n" for name in names)])


def read(folder):
    """The problems as their tasks read them, with their human solutions."""
    sizes = {"seed": 0, "sft_examples": 0, "calibration_queries": 0, "heldout_queries": 0}
    problems = []
    for name, make in (("mbpp", mbpp), ("humaneval", humaneval)):
        file = folder / f"{name}_part.jsonl"
        if file.is_file():
            problems += map(make, tasks.load(name, str(file), **sizes).splits["train"])
    return problems


def references(problems, repeats):
    """Grades all references some times: those that fail, programs a second and CPU ms a program."""
    rates, costs = [], []
    with CodeVerifier() as grader:
        for _ in range(repeats):
            start, used = time.perf_counter(), cpu_seconds()
            jobs = [(problem.tests, problem.response, problem.reference) for problem in problems]
            verdicts = grader.verify_many(jobs)
            rates.append(len(problems) / (time.perf_counter() - start))
            costs.append(1e3 * (cpu_seconds() - used) / len(problems))
    pairs = zip(problems, verdicts, strict=True)
    failing = [f"{p.name}: {v.reason}: {v.message}" for p, v in pairs if not v.passed]
    return failing, rates, costs


def cpu_seconds():
    """CPU time of this process and of the children that it waited for."""
    both = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def passes_bare(problem, response):
    """Whether a program passes its tests in a bare interpreter, in one namespace with them."""
    tests = problem.tests
    program = written(response)[0]
    if tests["kind"] == "asserts":
        parts = [program, tests["setup"], *tests["asserts"]]
    else:
        stub = f"{tests['prompt']}    pass\n"
        parts = [stub, program, tests["test"], f"check({tests['entry_point']})"]
    text = "\n".join(parts).encode()
    try:
        done = subprocess.run([sys.executable, "-I", "-S", "-"], input=text, **QUIET)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def mutants(problems, kind):
    """Grades the mutants of a kind: counts of reasons, those that pass, those that do not fit."""
    limits = Limits(wall_seconds=1.0) if kind in ("loop", "sleep") else Limits()
    jobs = [(problem.tests, problem.mutants[kind], problem.reference) for problem in problems]
    with CodeVerifier(limits, workers=WAITING if kind == "sleep" else 0) as grader:
        verdicts = grader.verify_many(jobs, retry=kind not in ("loop", "sleep"))
    pairs = list(zip(problems, verdicts, strict=True))
    is_short = kind not in ("loop", "sleep")
    return {
        "graded": len(jobs),
        "reasons": dict(collections.Counter(verdict.reason for verdict in verdicts)),
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


def scripts(tests=20, programs=60):
    """Programs a second that read standard input, of so many tests each."""
    numbers = [str(number) for number in range(tests)]
    outputs = [str(2 * number) for number in range(tests)]
    problem = {"kind": "stdio", "inputs": numbers, "outputs": outputs}
    with CodeVerifier() as grader:
        start = time.perf_counter()
        verdicts = grader.verify_many([(problem, "print(2 * int(input()))")] * programs)
        seconds = time.perf_counter() - start
    assert all(verdict.passed for verdict in verdicts)
    return programs / seconds


def escapes():
    """Names of the escapes that do not fail as they should."""
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
        with CodeVerifier(limits) as grader:
            verdicts = grader.verify_many(jobs, retry=False)
        found += [
            f"{case.name}: {verdict.reason}: {verdict.message}"
            for case, verdict in zip(chosen, verdicts, strict=True)
            if verdict.reason != case.reason or case.says not in verdict.message
        ]
    return len(cases), found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--repeats", type=int, default=5, help="of the reference programs")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    problems = read(arguments.data)
    if not problems:
        parser.error(f"{arguments.data} has neither mbpp_part.jsonl nor humaneval_part.jsonl")
    failing, rates, costs = references(problems, arguments.repeats)
    print(f"{len(problems) - len(failing)} of {len(problems)} reference programs pass", *failing)
    print(
        f"programs a second on {len(os.sched_getaffinity(0))} cores: "
        f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f}), "
        f"{statistics.median(costs):.1f} ms of CPU time each"
    )
    results = {"references": len(problems), "failing": failing, "programs_per_second": rates}
    results["cpu_milliseconds_per_program"] = costs
    results["scripts_per_second"] = scripts()
    print(f"scripts of 20 tests a second: {results['scripts_per_second']:.1f}")
    for kind in FITTING:
        results[kind] = mutants(problems, kind)
        print(f"{kind}: " + ", ".join(f"{name} {value}" for name, value in results[kind].items()))
    tried, results["escaping"] = escapes()
    contained = tried - len(results["escaping"])
    print(f"{contained} of {tried} escapes fail as they should", *results["escaping"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
