"""Names follow the legends: an axis has one letter, and every letter is explained."""

import ast
import dataclasses
import pathlib
import re
from collections.abc import Iterator

import pytest

from tests import structure

# These rooms list all of their letters; the others add letters to those of the project.
LEGENDS_OF_THEIR_OWN = {"sampling", "kernels"}
ENDS_IN_AXES = re.compile(r"[a-z][a-z0-9_]*_([A-Z0-9]*[A-Z][A-Z0-9]*)")


@dataclasses.dataclass(frozen=True)
class Use:
    """Where letters of axes are used: in a name, or in the shape of an annotation."""

    path: str
    line: int
    name: str
    letters: frozenset[str]


def legend(docstring: str | None) -> dict[str, str]:
    """The letters that the paragraph "Axes ...: A meaning, B meaning." explains."""
    paragraphs = (docstring or "").split("\n\n")
    text = " ".join(part for part in paragraphs if re.match(r"Axes\b.*:", part, re.DOTALL))
    items = re.split("[,;] ", " ".join(text.split()).partition(": ")[2])
    found = [re.match(r"([A-Z]) ([a-z].*)", item) for item in items]
    return {match[1]: match[2] for match in found if match}


def uses(path: pathlib.Path) -> Iterator[Use]:
    """Finds the variables and arguments of a file that end in axes, and shapes in annotations."""
    for node in ast.walk(ast.parse(path.read_text())):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "arg", None)
        match = ENDS_IN_AXES.fullmatch(name or "")
        if match:
            yield Use(str(path), node.lineno, name, frozenset(re.findall("[A-Z]", match[1])))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            shape = node.slice.elts[-1]
            if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
                letters = frozenset(re.findall(r"\b[A-Z]\b", shape.value))
                yield Use(str(path), node.lineno, f'"{shape.value}"', letters)


def unexplained(package: pathlib.Path) -> list[str]:
    """Names with letters that neither the legend of the project nor that of their room explains."""
    project = legend(_docstring(package / "__init__.py"))
    wrong = []
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0]
        known = legend(_docstring(package / room / "__init__.py"))
        if room not in LEGENDS_OF_THEIR_OWN:
            known = project | known
        wrong += [
            f"{use.path}:{use.line}: {use.name} has {', '.join(sorted(use.letters - set(known)))}"
            for use in uses(path)
            if use.letters - set(known)
        ]
    return wrong


def _docstring(path: pathlib.Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text())) if path.exists() else None


def test_every_axis_is_in_a_legend():
    wrong = unexplained(structure.ROOT / structure.PACKAGE)
    assert not wrong, "letters without a meaning:\n" + "\n".join(wrong)


def test_no_room_gives_a_letter_of_the_project_another_meaning():
    package = structure.ROOT / structure.PACKAGE
    project = legend(_docstring(package / "__init__.py"))
    assert {"B", "Q", "N", "V"} <= set(project)
    for path in sorted(package.glob("*/__init__.py")):
        if path.parent.name not in LEGENDS_OF_THEIR_OWN:
            assert not set(project) & set(legend(_docstring(path))), path


def test_rooms_with_their_own_legends_have_one():
    for room in LEGENDS_OF_THEIR_OWN:
        path = structure.ROOT / structure.PACKAGE / room / "__init__.py"
        assert len(legend(_docstring(path))) > 10, path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def f(logits_BZ):\n    return 0\n", "logits_BZ"),
        ("x = 1\ny_Z2 = x\n", "y_Z2"),
        ("def f(*, y_QZ=0):\n    return 0\n", "y_QZ"),
        ('def f(x: Float[Array, "Q Z"]):\n    return 0\n', '"Q Z"'),
    ],
)
def test_a_letter_without_a_meaning_is_seen(tmp_path, text, name):
    (tmp_path / "room").mkdir()
    (tmp_path / "__init__.py").write_text('"""Words.\n\nAxes: B rows, Q queries.\n"""\n')
    (tmp_path / "room" / "__init__.py").write_text('"""Words.\n\nAxes of more: M tokens.\n"""\n')
    (tmp_path / "room" / "code.py").write_text("fine_BQ2 = fine_M = MOST_Z = 1\n")
    assert unexplained(tmp_path) == []
    (tmp_path / "room" / "code.py").write_text(text)
    (wrong,) = unexplained(tmp_path)
    line = 1 + text.splitlines().index(next(row for row in text.splitlines() if name in row))
    assert wrong == f"{tmp_path}/room/code.py:{line}: {name} has Z"
