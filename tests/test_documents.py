"""What documents point at is there, and so is the reason of a silenced check."""

import pathlib
import re

import pytest

from tests import structure

ROOT = structure.ROOT
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SOURCES = [path for path in structure.python_files() if path != pathlib.Path(__file__)]
# First parts of paths in a run directory, which docs/run_directory.md describes.
OF_A_RUN = {"RUN", "runs", "iterations", "partial", "checkpoints"}
FOLDERS = (ROOT, ROOT / structure.PACKAGE)

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_PATH = re.compile(r"(?:--config=)?((?:\w[\w-]*|\.\w+)(?:/[\w.-]+)+/?|\w[\w-]*/)(?::\w+)?")
_MODULE = re.compile(r"python -m ((?:bstar_jax|benchmarks|tests)(?:\.\w+)+)")
_SILENCED = re.compile(r"#\s*(?:noqa|type: ignore|pyright: ignore)\b(.*)")
_RULES = r"(?:: [A-Z]+\d+(?:, [A-Z]+\d+)*|\[[\w-]+(?:, [\w-]+)*\])"
_WITH_REASON = re.compile(_RULES + r"\s+(?:# |\()\S.*")


def anchors(text):
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document):
    """Relative links of a document that lead nowhere."""
    broken = []
    for link in _LINK.findall(document.read_text()):
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


def missing_paths(document):
    """Paths in backquotes, those of run directories aside, that are not there."""
    quoted = " ".join(_QUOTED.findall(document.read_text())).split()
    paths = [match[1] for match in map(_PATH.fullmatch, quoted) if match]
    folders = (*FOLDERS, document.parent)
    return [
        path
        for path in paths
        if path.partition("/")[0] not in OF_A_RUN
        and not re.fullmatch(r"\d+/\d+", path)
        and not any((folder / path).exists() for folder in folders)
    ]


def missing_modules(path):
    """Modules that a file runs with `python -m` and that cannot be run; NAME stands for any."""
    missing = []
    for module in _MODULE.findall(path.read_text()):
        place = ROOT.joinpath(*module.split("."))
        is_there = place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
        if not is_there and not re.search(r"\.[A-Z]", module):
            missing.append(module)
    return missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document):
    assert broken_links(document) == []
    assert missing_paths(document) == []


def test_every_command_names_a_module():
    ours = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
    missing = {path.name: missing_modules(path) for path in (*DOCUMENTS, *ours)}
    assert {name: modules for name, modules in missing.items() if modules} == {}


def test_every_silenced_check_says_which_and_why():
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (found := _SILENCED.search(line)) and not _WITH_REASON.fullmatch(found[1])
    ]
    assert bare == []


def test_the_finders_find(tmp_path):
    document = tmp_path / "a.md"
    (tmp_path / "b.md").write_text("# A `b` of C, and D\n")
    document.write_text(
        "[a](b.md) [b](b.md#a-b-of-c-and-d) [c](#nowhere) [d](c.md) [e](b.md#e) [f](https://x.y)\n"
        "`tests/nothing.py`, `configs/none.py:prm`, `kernels/`, `bash .ci/run`, `1/3`, `RUN/x`,\n"
        "`--config=configs/none.py` and `tests/structure.py`\n"
        "`python -m bstar_jax.nowhere`, python -m bstar_jax.main, python -m benchmarks.A.NAME\n"
    )
    assert broken_links(document) == ["#nowhere", "c.md", "b.md#e"]
    assert missing_paths(document) == ["tests/nothing.py", "configs/none.py", "configs/none.py"]
    assert missing_modules(document) == ["bstar_jax.nowhere"]
    for line, is_fine in (
        ("x = 1  # noqa: E501  (a table)", True),
        ("x = 1  # noqa: E501, B023  # a table", True),
        ("x = 1  # noqa: E501", False),
        ("x = 1  # noqa", False),
        ("x = f()  # pyright: ignore[reportCallIssue]  # documented", True),
        ("x = f()  # type: ignore", False),
    ):
        assert bool(_WITH_REASON.fullmatch(_SILENCED.search(line)[1])) == is_fine, line
