"""The shape of the code is a law too: one direction of imports, small files, short functions."""

import pathlib
import subprocess
import sys

import pytest

from tests import structure

MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 80
# Path, or path and function -> why it is larger than the rule.
LARGER_WITH_REASON: dict[str, str] = {}

JAX_AND_ITS_USERS = {"jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping"}
JUNK_DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc"}


def test_rooms_import_only_rooms_before_them():
    wrong = [
        f"{link.path}:{link.line}: {link.importer} imports {link.imported}, which comes after it"
        for link in structure.imports()
        if not link.is_allowed()
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_without_jax_import_none_in_any_file():
    rooms = set(structure.WITHOUT_JAX)
    assert rooms <= set(structure.ROOMS)
    for room in rooms:
        assert not structure.external_imports(room) & JAX_AND_ITS_USERS, room
    wrong = [
        f"{link.path}:{link.line}: {link.importer} imports {link.imported}"
        for link in structure.imports()
        if link.importer in rooms and link.imported not in rooms
    ]
    assert not wrong, "these rooms do without JAX:\n" + "\n".join(wrong)


def test_rooms_without_jax_load_none():
    """As a worker or the door `grade` does: every module of these rooms, in a fresh process."""
    package = structure.ROOT / structure.PACKAGE
    names = [
        ".".join(path.relative_to(structure.ROOT).with_suffix("").parts)
        for path in structure.python_files()
        if path.is_relative_to(package)
        and pathlib.Path(path.relative_to(package).parts[0]).stem in structure.WITHOUT_JAX
    ]
    program = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        f"print(*sorted({JAX_AND_ITS_USERS!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=structure.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_every_module_belongs_to_a_room():
    known = {*structure.ROOMS, *structure.DOORS, "__init__"}
    package = structure.ROOT / structure.PACKAGE
    found = {path.relative_to(package).parts[0] for path in package.rglob("*.py")}
    strays = {name for name in found if pathlib.Path(name).stem not in known}
    assert not strays, f"give them a place in structure.ROOMS: {sorted(strays)}"


def test_files_stay_small():
    large = {
        path: lines
        for path, lines in structure.file_lines().items()
        if lines > MOST_LINES_OF_A_FILE and path not in LARGER_WITH_REASON
    }
    assert not large, f"above {MOST_LINES_OF_A_FILE} lines: {large}"


def test_functions_stay_short():
    long = [
        f"{function.path}:{function.line} {function.name}: {function.lines} lines"
        for function in structure.functions()
        if function.lines > MOST_LINES_OF_A_FUNCTION
        and f"{function.path} {function.name}" not in LARGER_WITH_REASON
    ]
    assert not long, f"above {MOST_LINES_OF_A_FUNCTION} lines: {long}"


def test_reasons_for_size_are_still_needed():
    sizes = structure.file_lines() | {
        f"{function.path} {function.name}": function.lines for function in structure.functions()
    }
    for name in LARGER_WITH_REASON:
        most = MOST_LINES_OF_A_FUNCTION if " " in name else MOST_LINES_OF_A_FILE
        assert sizes.get(name, 0) > most, f"{name} fits now: take it off the list"


def test_every_module_has_a_noun_for_a_name():
    drawers = [
        path
        for path in structure.file_lines()
        if JUNK_DRAWERS & set(pathlib.Path(path).with_suffix("").parts)
    ]
    assert not drawers, f"a helper lives beside its caller: {drawers}"


def test_no_error_is_swallowed():
    assert not structure.swallowed_errors(), (
        "name the exception and do something about it; where doing nothing is right, "
        "contextlib.suppress says so"
    )


@pytest.mark.parametrize(
    ("path", "text", "imported"),
    [
        ("metrics.py", "import bstar_jax.iterate\n", "iterate"),
        ("metrics.py", "from bstar_jax import __version__, iterate\n", "iterate"),
        ("metrics.py", "from bstar_jax.iterate import run\n", "iterate"),
        ("metrics.py", "from . import iterate\n", "iterate"),
        ("metrics.py", "def late():\n    from .iterate import run\n", "iterate"),
        ("kernels/__init__.py", "from ..iterate import run\n", "iterate"),
        ("kernels/noise.py", "from .. import iterate\n", "iterate"),
        ("kernels/noise.py", "from bstar_jax.main import main\n", "doors"),
        ("iterate.py", "import importlib\nimportlib.import_module('bstar_jax.main')\n", "doors"),
    ],
)
def test_an_import_against_the_direction_is_seen(tmp_path, path, text, imported):
    for name in ("__init__.py", "iterate.py", "main.py", "kernels/__init__.py", path):
        file = tmp_path / "bstar_jax" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "bstar_jax" / path).write_text(text)
    (link,) = structure.imports(tmp_path)
    assert not link.is_allowed()
    assert link.imported == imported and link.path == f"bstar_jax/{path}"
    assert "iterate" in text.splitlines()[link.line - 1] or imported == "doors"


def test_an_import_in_the_direction_or_inside_a_room_is_fine(tmp_path):
    package = tmp_path / "bstar_jax"
    (package / "kernels").mkdir(parents=True)
    for name in ("__init__", "records", "metrics", "kernels/__init__", "kernels/noise"):
        (package / f"{name}.py").touch()
    (package / "kernels" / "xla.py").write_text(
        "import numpy\nfrom bstar_jax import __version__\nfrom . import noise\n"
        "from bstar_jax.kernels import noise\nfrom ..records import Query\n"
        "from bstar_jax import metrics\n"
    )
    links = structure.imports(tmp_path)
    assert [link.imported for link in links] == ["records", "metrics"]
    assert all(link.is_allowed() for link in links)


def test_swallowed_errors_and_sizes_are_seen(tmp_path):
    (tmp_path / "code.py").write_text(
        "try:\n    x = 1\nexcept ValueError:\n    pass\n"
        "try:\n    x = 1\nexcept:\n    x = 2\n"
        "try:\n    x = 1\nexcept ValueError:\n    x = 2\n"
        "def f():\n    x = 1\n    return x\n"
    )
    assert structure.swallowed_errors(tmp_path) == ["code.py:3", "code.py:7"]
    assert structure.file_lines(tmp_path) == {"code.py": 15}
    assert [function.lines for function in structure.functions(tmp_path)] == [3]


def test_assertions_are_counted_wherever_they_stand(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_code.py").write_text(
        "def test_a():\n    assert x\n    np.testing.assert_allclose(a, b)\n"
        "    with pytest.raises(E):\n        jax.tree.map(np.testing.assert_array_equal, a, b)\n"
    )
    (tmp_path / "code.py").write_text("assert x\n")
    assert structure.assertions(tmp_path) == {"tests/test_code.py": 4}


@pytest.mark.slow
def test_the_table_prints():
    done = subprocess.run(
        [sys.executable, "-m", "tests.structure"],
        cwd=structure.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "process_reward" in done.stdout and "longest function" in done.stdout
