"""Test plans: what the harness of the sandbox is told to do with a submission.

`tests` is the field of a query of that name; `tasks.task` lists its four kinds.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from bstar_jax.config import UserError
from bstar_jax.grading.code.submissions import continuations, prelude, stub, written

_BUILTINS = frozenset(dir(builtins))


@dataclasses.dataclass(frozen=True)
class TestPlan:
    """The commands that the harness executes, methods of `inside.harness.Harness`.

    Attributes:
      before: Commands that must succeed before any test.
      tests: One command for each test.
      outputs: What each test must print; () if the harness itself compares.
    """

    before: tuple[tuple, ...]
    tests: tuple[tuple, ...]
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("there are no tests, which every program would pass")


def plan_tests(
    tests: Mapping[str, Any], response: str, reference: str = "", *, tolerance: float = 0.0
) -> TestPlan | None:
    """Plans how a response is tested; None if there is no program in it.

    Args:
      tests: What `tasks.task` describes.
      response: The response.
      reference: A program that passes the tests; "" if none is known. It tells which names in the
        asserts are for the program to define: `sum` may be one of them.
      tolerance: The largest relative difference of floats that are equal in results of calls.

    Raises:
      UserError: If the tests are not Python.
    """
    kind, sources = tests["kind"], written(response)
    if not sources:
        return None
    if kind == "check":
        return _check_plan(tests, sources)
    imports = prelude("\n".join(sources)) if kind in ("calls", "stdio") else ""
    if kind == "asserts":
        asserts = tuple(tests["asserts"])
        helpers, names = _borrowed(tests["setup"], asserts, reference)
        before = (("load", sources, imports), ("prepare", helpers, names, tests["setup"]))
        return TestPlan(before, tuple(("test", text) for text in asserts))
    if kind == "calls":
        before = (("load", sources, imports),)
        pairs = zip(tests["inputs"], tests["outputs"], strict=True)
        name = tests["fn_name"]
        calls = (
            ("call", name, _with_number_keys(given), wanted, tolerance) for given, wanted in pairs
        )
        return TestPlan(before, tuple(calls))
    if kind == "stdio":
        runs = (("run", sources, imports, text) for text in tests["inputs"])
        return TestPlan((), tuple(runs), tuple(tests["outputs"]))
    raise ValueError(f"tests are asserts, check, calls or stdio, not {kind!r}")


def _with_number_keys(arguments: list) -> list:
    """Restores the number keys of dicts in arguments: JSON has only texts as keys."""

    def restored(value: object) -> object:
        if not isinstance(value, dict) or not value:
            return value
        is_numbers = all(re.fullmatch(r"-?\d{1,18}", key, re.ASCII) for key in value)
        return {int(key): item for key, item in value.items()} if is_numbers else value

    return [restored(value) for value in arguments]


# --- What the tests take from the program, and what they have of their own ---------------------


def _check_plan(tests: Mapping[str, Any], texts: tuple[str, ...]) -> TestPlan:
    prompt, test, entry_point = (tests[name] for name in ("prompt", "test", "entry_point"))
    sources = sum((continuations(prompt, text, entry_point) for text in texts), ())
    helpers = _helpers(prompt, test, entry_point)
    before = (("load", sources, ""), ("prepare", helpers, (entry_point,), test))
    return TestPlan(before, (("test", f"check({entry_point})"),))


@functools.lru_cache(maxsize=4096)
def _helpers(prompt: str, test: str, entry_point: str) -> str:
    """Returns what a prompt defines besides its function, if the test uses any of it.

    The test uses the prompt's own definitions, so no program can replace them.
    """
    body = [
        node
        for node in _parsed(stub(prompt), "prompt").body
        if getattr(node, "name", None) != entry_point
    ]
    used = _free_names(_parsed(test, "test"))
    return _unparsed(body) if used & set().union(*map(_bound, body)) else ""


@functools.lru_cache(maxsize=4096)
def _borrowed(setup: str, asserts: tuple[str, ...], reference: str) -> tuple[str, tuple[str, ...]]:
    """Finds the imports that the asserts need, and the names that they take from the program.

    A name is the program's if nothing else defines it. A builtin name is the program's only if the
    reference defines it: otherwise a program could bring its own `set` and make all sets equal.
    Modules are never the program's.

    Example: "assert math.isclose(f(2), 4.0)" -> ("import math", ("f",))
    """
    tree = _parsed("\n".join((setup, *asserts)), "asserts")
    free = _free_names(tree)
    known = _parsed(reference, "reference", is_needed=False).body
    imports = [node for node in known if isinstance(node, (ast.Import, ast.ImportFrom))]
    defined = set().union(*(_bound(node) for node in known if node not in imports))
    imports = [node for node in imports if (_bound(node) - defined) & free]
    imported = set().union(*map(_bound, imports)) - defined
    modules = (_module_names(tree) & free) - defined - imported
    names = {name for name in free - imported - modules if name in defined or name not in _BUILTINS}
    lines = [_unparsed(imports), *(f"import {name}" for name in sorted(modules))]
    return "\n".join(filter(None, lines)), tuple(sorted(names))


def _parsed(text: str, what: str, is_needed: bool = True) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d" and the like in published texts
            return ast.parse(text)
    except (SyntaxError, ValueError) as error:  # the latter about null characters
        if not is_needed:
            return ast.Module([], [])
        raise UserError(f"the {what} of a query is no Python ({error}): {text[:200]!r}") from error


def _unparsed(nodes: Sequence[ast.stmt]) -> str:
    return ast.unparse(ast.Module(list(nodes), []))


def _free_names(tree: ast.Module) -> set[str]:
    loaded = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return loaded - set().union(*map(_bound, ast.walk(tree)))


def _bound(node: ast.AST) -> set[str]:
    """Returns the names that a node itself binds, including those of an assignment's targets."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.arg):
        return {node.arg}
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return set().union(*(_bound(part) for target in targets for part in ast.walk(target)))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return {node.id}
    return set()


def _module_names(tree: ast.Module) -> set[str]:
    """Returns names of standard modules whose attributes are read (`math.pi`), never called."""
    looked_into = {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return (looked_into - called) & sys.stdlib_module_names
