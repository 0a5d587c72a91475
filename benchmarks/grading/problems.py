"""Published programming problems, and mutants of their reference programs; used by `sandbox`."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Collection, Iterable
from typing import Any

from bstar_jax import tasks
from bstar_jax.grading.code.submissions import written
from bstar_jax.records import Query

# Kinds of mutants, and the reasons for which each may fail.
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
BARE_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """A published problem.

    Attributes:
      name: Data set and id.
      tests: Its tests, as the grader takes them.
      response: The reference program as a response.
      reference: The reference program.
      mutants: Responses that must fail, by kind.
    """

    name: str
    tests: dict[str, Any]
    response: str
    reference: str
    mutants: dict[str, str]


def read(folder: pathlib.Path) -> list[Problem]:
    """The problems as their tasks read them, with their human solutions."""
    problems = []
    for name, make in (("mbpp", mbpp), ("humaneval", humaneval)):
        file = folder / f"{name}_part.jsonl"
        if file.is_file():
            task = tasks.load(
                name, str(file), seed=0, sft_examples=0, calibration_queries=0, heldout_queries=0
            )
            problems += map(make, task.splits["train"])
    return problems


def mbpp(query: Query) -> Problem:
    """A problem of MBPP: mutants define the functions that the tests call once more."""
    tests: Any = query.fields["tests"]
    code = query.reference
    asserts = "\n".join(tests["asserts"])
    called = {node.id for node in ast.walk(ast.parse(asserts)) if isinstance(node, ast.Name)}
    names = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
    mutants = {}
    for kind, body in BODIES.items():
        definitions = [f"def {name}(*given):\n    {body}\n" for name in sorted(names & called)]
        mutants[kind] = "\n".join([code, "", *definitions])
    mutants["off by one"] = off_by_one(code, names & called)
    mutants = {kind: f"```python\n{program}\n```" for kind, program in mutants.items()}
    return Problem(f"MBPP/{query.query_id}", tests, query.solution, code, mutants)


def humaneval(query: Query) -> Problem:
    """A problem of HumanEval: mutants complete the prompt."""
    tests: Any = query.fields["tests"]
    mutants = {kind: f"    {body}\n" for kind, body in BODIES.items()}
    program = off_by_one(tests["prompt"] + query.solution, {tests["entry_point"]})
    mutants["off by one"] = f"```python\n{program}\n```"
    return Problem(query.query_id, tests, query.solution, query.reference, mutants)


def off_by_one(code: str, names: Collection[str]) -> str:
    """The program with a number, comparison or sum in one of its functions changed, or a result."""
    tree = ast.parse(code)
    bodies = [node for node in tree.body if getattr(node, "name", None) in names]
    nodes = [node for body in bodies for node in ast.walk(body)]
    if _changed(nodes):
        return ast.unparse(tree)
    return "\n".join([code, OFF_BY_ONE, *(f"{name} = _shifted({name})\n" for name in names)])


def _changed(nodes: Iterable[ast.AST]) -> bool:
    """Changes the first number, or else the first comparison or sum; False where there is none."""
    nodes = list(nodes)
    for node in nodes:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
            return True
    for node in nodes:
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
            node.ops[0] = OPPOSITE[type(node.ops[0])]()
            return True
        if isinstance(node, ast.BinOp) and type(node.op) in OPPOSITE:
            node.op = OPPOSITE[type(node.op)]()
            return True
    return False


def passes_bare(problem: Problem, response: str) -> bool:
    """Whether a program passes its tests in a bare interpreter, in one namespace with them."""
    tests = problem.tests
    program = written(response)[0]
    if tests["kind"] == "asserts":
        parts = [program, tests["setup"], *tests["asserts"]]
    else:
        stub = f"{tests['prompt']}    pass\n"
        parts = [stub, program, tests["test"], f"check({tests['entry_point']})"]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-"], input="\n".join(parts).encode(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=BARE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
