"""Packages that programs may import: they are there, with what they need, and nothing else is."""

import os
import pathlib
import shutil

import pytest

from bstar_jax.config import UserError
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.isolation.packages import Packages, find_packages
from bstar_jax.isolation.sandbox import Limits

LIMITS = Limits(cpu_seconds=1, wall_seconds=60.0, memory_bytes=300 << 20)
SUM = "import numpy\nprint(int(numpy.sum([1, 2])))"
THREE = {"kind": "stdio", "inputs": [""], "outputs": ["3"]}


def needs_bubblewrap():
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")


@pytest.fixture(scope="module", params=[False, True], ids=["sandboxed", "unsafe"])
def verifier(request):
    if not request.param:
        needs_bubblewrap()
    with CodeVerifier(LIMITS, workers=1, packages="numpy", unsafe=request.param) as verifier:
        yield verifier


def asserts(*lines, setup=""):
    return {"kind": "asserts", "setup": setup, "asserts": list(lines)}


# --- What is found -------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes a package with these files, requirements and unlisted files, and finds it by name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    find_packages.cache_clear()

    def install(name, files, requires=(), unlisted=()):
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        for file in (*files, *unlisted, f"{info}/METADATA"):
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
        lines += [f"Requires-Dist: {line}" for line in requires]
        (tmp_path / info / "METADATA").write_text("\n".join(lines))
        listed = [*files, f"{info}/METADATA", f"{info}/RECORD", "../../bin/tool"]
        (tmp_path / info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))

    yield install
    find_packages.cache_clear()


def seen(packages):
    """All files that programs see, by their places."""
    found = set()
    for place, path in packages.files:
        files = pathlib.Path(path).rglob("*") if os.path.isdir(path) else [pathlib.Path(path)]
        inside = (os.path.relpath(file, path) for file in files if file.is_file())
        found |= {os.path.normpath(os.path.join(place, file)) for file in inside}
    return {file for file in found if ".dist-info" not in file}


def test_a_package_comes_with_what_it_needs_and_nothing_else(installed):
    installed(
        "one-a",
        ["one/__init__.py", "one/deep/x.py", "one.libs/lib.so", "shared/one.py", "both/one/y.py"],
        requires=["two>=1", "three; extra == 'more'", "absent; sys_platform == 'win32'"],
        unlisted=["one/__pycache__/__init__.cpython-311.pyc", "shared/notes.txt"],
    )
    installed("two", ["two.py", "both/two/z.py"], requires=["five[more]", "one-a"])
    installed("three", ["three.py"])
    installed("four", ["four.py", "shared/four.py", "both/four/__init__.py"])
    installed("five", ["five/__init__.py"], requires=["six-b; extra == 'more'"])
    installed("six-b", ["six_b.cpython-311-x86_64-linux-gnu.so"])
    packages = find_packages("one")
    assert packages.names == ("one",) and find_packages("one-a").names == ("one",)
    assert find_packages("six_b").names == ("six_b",)
    assert seen(packages) == {
        "one/__init__.py", "one/__pycache__/__init__.cpython-311.pyc", "one/deep/x.py",
        "one.libs/lib.so", "shared/one.py", "both/one/y.py", "two.py", "both/two/z.py",
        "five/__init__.py", "six_b.cpython-311-x86_64-linux-gnu.so",
    }  # fmt: skip
    assert {"one", "both/one", "shared/one.py"} <= {place for place, _ in packages.files}
    both = find_packages("three , four")
    assert both.names == ("three", "four")
    assert seen(both) == {"three.py", "four.py", "shared/four.py", "both/four/__init__.py"}


def test_a_folder_with_a_file_of_nobody_or_a_link_is_not_shown_whole(installed, tmp_path):
    files = ["one/__init__.py", "one/a.py"]
    compiled = "one/__pycache__/secret.cpython-311.pyc"
    installed("one", files, unlisted=[compiled])
    assert seen(find_packages("one")) == set(files)
    (tmp_path / compiled).unlink()
    find_packages.cache_clear()
    assert ("one", str(tmp_path / "one")) in find_packages("one").files
    (tmp_path / "one" / "link").symlink_to("/etc/passwd")
    find_packages.cache_clear()
    assert seen(find_packages("one")) == set(files)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("nope_at_all", "'nope_at_all', which is not installed for the interpreter .*pip install"),
        ("numpy,,scipy", "has ''; it holds names of installed packages between commas"),
        ("numpy,", "has ''; it holds names"),
        ("numpy scipy", "has 'numpy scipy'; it holds names"),
        ("../secret", "has '../secret'; it holds names"),
        ("/etc", "has '/etc'; it holds names"),
        ("-x", "has '-x'; it holds names"),
        ("numpy.linalg", "'numpy.linalg', which is not installed"),
        ("os", "has 'os', which is a part of Python that programs import anyway; drop it"),
        ("bstar_jax", "has 'bstar_jax', the grader itself, which no program may see; drop it"),
        ("BSTAR-JAX", "the grader itself"),
    ],
)
def test_names_that_are_refused(names, says):
    with pytest.raises(UserError, match=rf"rewards\.code\.packages .*{says}"):
        find_packages(names)


def test_a_package_that_lists_no_modules_is_refused(installed):
    installed("linked", ["__editable__.linked.pth"])
    with pytest.raises(UserError, match="'linked', which is installed without a list of its mod"):
        find_packages("linked")


def test_the_project_is_shown_to_no_program(installed):
    installed("mine", ["mine.py", "tests/__init__.py"], requires=["bstar-jax"])
    installed("bstar_jax", ["bstar_jax/secret.py"])
    assert seen(find_packages("mine")) == {"mine.py", "tests/__init__.py"}
    assert find_packages("mine").names == ("mine",)


def test_no_names_are_no_packages():
    assert find_packages("") == find_packages(" ") == Packages()


# --- In the sandbox -------------------------------------------------------------------------------


def test_a_program_uses_a_package(verifier):
    verdict = verifier.verify(THREE, SUM)
    assert verdict.passed, verdict


def test_other_packages_are_not_there(verifier):
    names = sorted({place.partition("/")[0] for place, _ in find_packages("numpy").files})
    program = "import os, sys\nprint(*sorted(os.listdir(sys.path[-1])))\nimport scipy"
    verdict = verifier.verify({"kind": "stdio", "inputs": [""], "outputs": [""]}, program)
    assert "No module named 'scipy'" in verdict.message
    program = program.removesuffix("import scipy")
    tests = {"kind": "stdio", "inputs": [""], "outputs": [" ".join(names)]}
    verdict = verifier.verify(tests, program)
    assert verdict.passed, verdict
    assert {name.partition("-")[0].partition(".")[0] for name in names} == {"numpy"}


def test_importing_takes_none_of_a_programs_time(verifier):
    """It is there before the program imports it, for programs that name it."""
    program = "import sys\nprint(2 + ('numpy' in sys.modules))\n"
    assert verifier.verify(THREE, f"{program}import numpy").passed
    assert not verifier.verify(THREE, program.replace("'numpy'", "'num' + 'py'")).passed


def test_chance_is_the_same_for_equal_programs(verifier):
    program = "import numpy as np\nprint(np.random.rand(), np.random.randint(10**9))"
    found = [verifier.verify(THREE, program).message for _ in range(2)]
    assert found[0] == found[1] and "it printed '0." in found[0]


def test_tests_use_a_package_too(verifier):
    program = (
        "import numpy as np\ndef half(x):\n    return np.array(x) / 2\n"
        "def total(x):\n    return np.sum(x)\ndef both(x):\n    return np.all(x), np.float32(0.5)"
    )
    lines = (
        "assert np.allclose(half([1, 2]), [0.5, 1.0])",
        "assert half([1, 2]).tolist() == [0.5, 1.0] and half([1]).shape == (1,)",
        "assert half([[1, 2], [3, 4]])[1][0] == 1.5 and np.asarray(half([[2]])).sum() == 1",
        "assert total([1, 2]) == 3 and type(total([1, 2])) is int and total([0.5]) == 0.5",
        "assert both([1, 0]) == (False, 0.5) and total([1j]) == 1j",
        "assert np.random.rand() != np.random.rand()",
    )
    verdict = verifier.verify(asserts(*lines, setup="import numpy as np"), program)
    assert verdict.passed, verdict
    calls = {
        "kind": "calls",
        "fn_name": "half",
        "inputs": [[[2, 4]], [5]],
        "outputs": [[1, 2], 2.5],
    }
    verdict = verifier.verify(calls, program)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", ["__array_interface__", "__array_struct__", "__array__"])
def test_an_object_cannot_point_into_the_memory_of_the_tests(verifier, name):
    """NumPy would read the memory that an object of the program's says is its own."""
    program = f"""
class Pointer:
    def __getattr__(self, name):
        if name != {name!r}:
            raise AttributeError(name)
        return {{"shape": (1,), "typestr": "<f8", "data": (4096, True), "version": 3}}
    def __len__(self):
        return 1
    def __getitem__(self, key):
        return 7.0
    def __iter__(self):
        return iter([7.0])
def f():
    return Pointer()
"""
    line = "assert np.allclose(f(), [{}])"
    setup = "import numpy as np"
    assert verifier.verify(asserts(line.format("7.0"), setup=setup), program).passed
    verdict = verifier.verify(asserts(line.format("8.0"), setup=setup), program)
    assert verdict.reason == "wrong", verdict


def test_a_package_cannot_be_written():
    needs_bubblewrap()
    program = (
        "import numpy, os\n"
        "places = [os.path.dirname(os.path.dirname(numpy.__file__)), numpy.__file__]\n"
        "print(1 + sum(os.statvfs(place).f_flag & os.ST_RDONLY for place in places))\n"
        "open(numpy.__file__, 'a')"
    )
    with CodeVerifier(LIMITS, workers=1, packages="numpy") as verifier:
        verdict = verifier.verify(THREE, program.rpartition("\n")[0])
        assert verdict.passed, verdict
        assert verifier.verify(THREE, program).reason == "error"


def test_without_the_setting_there_is_none():
    needs_bubblewrap()
    with CodeVerifier(LIMITS, workers=1) as verifier:
        assert "No module named 'numpy'" in verifier.verify(THREE, SUM).message


def test_a_package_that_needs_more_memory_is_noticed_at_the_start():
    needs_bubblewrap()
    with pytest.raises(UserError, match=r"'numpy', which .* Raise rewards\.code\.memory_mib above"):
        CodeVerifier(Limits(memory_bytes=64 << 20), workers=1, packages="numpy")
