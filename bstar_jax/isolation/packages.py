"""Packages that programs in a sandbox may import: which files they are, and what they need.

A package is found among those of this interpreter, by its own name (`scikit-learn`) or by the name
that programs import (`sklearn`). With it come the packages that it requires, and of all these only
the files that their installer listed. So a folder that belongs to several packages is not shown
as a whole.

Source: the core metadata of Python packages, `Requires-Dist`; the recording of installed projects.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import re
import sys
from collections.abc import Iterator

from bstar_jax.config import UserError

_PROJECT = __name__.partition(".")[0]
_SETTING = "rewards.code.packages"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?", re.ASCII)
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_FOLDER = re.compile(r"([A-Za-z]\w*)/__init__\.py", re.ASCII)
_MODULE = re.compile(r"([A-Za-z]\w*)(?:\.py|\.[\w.-]+\.so|\.so)", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Packages:
    """Packages that programs may import.

    Attributes:
      names: The names by which programs import them.
      files: What is shown of them and of what they need: files and whole folders, each as its
        place in the folder of packages and its path on this machine.
    """

    names: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()

    def link(self, folder: str) -> None:
        """Makes a folder of links to the files."""
        for place, path in self.files:
            link = pathlib.Path(folder, place)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)


@functools.cache
def find_packages(names: str) -> Packages:
    """Finds packages of this interpreter, with all that they need.

    Args:
      names: Names between commas; "" for no packages.

    Raises:
      UserError: If one is not a package that can be shown to programs.

    Example: "numpy" -> names ("numpy",), files ("numpy", ".../site-packages/numpy"),
      ("numpy.libs", ...), ("numpy-2.4.6.dist-info", ...)
    """
    imported: dict[str, None] = {}
    needed: dict[str, importlib.metadata.Distribution] = {}
    for name in map(str.strip, names.split(",")) if names.strip() else ():
        for distribution in _distributions(name):
            imported.update(dict.fromkeys(_import_names(distribution, name)))
            _collect(distribution, frozenset(), needed)
    owned: dict[str, set[str]] = {}
    for distribution in needed.values():
        files = (os.path.normpath(file) for file in distribution.files or ())
        inside = {file for file in files if not file.startswith("..") and not os.path.isabs(file)}
        root = os.path.normpath(str(distribution.locate_file("")))
        owned.setdefault(root, set()).update(inside)
    shown = {place: path for root, files in owned.items() for place, path in _shown(root, files)}
    return Packages(tuple(imported), tuple(sorted(shown.items())))


def _distributions(name: str) -> list[importlib.metadata.Distribution]:
    """Finds what is installed under a name, its own or that of an import."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{_SETTING} has {name!r}; it holds names of installed packages between commas, such "
            "as numpy,scipy: write the name that programs import"
        )
    if name in sys.stdlib_module_names:
        raise UserError(
            f"{_SETTING} has {name!r}, which is a part of Python that programs import anyway; "
            "drop it"
        )
    if _as_import(name) == _PROJECT:
        raise UserError(
            f"{_SETTING} has {name!r}, the grader itself, which no program may see; drop it"
        )
    try:
        return [importlib.metadata.distribution(name)]
    except importlib.metadata.PackageNotFoundError:
        owners = importlib.metadata.packages_distributions().get(name, ())
    if not owners:
        raise UserError(
            f"{_SETTING} has {name!r}, which is not installed for the interpreter "
            f"{sys.executable}; install it there (pip install), or drop it"
        )
    return [importlib.metadata.distribution(owner) for owner in sorted(set(owners))]


def _import_names(distribution: importlib.metadata.Distribution, name: str) -> list[str]:
    """Lists the names by which what was asked for is imported; () for parts of a shared name."""
    files = {os.path.normpath(file) for file in distribution.files or ()}
    folders = {match[1] for match in map(_FOLDER.fullmatch, files) if match}
    modules = {match[1] for match in map(_MODULE.fullmatch, files) if match}
    is_code = any(file.endswith((".py", ".so")) and "/" in file for file in files)
    if not (folders or modules or is_code) or any("__editable__" in file for file in files):
        raise UserError(
            f"{_SETTING} has {name!r}, which is installed without a list of its modules (as a link "
            "to its source, or by the system); install it with pip, without -e, or drop it"
        )
    found = sorted(folders | modules)
    own = [each for each in found if each.lower() == _as_import(name)]
    return own or [each for each in found if each != "tests"]


def _as_import(name: str) -> str:
    """Writes a name as that of an import, which has no hyphens: scikit-learn -> scikit_learn."""
    return re.sub("[.-]", "_", name.lower())


def _collect(
    distribution: importlib.metadata.Distribution,
    extras: frozenset[str],
    needed: dict[str, importlib.metadata.Distribution],
) -> None:
    """Adds a distribution and those that it requires, as far as they are installed.

    What is required only on other systems is not installed here, and is not looked for. Nor is this
    project, which no program may see.
    """
    key = f"{distribution.name} {sorted(extras)}"
    if key in needed:
        return
    needed[key] = distribution
    for line in distribution.requires or ():
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        name, its_extras, condition = match.groups(default="")
        wanted = _EXTRA.findall(condition)
        if (wanted and not extras & set(wanted)) or _as_import(name) == _PROJECT:
            continue
        try:
            other = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        _collect(other, frozenset(re.findall(r"[\w.-]+", its_extras)), needed)


def _shown(root: str, owned: set[str]) -> Iterator[tuple[str, str]]:
    """Yields what covers the owned files under a root, and no other file: place and path."""
    folders = {str(parent) for file in owned for parent in pathlib.PurePath(file).parents}

    def cover(place: str) -> Iterator[tuple[str, str]]:
        path = os.path.join(root, place)
        if place in owned and os.path.isfile(path):
            yield place, os.path.realpath(path)
        elif place in folders and os.path.isdir(path):
            if _is_whole(path, root, owned):
                yield place, os.path.realpath(path)
                return
            for name in sorted(os.listdir(path)):
                yield from cover(os.path.join(place, name))

    for top in sorted({file.partition("/")[0] for file in owned}):
        yield from cover(top)


def _is_whole(folder: str, root: str, owned: set[str]) -> bool:
    """Tells whether a folder holds owned files alone, and what Python compiled of them."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return all(
        not os.path.islink(path) and {path.removeprefix(f"{root}/"), _source(path, root)} & owned
        for path in paths
    )


def _source(path: str, root: str) -> str:
    """Returns the place of the source of a compiled file: `a/__pycache__/b.cpython-311.pyc`."""
    folder, name = os.path.split(path.removeprefix(f"{root}/"))
    is_compiled = name.endswith(".pyc") and os.path.basename(folder) == "__pycache__"
    return os.path.join(os.path.dirname(folder), f"{name.split('.')[0]}.py") if is_compiled else ""
