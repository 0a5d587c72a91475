"""The command that shuts a process in: bubblewrap, with what is visible and what is cut off.

Inside there are a Python interpreter at /python, the system's libraries, an empty home and a small
writable /tmp, and nothing else: no /proc, no program to start, and no installed package but those
that are asked for. The sandbox has process, network, host name, shared memory and user namespaces
of its own.

Root starts sandboxes as user 65534 ("nobody"), as the kernel does not limit root's number of
threads. Bubblewrap sets up the files as root, since root's Python may be where nobody else can
read, and the first program inside then becomes that user. Other users start them as themselves.

Source: bwrap(1), user_namespaces(7).
"""

from __future__ import annotations

import functools
import os
import pathlib
import shutil
import sys

from bstar_jax.config import UserError
from bstar_jax.isolation.packages import Packages

PACKAGES = "/python/packages"  # where the packages are that programs may import
NOBODY = 65534  # the user that a program runs as: inside, and, if root starts it, outside
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # one program, one verdict: the order of sets is fixed
    "PYTHONUTF8": "1",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # otherwise each thread takes 64 MiB of address space
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "HOME": "/home",
}

_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
# Made explicitly, as parents that bubblewrap makes are open only to the user who made them.
_FOLDERS = ("/dev", "/etc", "/home", "/python", "/python/bin", "/usr")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_LOADER_CACHE = "/etc/ld.so.cache"  # where the system's libraries are
_NAMESPACES = (
    "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
    "--unshare-cgroup-try",
)  # fmt: skip


def command(disk_bytes: int, tell: int, awaited: int, packages: Packages) -> list[str]:
    """Returns the command that starts the interpreter inside; its own arguments follow it.

    Args:
      disk_bytes: Size of /tmp.
      tell: File descriptor to which bubblewrap writes the number of process 1, as JSON.
      awaited: File descriptor from which it reads a byte once `map_users` is done, if
        `changes_user`.
      packages: The installed packages that programs may import.

    Raises:
      UserError: If bubblewrap is not installed.
    """
    user = ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    if changes_user():
        user = ["--userns-block-fd", str(awaited)]
        user += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [
        _bubblewrap(), *_NAMESPACES, "--hostname", "sandbox", "--info-fd", str(tell),
        "--as-pid-1", "--new-session", "--cap-drop", "ALL", *user,
        *_environment(), *_files(), *_packages(packages),
        "--perms", "1777", "--size", str(disk_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp",
        "--remount-ro", "/", "/python/bin/python",
    ]  # fmt: skip


def interpreter() -> str:
    """Returns the path of this interpreter, or of the one that this virtual environment is of."""
    return os.path.realpath(vars(sys)["_base_executable"])


@functools.cache
def changes_user() -> bool:
    """Tells whether this is root, and there is a nobody to become."""
    if os.geteuid() != 0:
        return False
    lines = pathlib.Path("/proc/self/uid_map").read_text().splitlines()
    spans = [[int(word) for word in line.split()] for line in lines]
    return any(first <= NOBODY < first + count for first, _, count in spans)


def map_users(process: int) -> None:
    """Gives a sandbox that is being set up two users: root, and the one that it will be."""
    for kind in ("uid_map", "gid_map"):
        pathlib.Path(f"/proc/{process}/{kind}").write_text(f"0 0 1\n{NOBODY} {NOBODY} 1\n")


@functools.cache
def _bubblewrap() -> str:
    path = shutil.which("bwrap")
    if path is None:
        raise UserError(
            "grading code needs bubblewrap, and there is no program bwrap: install the package "
            "bubblewrap (apt-get install bubblewrap); no generated program runs without it"
        )
    return path


@functools.cache
def _environment() -> tuple[str, ...]:
    inside = ENVIRONMENT | {
        "PYTHONHOME": "/python",
        "LD_LIBRARY_PATH": "/python/lib:/python/lib64",
    }
    settings = [word for pair in inside.items() for word in ("--setenv", *pair)]
    return ("--clearenv", *settings)


@functools.cache
def _files() -> tuple[str, ...]:
    words = []
    for folder in _FOLDERS:
        words += ["--perms", "0755", "--dir", folder]
    for path in map(pathlib.Path, _LIBRARIES):
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for device in _DEVICES:
        words += ["--dev-bind", device, device]
    words += ["--ro-bind-try", _LOADER_CACHE, _LOADER_CACHE, *_python_files()]
    return tuple(words)


@functools.cache
def _packages(packages: Packages) -> tuple[str, ...]:
    """Shows files of packages, each in folders that are made explicitly."""
    folders = {PACKAGES: None} if packages.files else {}
    words = []
    for place, path in packages.files:
        inside = pathlib.PurePath(PACKAGES, place)
        folders |= {str(parent): None for parent in reversed(inside.parents[:-2])}
        words += ["--ro-bind", path, str(inside)]
    made = [word for folder in folders for word in ("--perms", "0755", "--dir", folder)]
    return (*made, *words)


def _python_files() -> list[str]:
    """Binds this interpreter, or the one that this virtual environment is of."""
    base = pathlib.Path(sys.base_prefix)
    words = ["--ro-bind", interpreter(), "/python/bin/python"]
    for name in ("lib", "lib64"):
        if (base / name).is_dir() and not (base / name).is_symlink():
            words += ["--ro-bind", str(base / name), f"/python/{name}"]
            words += _emptied(base / name, pathlib.Path("/python", name))
    for path in map(pathlib.Path, _LIBRARIES):
        if path.is_dir() and not path.is_symlink():
            words += _emptied(path, path)
    return words


def _emptied(outside: pathlib.Path, inside: pathlib.Path) -> list[str]:
    """Hides the installed packages, which may include this project."""
    words = []
    for name in ("site-packages", "dist-packages"):
        for folder in sorted(outside.glob(f"python3*/{name}")):
            hidden = str(inside / folder.relative_to(outside))
            words += ["--size", "4096", "--tmpfs", hidden, "--remount-ro", hidden]
    return words
