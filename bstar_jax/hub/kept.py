"""What a run keeps of the checkpoint that it started from: enough to export without its weights."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping

from bstar_jax.config import UserError
from bstar_jax.hub import names
from bstar_jax.hub.directory import (
    HEADERS,
    SPARE,
    StoredTensor,
    copy_texts,
    read_headers,
    read_tensor,
)
from bstar_jax.hub.fields import read_json
from bstar_jax.hub.safetensors_files import write_json, write_tensors

_HASHES = "weights.json"
_SAMPLE_BYTES = 2**20  # at the beginning, the middle and the end of a file of weights


def keep_source(source: str | os.PathLike, directory: str | os.PathLike) -> None:
    """Copies what an export needs of a checkpoint besides its weights.

    This is config.json, generation_config.json, the files of the tokenizer, licences,
    `tensors.json` with `{name: {"dtype": ..., "shape": [...]}}`, and `weights.json`, by which
    `check_same` recognizes the weights. Of the tensors of a vision tower it notes only where they
    are, as they may be gigabytes.

    Args:
      source: A checkpoint, or a directory that this function made.
      directory: The directory to copy to; made if it is missing.

    Raises:
      UserError: As `read_headers` does.
    """
    source, directory = pathlib.Path(source), pathlib.Path(directory)
    headers = read_headers(source)
    directory.mkdir(parents=True, exist_ok=True)
    copy_texts(source, directory)
    listed = {name: _entry(name, stored) for name, stored in headers.items()}
    write_json(directory / HEADERS, listed)
    kept = source / _HASHES
    write_json(directory / _HASHES, read_json(kept) if kept.is_file() else _hash_weights(source))
    spare = {name: stored for name, stored in headers.items() if names.is_computed(name)}
    if spare:
        specs = {name: (stored.dtype, stored.shape) for name, stored in spare.items()}
        write_tensors(directory / SPARE, specs, lambda name: read_tensor(spare[name], name))


def check_same(checkpoint: pathlib.Path, kept: pathlib.Path) -> None:
    """Refuses a checkpoint whose weights are not those that `keep_source` saw.

    Files are compared by their size and by samples of their bytes.

    Raises:
      UserError: With the first file that differs or is missing.
    """
    before, now = read_json(kept / _HASHES), _hash_weights(checkpoint)
    differing = sorted(name for name in before | now if before.get(name) != now.get(name))
    if differing:
        raise UserError(
            f"{checkpoint / differing[0]} is not the file that the run started from; put the "
            "checkpoint back as it was, or start a new run in another --workdir"
        )


def _hash_weights(path: pathlib.Path) -> dict[str, str]:
    """SHA-256 of the size and of three samples of each file of weights, by the file's name."""
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        size = file.stat().st_size
        content = hashlib.sha256(str(size).encode())
        with open(file, "rb") as handle:
            for offset in (0, size // 2, max(size - _SAMPLE_BYTES, 0)):
                handle.seek(offset)
                content.update(handle.read(_SAMPLE_BYTES))
        found[file.name] = content.hexdigest()
    return found


def check_elsewhere(checkpoint: pathlib.Path, headers: Mapping[str, StoredTensor]) -> None:
    """Refuses a kept checkpoint whose vision tower is no longer where it was.

    Args:
      checkpoint: The checkpoint, or what `keep_source` kept of it.
      headers: Its tensors.

    Raises:
      UserError: As `check_same` does.
    """
    files = (stored.file for stored in headers.values() if stored.file)
    for folder in sorted({file.parent for file in files} - {checkpoint}):
        check_same(folder, checkpoint)


def _entry(name: str, stored: StoredTensor) -> dict:
    """What `tensors.json` says of a tensor."""
    entry: dict = {"dtype": stored.dtype, "shape": list(stored.shape)}
    if names.is_vision(name) and stored.file:
        entry["file"] = str(stored.file.absolute())
    return entry
