"""A checkpoint on disk: where it is, what the headers of its files say, and parts of its tensors.

Headers are read and checked before any tensor is. A file is opened anew for each part that is read
from it: the pages of an open file count as memory of the process until it is closed.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil

import huggingface_hub
import ml_dtypes
import numpy as np
import safetensors
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from bstar_jax.config import ModelConfig, UserError
from bstar_jax.hub import names
from bstar_jax.hub.fields import read_json
from bstar_jax.hub.names import NameTable

# The dtypes that tensors may have, as files call them; f32 holds all their values exactly.
DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
HEADERS, SPARE = "tensors.json", "spare.safetensors"  # of a directory that `keep_source` made
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "*.model", "*.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
_COPIED = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    *TOKENIZER_FILES,
    "LICEN[CS]E*", "NOTICE*", "Notice*", "COPYING*", "USE_POLICY*",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """The entry of a tensor in the header of a file.

    Attributes:
      dtype: Dtype as safetensors files call it, such as BF16.
      shape: Shape as it is stored.
      file: The file that holds it; None where only the header was kept.
    """

    dtype: str
    shape: tuple[int, ...]
    file: pathlib.Path | None = None


def locate(name: str | os.PathLike) -> pathlib.Path:
    """The directory of a checkpoint: the given one, or that of a hub name, fetched if missing.

    Example: "google/gemma-3-1b-pt" -> ~/.cache/huggingface/hub/.../snapshots/<revision>.

    Raises:
      UserError: If there is no such directory and the hub does not give one of this name.
    """
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return path
    remedy = "give the directory of a checkpoint that was fetched before, which needs no network"
    text = os.fspath(name)
    if path.exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise UserError(
            f"model.checkpoint is {text!r}, and there is no such directory; {remedy}, or a hub "
            "name such as google/gemma-3-1b-pt"
        )
    try:
        fetched = huggingface_hub.snapshot_download(
            text,
            allow_patterns=["*.json", "*.safetensors", *_COPIED],
            ignore_patterns=["*/*", "consolidated*"],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model.checkpoint is {text!r}; there is no such directory, and the hub did not give "
            f"it ({reason}); {remedy}"
        ) from error
    return pathlib.Path(fetched)


def read_headers(path: pathlib.Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint, or of a directory that `keep_source` made, by their names.

    Raises:
      UserError: If there are no weights, or a file is missing, broken or truncated.
    """
    if (path / HEADERS).is_file() and not _has_weights(path):
        spare = _read_header(path / SPARE) if (path / SPARE).is_file() else {}
        kept = {
            name: StoredTensor(
                entry["dtype"],
                tuple(entry["shape"]),
                pathlib.Path(entry["file"]) if "file" in entry else None,
            )
            for name, entry in read_json(path / HEADERS).items()
        }
        return kept | spare
    if not (path / _INDEX).is_file():
        if not (path / _SINGLE).is_file():
            raise UserError(_no_weights(path))
        return _read_header(path / _SINGLE)
    listed = _read_index(path)
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(listed.values())):
        for name, stored in _read_header(path / file).items():
            if name in found:
                raise UserError(
                    f"tensor {name} is both in {found[name].file} and in {stored.file}; it must "
                    "be in one: fetch the checkpoint again into an empty directory"
                )
            found[name] = stored
    lost = sorted(set(listed) - set(found))
    if lost:
        raise UserError(
            f"{path / listed[lost[0]]} lacks tensor {lost[0]}, which {_INDEX} says it has; fetch "
            "both again"
        )
    return found


def _read_index(path: pathlib.Path) -> dict[str, str]:
    """The file of each tensor, by the index of a checkpoint in several files.

    Raises:
      UserError: If the index names no files of the directory, or another file holds weights too.
    """
    listed = read_json(path / _INDEX).get("weight_map")
    if not isinstance(listed, dict):
        raise UserError(f"{path / _INDEX} has no weight_map; fetch it again")
    for name, file in listed.items():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            raise UserError(
                f"{path / _INDEX} has {name} in {file!r}; it takes names of files beside it: fetch "
                "the checkpoint again"
            )
    if (path / _SINGLE).is_file() and _SINGLE not in listed.values():
        raise UserError(
            f"{path} has {_SINGLE} and also {_INDEX}, which names other files; only one can hold "
            f"the weights: remove {_SINGLE} if the files of the index are right, else the index"
        )
    return listed


def read_part(stored: StoredTensor, name: str, part: tuple[slice, ...]) -> np.ndarray:
    """Reads a part of a tensor in the dtype of its file, as a copy."""
    assert stored.file is not None, f"only the header of {name} was kept"
    with safetensors.safe_open(stored.file, framework="numpy") as file:
        return file.get_slice(name)[part]


def check_tensors(
    path: pathlib.Path, config: ModelConfig, table: NameTable, headers: dict[str, StoredTensor]
) -> None:
    """Refuses tensors that are not those of the model.

    Args:
      path: The checkpoint, for messages.
      config: The model.
      table: Names of its tensors.
      headers: The tensors in the files.

    Raises:
      UserError: With the first tensor that is missing, unknown, or of another dtype or shape.
    """
    wanted = names.by_name(config, table)
    for name, stored in headers.items():
        if stored.dtype not in DTYPES:
            raise UserError(
                f"{path}: tensor {name} is {stored.dtype}; supported are {', '.join(DTYPES)}: take "
                "a checkpoint that is not quantized, or convert it"
            )
    missing = sorted(set(wanted) - set(headers))
    extra = [
        name for name in headers if name not in wanted and not names.is_spare(config, table, name)
    ]
    for kind, found in (("lacks", missing), ("has", sorted(extra))):
        if found:
            rule = "has to have" if kind == "lacks" else "has no place for"
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise UserError(
                f"{path} {kind} tensor {found[0]}{more}, which a model with its config.json "
                f"{rule}; fetch both again, or correct config.json"
            )
    shapes = {name: names.file_shape(parts) for name, parts in wanted.items()}
    shapes[table.head] = shapes.get(table.head, shapes[table.embedding])
    for name, stored in headers.items():
        if stored.shape != shapes.get(name, stored.shape):
            raise UserError(
                f"{path}: tensor {name} is {list(stored.shape)}, but config.json makes it "
                f"{list(shapes[name])}; fetch both again, or correct config.json"
            )


def read_tensor(stored: StoredTensor, name: str) -> np.ndarray:
    """Reads a tensor in the dtype of its file."""
    return read_part(stored, name, (slice(None),) * len(stored.shape))


def copy_texts(source: pathlib.Path, directory: pathlib.Path) -> None:
    """Copies the files of a checkpoint that are not weights, unchanged."""
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file.is_file():
                target = directory / file.relative_to(source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def _has_weights(path: pathlib.Path) -> bool:
    return (path / _SINGLE).is_file() or (path / _INDEX).is_file()


def _read_header(file: pathlib.Path) -> dict[str, StoredTensor]:
    if not file.is_file():
        raise UserError(f"{file} is missing, which {_INDEX} names; fetch the checkpoint again")
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            keys = opened.keys()  # which has them, but is not a mapping that can be iterated over
            parts = {name: opened.get_slice(name) for name in keys}
            return {
                name: StoredTensor(part.get_dtype(), tuple(part.get_shape()), file)
                for name, part in parts.items()
            }
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{file} ({file.stat().st_size} bytes) is broken or cut short ({error}); fetch it again"
        ) from error


def _no_weights(path: pathlib.Path) -> str:
    """Why a directory has no weights that can be read, and what to do."""
    pickled = sorted(file.name for file in path.glob("*.bin"))
    if pickled:
        return (
            f"{path} has its weights in {pickled[0]}, which can run code when it is read; only "
            "safetensors are read: write it anew with Transformers' save_pretrained"
        )
    if (path / HEADERS).is_file():
        return f"{path} keeps the names of tensors, not the weights; give the checkpoint itself"
    return f"{path} has no weights: neither {_SINGLE} nor {_INDEX}; fetch the checkpoint again"
