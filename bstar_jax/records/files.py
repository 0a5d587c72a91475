"""Atomic writing: a file or folder is complete under its name, or it does not exist.

It has a temporary name until it is complete, and then gets its own in one rename. A process that is
killed leaves at most the temporary file or folder, which the next attempt replaces.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import IO

from bstar_jax.config import UserError


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    r"""Opens a file that gets its name only when the block ends without an error.

    The data is on disk before the file gets its name. Until then the name ends in `.tmp`.

    Example:
        with atomic_file("runs/first/figures.txt") as file:
            file.write("complete\n")

    Args:
      path: Path of the file. Its folder must exist.
      mode: "w" for UTF-8 text, "wb" for bytes.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.ExitStack() as undo:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            undo.callback(temporary.unlink, missing_ok=True)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        undo.pop_all()


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Makes a folder that gets its name only when the block ends without an error.

    Until then it has a hidden name in the same parent folder, which ends in `.writing`.

    Args:
      path: Path of the folder. An empty folder may exist there already.

    Yields:
      The folder to write in.
    """
    path = pathlib.Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.writing"
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
    temporary.mkdir()
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary
        os.replace(temporary, path)
        undo.pop_all()


def write_json(path: str | os.PathLike, value: object, *, indent: int | None = None) -> None:
    """Writes a JSON file atomically, with a newline at its end.

    Args:
      path: Path of the file.
      value: The value to write.
      indent: Spaces of indent for each level; None writes one line.

    Raises:
      ValueError: If the value contains NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, allow_nan=False, indent=indent)
    with atomic_file(path) as file:
        file.write(text + "\n")


@contextlib.contextmanager
def full_disk_explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns the error of a full disk into one that says what to do. Other errors pass unchanged.

    Args:
      path: The file or folder that is being written, for the message.

    Raises:
      UserError: If the disk, or the user's share of it, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot write {path}: {os.strerror(error.errno)}; free space there and start the "
            "same command again, which continues from the last phase that was stored"
        ) from error
