"""Functions from outside the package, by name: `FILE.py:NAME` or `MODULE:NAME`.

A file is loaded under a module name of its own, made from its path, with its folder first on
`sys.path`, so that it can import its neighbours. Its fingerprint covers the file and every module
that it loads outside the standard library and the installed packages, and the versions of the
packages that it loads.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from types import ModuleType

from bstar_jax.config import UserError
from bstar_jax.config.schema import absolute_function

_PACKAGE = __name__.partition(".")[0]


@dataclasses.dataclass(frozen=True)
class Outside:
    """A function from outside.

    Attributes:
      name: `FILE.py:NAME`, the file as an absolute path, or `MODULE:NAME`.
      function: The function.
      files: The files that its fingerprint covers, its own first.
      fingerprint: SHA-256, in hexadecimal.
    """

    name: str
    function: Callable
    files: tuple[str, ...]
    fingerprint: str


@functools.cache
def load(name: str) -> Outside:
    """Loads a function; its module is loaded once in a process.

    Args:
      name: `FILE.py:NAME`, a file relative to the current directory, or `MODULE:NAME`.

    Raises:
      UserError: If there is no such file, module or function, or loading it raises.
    """
    name = absolute_function(name)
    place, _, attribute = name.rpartition(":")
    before = set(sys.modules)
    module = _load_file(place) if place.endswith(".py") else _import(place, attribute)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(_no_function(module, place, attribute, exists=function is not None))
    loaded = [sys.modules[each] for each in sorted(set(sys.modules) - before)]
    own, installed = _divide([module, *loaded])
    versions = sorted(_versions(installed))
    digests = [(pathlib.Path(file).name, _digest(file)) for file in own]
    text = repr((attribute, digests, versions)).encode()
    return Outside(name, function, tuple(own), hashlib.sha256(text).hexdigest())


def last_frames(error: BaseException) -> str:
    """Returns the traceback of an error from the first frame that is not the package's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    outside = [
        frame
        for frame in frames
        if not frame.filename.startswith((own, "<frozen importlib", importlib.__file__))
    ]
    lines = traceback.format_list(outside) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _load_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise UserError(
            f"there is no file {path}; a run keeps a copy of the functions that it was started "
            "with in RUN/code"
        )
    module_name = f"{_PACKAGE}_outside_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A class of the file can be pickled only if its module is known before the file runs.
    sys.modules[module_name] = module
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UserError(f"loading {path} failed:\n{last_frames(error)}") from error
    return module


def _import(name: str, attribute: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserError(
                f"there is no module {name!r} on sys.path; for a file write "
                f"{name.replace('.', '/')}.py:{attribute}"
            ) from error
        raise UserError(f"importing {name} failed:\n{last_frames(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"importing {name} failed:\n{last_frames(error)}") from error


def _no_function(module: ModuleType, place: str, name: str, *, exists: bool) -> str:
    if exists:
        return f"{place} has {name!r}, which is no function; name one that is"
    known = [
        each
        for each, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    near = difflib.get_close_matches(name, known, 1, 0.0)
    hint = f"; the nearest is {near[0]!r}" if near else "; it has no function at its top"
    return f"{place} has no {name!r}{hint}"


def _divide(modules: Iterable[ModuleType]) -> tuple[list[str], set[str]]:
    """Divides modules into the files of the user's own, and the names of installed ones."""
    installed_at = tuple({*site.getsitepackages(), site.getusersitepackages()})
    standard = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    own: dict[str, None] = {}
    installed = set()
    for module in modules:
        file, top = getattr(module, "__file__", None), module.__name__.partition(".")[0]
        if file is None or top == _PACKAGE:
            continue
        if file.startswith(installed_at):
            installed.add(top)
        elif not file.startswith(standard):
            own[file] = None
    return list(own), installed


def _versions(names: set[str]) -> set[str]:
    """Returns "name==version" of the distributions that hold these packages."""
    if not names:
        return set()
    owners = importlib.metadata.packages_distributions()
    found = {owner for name in names for owner in owners.get(name, ())}
    return {f"{owner}=={importlib.metadata.version(owner)}" for owner in found}


def _digest(file: str) -> str:
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()
