"""The one way to write a file or a folder: complete under its name, or not there at all.

What is written has a temporary name until it is complete, and then takes its own by one rename.
A process that is killed leaves at most the temporary name, which the next attempt replaces.
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
    r"""Opens a file that takes its name only when the block ends without an error.

    The data is on the disk before the name is. Until then the file's name ends in `.tmp`.

    Example:
        with atomic_file("runs/first/figures.txt") as file:
            file.write("complete\n")

    Args:
      path: Where the file will be; its folder must exist.
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
    """Makes a folder to write in, which takes its name only when the block ends without an error.

    Until then the folder is hidden beside it, under a name that ends in `.writing`.

    Args:
      path: Where the folder will be; there may be an empty folder already.

    Yields:
      The folder to write in.
    """
    path = pathlib.Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.writing"
    shutil.rmtree(temporary, ignore_errors=True)  # what a kill left
    temporary.mkdir()
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary
        os.replace(temporary, path)
        undo.pop_all()


def write_json(path: str | os.PathLike, value: object, *, indent: int | None = None) -> None:
    """Writes a JSON file atomically, with a newline at its end.

    Args:
      path: Where to.
      value: What to write.
      indent: Spaces a level; None writes one line.

    Raises:
      ValueError: If there is a NaN or an infinity in it, which JSON does not have.
    """
    text = json.dumps(value, allow_nan=False, indent=indent)
    with atomic_file(path) as file:
        file.write(text + "\n")


@contextlib.contextmanager
def full_disk_explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns the error of a full disk into one that says what to do; other errors pass.

    Args:
      path: What is being written, for the message.

    Raises:
      UserError: If the disk, or the user's share of it, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot write {path}: {os.strerror(error.errno)}; make room there and start the "
            "same command again, which goes on from the last phase that was stored"
        ) from error
