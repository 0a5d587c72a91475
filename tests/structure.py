"""How the code hangs together: who imports whom, how large files and functions are.

    python -m tests.structure

prints the rooms with what each of them imports, the largest file and the longest function, and how
much the tests assert.
`test_structure` holds the rules over the same findings.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "bstar_jax"

# A room imports only rooms before it. The doors are one room: nothing imports them.
ROOMS = (
    "config console tokenizer records isolation answers grading tasks processes metrics sharding "
    "balance kernels model training hub sampling run process_reward hlo planning report phases "
    "iterate doors"
).split()
# Rooms that import no JAX, not even through another: what imports only these starts at once.
WITHOUT_JAX = "config console tokenizer records isolation answers grading tasks".split()
DOORS = "__main__ command main data evaluate grade export replay plan doctor".split()


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of a room by a room.

    Attributes:
      path: File that imports, relative to the root.
      line: Line of the import, from 1.
      importer: Room of that file.
      imported: Room that it imports.
    """

    path: str
    line: int
    importer: str
    imported: str

    def is_allowed(self) -> bool:
        """Whether the imported room comes before the importing one, or is the same."""
        if not {self.importer, self.imported} <= set(ROOMS):
            return True  # `test_every_module_belongs_to_a_room` asks for its place
        return ROOMS.index(self.imported) <= ROOMS.index(self.importer)


@dataclasses.dataclass(frozen=True)
class Function:
    """Where a function stands and how many lines it takes, its docstring included."""

    path: str
    name: str
    line: int
    lines: int


def python_files(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """All Python files of the project, hidden folders and the virtual environment left out."""
    found = []
    for folder, folders, names in os.walk(root):
        is_environment = "pyvenv.cfg" in names
        folders[:] = [
            name
            for name in folders
            if not (is_environment or name.startswith(".") or name in ("build", "runs"))
        ]
        if not is_environment:
            names = [name for name in names if name.endswith(".py") and not name.startswith(".")]
            found += [pathlib.Path(folder, name) for name in names]
    return sorted(found)


def imports(root: pathlib.Path = ROOT) -> list[Import]:
    """All imports between rooms, those inside functions and by `import_module` included."""
    found = []
    for path in python_files(root):
        name = path.relative_to(root).as_posix()
        if not name.startswith(f"{PACKAGE}/"):
            continue
        importer = _room(_module(path.relative_to(root)))
        for line, module in _imported_modules(path, root):
            imported = _room(module)
            if imported and imported != importer:
                found.append(Import(name, line, importer, imported))
    return found


def external_imports(room: str, root: pathlib.Path = ROOT) -> set[str]:
    """Names of the packages that the files of a room import, this one aside."""
    return {
        module[0]
        for path in python_files(root)
        if path.relative_to(root).parts[0] == PACKAGE
        and _room(_module(path.relative_to(root))) == room
        for _, module in _imported_modules(path, root)
        if module[0] != PACKAGE
    }


def functions(root: pathlib.Path = ROOT) -> list[Function]:
    """All functions and methods of the project."""
    return [
        Function(
            path.relative_to(root).as_posix(), node.name, node.lineno,
            node.end_lineno - node.lineno + 1,
        )
        for path in python_files(root)
        for node in ast.walk(_parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]  # fmt: skip


def public_classes(root: pathlib.Path = ROOT) -> list[tuple[str, str]]:
    """(path, name) of every public class of the package."""
    return [
        (path.relative_to(root).as_posix(), node.name)
        for path in python_files(root / PACKAGE)
        for node in _parse(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def file_lines(root: pathlib.Path = ROOT) -> dict[str, int]:
    """Number of lines of every Python file."""
    return {
        path.relative_to(root).as_posix(): len(path.read_text().splitlines())
        for path in python_files(root)
    }


def swallowed_errors(root: pathlib.Path = ROOT) -> list[str]:
    """Handlers that catch anything at all, or do nothing with what they caught."""
    return [
        f"{path.relative_to(root).as_posix()}:{node.lineno}"
        for path in python_files(root)
        for node in ast.walk(_parse(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or all(_does_nothing(statement) for statement in node.body))
    ]


def assertions(root: pathlib.Path = ROOT) -> dict[str, int]:
    """How often each file of the tests asserts: `assert`, `raises`, and calls of `assert_...`."""
    return {
        path.relative_to(root).as_posix(): sum(map(_asserts, ast.walk(_parse(path))))
        for path in python_files(root)
        if path.relative_to(root).parts[0] == "tests"
    }


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    # Passed to jax.tree.map, an assertion is a name and no call.
    name = getattr(node, "attr", getattr(node, "id", ""))
    return isinstance(node, (ast.Attribute, ast.Name)) and (
        name.startswith("assert_") or name == "raises"
    )


def _does_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or is_constant


def _parse(path: pathlib.Path) -> ast.Module:
    return _parsed(path, path.stat().st_mtime_ns)


@functools.cache
def _parsed(path: pathlib.Path, written: int) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _module(path: pathlib.Path) -> tuple[str, ...]:
    """bstar_jax/kernels/noise.py -> ("bstar_jax", "kernels", "noise")."""
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _room(module: tuple[str, ...]) -> str:
    """Room of a module; "" for another package and for the root of this one."""
    if len(module) < 2 or module[0] != PACKAGE:
        return ""
    return "doors" if module[1] in DOORS else module[1]


def _imported_modules(
    path: pathlib.Path, root: pathlib.Path
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, module) of every import in the file, relative ones made absolute."""
    is_package = path.name == "__init__.py"
    here = _module(path.relative_to(root))
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            for alias in node.names:
                if base != (PACKAGE,) or _is_module(root / PACKAGE / alias.name):
                    yield node.lineno, (*base, alias.name)
        elif isinstance(node, ast.Call) and _is_dynamic_import(node):
            yield node.lineno, tuple(node.args[0].value.split("."))


def _is_module(path: pathlib.Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").exists()


def _is_dynamic_import(node: ast.Call) -> bool:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name not in ("import_module", "__import__") or not node.args:
        return False
    return isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)


def main() -> None:
    """Prints the import table, the largest file, the longest function and the assertions."""
    lines = {name: count for name, count in file_lines().items() if name.startswith(PACKAGE)}
    links = imports()
    print(f"{'room':<12}{'lines':>6}  imports")
    for room in ROOMS:
        size = sum(n for name, n in lines.items() if _room(_module(pathlib.Path(name))) == room)
        if size:
            used = {link.imported for link in links if link.importer == room}
            print(f"{room:<12}{size:>6}  {' '.join(sorted(used, key=ROOMS.index)) or '-'}")
    name, size = max(lines.items(), key=lambda item: item[1])
    print(f"\nlargest file      {size:>4} lines  {name}")
    inside = [function for function in functions() if function.path.startswith(PACKAGE)]
    longest = max(inside, key=lambda function: function.lines)
    where = f"{longest.path}:{longest.line} {longest.name}"
    print(f"longest function  {longest.lines:>4} lines  {where}")
    print(f"assertions        {sum(assertions().values()):>4} places in tests/")


if __name__ == "__main__":
    main()
