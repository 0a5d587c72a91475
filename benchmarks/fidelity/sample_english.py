"""Shows docstrings, settings and error messages before and after an edit, chosen by a seed.

    python -m benchmarks.fidelity.sample_english --before=a8db4ef --after=HEAD > english.md
    python -m benchmarks.fidelity.sample_english --before=... --after=... --renames=renames.txt

Takes, of each of the three kinds, --each texts at random from the package at revision --before, and
finds the same object at --after: by its name, after the renames; else by its name in another place;
else the most similar text of its kind. Left out are sampling/ and kernels/. A line of the file of
renames is OLD NEW, two names such as `Learner TrainingJob` or `Learner.objective TrainingJob.loss`.
Prints a table in Markdown; the last column says how the object was found. The same seed and
revisions give the same table.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import difflib
import pathlib
import random
import subprocess
from collections.abc import Iterator

from benchmarks import figures

PACKAGE = "bstar_jax"
LEFT_OUT = ("sampling", "kernels")
KINDS = ("docstring", "setting", "error")
LEAST_ALIKE = 0.5
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True, order=True)
class Text:
    """A text that people read.

    Attributes:
      kind: One of `KINDS`.
      name: Of the object that it belongs to, such as `Checked.prefix`; of a module its path.
      place: Which of the texts of this kind and name in its file it is, from 0.
      file: Path in the package.
      text: As it stands; of an error with the expressions in braces that fill it.
    """

    kind: str
    name: str
    place: int
    file: str
    text: str


def texts(revision: str) -> list[Text]:
    """Every public docstring, setting and error message of the package at a revision, sorted."""
    listed = _git("ls-tree", "-r", "--name-only", revision, f"{PACKAGE}/").splitlines()
    found = []
    for path in listed:
        inside = path.removeprefix(f"{PACKAGE}/")
        if inside.endswith(".py") and inside.partition("/")[0] not in LEFT_OUT:
            tree = ast.parse(_git("show", f"{revision}:{path}"))
            found += _numbered(inside, _texts_of(tree, inside))
    return sorted(found)


def _git(*words: str) -> str:
    root = pathlib.Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _numbered(file: str, found: Iterator[tuple[str, str, str]]) -> list[Text]:
    counts = collections.Counter[tuple[str, str]]()
    numbered = []
    for kind, name, text in found:
        numbered.append(Text(kind, name, counts[kind, name], file, text))
        counts[kind, name] += 1
    return numbered


def _texts_of(tree: ast.Module, file: str) -> Iterator[tuple[str, str, str]]:
    """(kind, name, text) of everything in a module."""
    if doc := ast.get_docstring(tree):
        yield "docstring", file, doc
    yield from _inside(tree, (), is_public=True)


def _inside(
    node: ast.AST, path: tuple[str, ...], *, is_public: bool
) -> Iterator[tuple[str, str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = (*path, child.name)
            is_shown = is_public and not child.name.startswith("_")
            doc = ast.get_docstring(child)
            if doc and is_shown:
                yield "docstring", ".".join(name), doc
            yield from _inside(child, name, is_public=is_shown)
            continue
        if isinstance(child, ast.Call) and _called(child) == "setting":
            words = [text for part in _arguments(child) if (text := _string(part))]
            if words:
                yield "setting", ".".join(path), " | ".join(words)
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and child.exc.args:
            text = _string(child.exc.args[0])
            if text:
                yield "error", ".".join(path), text
        yield from _inside(child, (*path, *_field(child)), is_public=is_public)


def _field(node: ast.AST) -> tuple[str, ...]:
    """The name of the field that a node declares; () where it declares none."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return (node.target.id,)
    return ()


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _arguments(call: ast.Call) -> list[ast.expr]:
    """The arguments of a setting that are text for people: not its default, not its choices."""
    named = [each.value for each in call.keywords if each.arg in ("doc", "unit", "when")]
    return [*call.args[1:], *named]


def _string(node: ast.expr) -> str | None:
    """The text of a string, of a formatted one with what fills it; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_part, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_string(side) or f"{{{ast.unparse(side)}}}" for side in (node.left, node.right)]
        is_text = any(_string(side) for side in (node.left, node.right))
        return "".join(sides) if is_text else None
    return None


def _part(node: ast.expr) -> str:
    """A part of a formatted string: its text, or the expression in braces."""
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return str(ast.literal_eval(node))


def find(text: Text, after: list[Text], renames: dict[str, str]) -> tuple[Text | None, str]:
    """The same object at another revision, and how it was found."""
    same_kind = [one for one in after if one.kind == text.kind]
    new_name = _renamed(text.name, renames)
    for how, name in (
        ("renamed" if new_name != text.name else "name", new_name),
        ("name", text.name),
    ):
        named = [one for one in same_kind if one.name == name]
        if named:
            return max(named, key=lambda one: (one.file == text.file, _alike(one, text))), how
    last = [one for one in same_kind if one.name.split(".")[-1] == new_name.split(".")[-1]]
    best = max(last or same_kind, key=lambda one: _alike(one, text), default=None)
    if best is None or (not last and _alike(best, text) < LEAST_ALIKE):
        return None, "not found"
    return best, f"most similar text, of {best.name}"


def _renamed(name: str, renames: dict[str, str]) -> str:
    """A dotted name after the longest rename of its beginning, or of its last part."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        beginning = ".".join(parts[:count])
        if beginning in renames:
            return ".".join([renames[beginning], *parts[count:]])
    return ".".join([*parts[:-1], renames.get(parts[-1], parts[-1])])


def _alike(one: Text, other: Text) -> float:
    return difflib.SequenceMatcher(None, one.text, other.text, autojunk=False).ratio()


def table(chosen: list[Text], after: list[Text], renames: dict[str, str]) -> str:
    """The chosen texts before and after, in Markdown."""
    lines = ["| | kind | of | before | after | found by |", "|---|---|---|---|---|---|"]
    for number, text in enumerate(chosen, 1):
        found, how = find(text, after, renames)
        shown = "*unchanged*" if found and found.text == text.text else _cell(found)
        name = f"`{text.name}` ({text.file})"
        lines.append(f"| {number} | {text.kind} | {name} | {_cell(text)} | {shown} | {how} |")
    return "\n".join(lines)


def _cell(text: Text | None) -> str:
    if text is None:
        return "-"
    return text.text.strip().replace("|", "\\|").replace("\n", "<br>")


def main() -> None:
    parser = figures.parser_of(__doc__)
    parser.add_argument("--before", required=True, metavar="REVISION")
    parser.add_argument("--after", default="HEAD", metavar="REVISION")
    parser.add_argument("--renames", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=10, help="texts of each kind")
    arguments = parser.parse_args()
    renames = {}
    if arguments.renames:
        lines = arguments.renames.read_text().splitlines()
        renames = dict(line.split() for line in lines if line.strip())
    rng, before = random.Random(arguments.seed), texts(arguments.before)
    chosen = []
    for kind in KINDS:
        there = [text for text in before if text.kind == kind]
        chosen += sorted(rng.sample(there, min(arguments.each, len(there))))
    print(table(chosen, texts(arguments.after), renames))


if __name__ == "__main__":
    main()
