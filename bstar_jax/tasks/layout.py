"""Finds the files of each split in a folder, by their names.

    train.jsonl  test.jsonl                     files named by their splits
    train-00000-of-00002.parquet  ...           in parts
    train/  validation/                         folders named by their splits
    data/train-00000-of-00001.parquet           one folder further down
    dataset_dict.json  train/state.json  ...    what `datasets` saves to disk

A split that has none of the known names is read only where a setting names it.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bstar_jax.config import SplitNames, UserError
from bstar_jax.tasks.rows import ENDINGS
from bstar_jax.tasks.values import listed

# The names that a split has, the likeliest first.
KNOWN = {
    "train": ("train", "training"),
    "calibration": ("validation", "valid", "val", "dev"),
    "heldout": ("test", "testing", "eval", "evaluation"),
}
_NO_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
_PART = re.compile(r"(?:^|[-_.])(?P<part>\d+)(?:-of-(?P<parts>\d+))?(?:-[0-9a-f]{8,})?$")

Files = tuple[pathlib.Path, ...]


class SplitFiles(NamedTuple):
    """The files of a source.

    Attributes:
      train: The files of the train split, in their order.
      calibration: Those of the split that calibrates; None if there is no such split.
      heldout: Those of the held-out split; None if there is no such split.
      unread: Names of splits that are there and not read.
    """

    train: Files
    calibration: Files | None = None
    heldout: Files | None = None
    unread: tuple[str, ...] = ()


def find_files(path: pathlib.Path, names: SplitNames) -> SplitFiles:
    """Finds the files of each split.

    A validation split without a test split is held out: then calibration queries are taken from
    train.

    Args:
      path: A file, which is the train split, or a folder.
      names: Names of splits that have other names than the known ones.

    Raises:
      UserError: If there is no train split, no split of a name that a setting gives, or several
        data sets to choose from.
    """
    if not path.is_dir():
        given = [f"task.splits.{name}={value}" for name, value in _given(names).items()]
        if given:
            raise UserError(
                f"{' and '.join(given)} names a split in a folder, but task.path={path} is not "
                "one; drop it, or set task.path to the folder"
            )
        return SplitFiles((path,))
    found = _find(path, names)
    chosen = {split: _choose(path, found, split, names) for split in KNOWN}
    if chosen["train"] is None:
        raise _no_train(path, found)
    twice = [name for name in found if list(chosen.values()).count(name) > 1]
    if twice:
        raise UserError(f"task.splits names {twice[0]!r} twice; a split has one use")
    if chosen["heldout"] is None and not names.calibration:
        chosen["calibration"], chosen["heldout"] = None, chosen["calibration"]
    train, calibration, heldout = (
        None if name is None else found[name] for name in chosen.values()
    )
    assert train is not None
    unread = tuple(name for name in found if name not in chosen.values())
    return SplitFiles(train, calibration, heldout, unread)


def _given(names: SplitNames) -> dict[str, str]:
    return {name: getattr(names, name) for name in KNOWN if getattr(names, name)}


def _find(folder: pathlib.Path, names: SplitNames) -> dict[str, Files]:
    """Finds the splits in a folder, by name; looks one folder further down if that is the only one.

    Files of a folder come before its folders: what is beside them is another thing.
    """
    saved = _saved(folder)
    if saved is not None:
        return saved
    files = _files(folder)
    folders = {each.name: _inside(each) for each in _folders(folder) if _inside(each)}
    found = {**{name: data for name, data in folders.items() if data}, **files}
    if any(_known(name) for name in found) or set(_given(names).values()) & set(found):
        return found
    subsets = [each for each in _folders(folder) if _holds_data(each)]
    if files or not subsets:
        return found
    if len(subsets) == 1:
        return _find(subsets[0], names)
    raise UserError(
        f"{folder} holds {len(subsets)} data sets: {listed([each.name for each in subsets])}; "
        f"set task.path to one of them, such as {subsets[0]}"
    )


def _saved(folder: pathlib.Path) -> dict[str, Files] | None:
    """Finds the splits of what `datasets` saved to disk; None if it did not make the folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = _described(folder / "dataset_dict.json", "splits")["splits"]
        return {str(name): _arrow_files(folder / str(name)) for name in splits}
    return {"train": _arrow_files(folder)} if (folder / "state.json").is_file() else None


def _arrow_files(folder: pathlib.Path) -> Files:
    state = _described(folder / "state.json", "_data_files")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"{folder / 'state.json'} picks rows by indices; call flatten_indices() on the data "
            "set and save it again"
        )
    files = (each.get("filename") for each in state["_data_files"] if isinstance(each, dict))
    return tuple(folder / str(name) for name in files)


def _described(file: pathlib.Path, key: str) -> dict:
    """Reads a file that `datasets` wrote, an object with a list under the key."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; save the data set again") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise UserError(f"{file} has no list {key!r}; save the data set again")
    return content


def _files(folder: pathlib.Path) -> dict[str, Files]:
    """Finds the data files of a folder by split. Of the same split in two forms, one is read."""
    named: dict[str, dict[str, list[pathlib.Path]]] = {}
    for file in sorted(folder.iterdir()):
        ending = _ending(file)
        if ending and file.is_file():
            stem = file.name[: -len(ending)]
            # A file of the whole name is no part: train-1.jsonl beside train.jsonl is another.
            name = _PART.sub("", stem) if _PART.search(stem) else stem
            whole = folder / f"{name}{ending}"
            name = stem if whole.is_file() else name
            named.setdefault(name, {}).setdefault(ending, []).append(file)
    found = {}
    for name, by_ending in named.items():
        ending = min(by_ending, key=ENDINGS.index)
        found[name] = _complete(folder, name, by_ending[ending])
        for other in by_ending.keys() - {ending}:
            found[f"{name}{other}"] = tuple(by_ending[other])
    return found


def _complete(folder: pathlib.Path, name: str, files: Sequence[pathlib.Path]) -> Files:
    """Checks that no part of a split is missing, where the names say how many there are."""
    parts = [match for file in files if (match := _PART.search(_stem(file)))]
    counts = {int(match["parts"]) for match in parts if match["parts"]}
    if counts and (len(counts) > 1 or {int(match["part"]) for match in parts} != {*range(*counts)}):
        raise UserError(
            f"{folder} has {len(parts)} files of {name!r}, but their names say that there are "
            f"{' and '.join(map(str, sorted(counts)))}; fetch the missing ones"
        )
    return tuple(sorted(files, key=lambda file: (_number(file), file.name)))


def _number(file: pathlib.Path) -> int:
    match = _PART.search(_stem(file))
    return int(match["part"]) if match else 0


def _inside(folder: pathlib.Path) -> Files:
    """Returns all data files of a folder that is a split, by name; () if it is none."""
    if (folder / "state.json").is_file():
        return _arrow_files(folder)
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and _ending(file))
    by_name = {name for name in _files(folder) if _known(name)}
    return () if by_name else tuple(sorted(files, key=lambda file: (_number(file), file.name)))


def _folders(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (
        each for each in sorted(folder.iterdir()) if each.is_dir() and not each.name.startswith(".")
    )


def _holds_data(folder: pathlib.Path) -> bool:
    if (folder / "dataset_dict.json").is_file():
        return True
    return any(_ending(file) for file in folder.rglob("*") if file.is_file())


def _ending(file: pathlib.Path) -> str:
    name = file.name.casefold()
    if name in _NO_DATA or name.startswith("."):
        return ""
    return max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default="")


def _stem(file: pathlib.Path) -> str:
    return file.name[: len(file.name) - len(_ending(file))]


def _known(name: str) -> str:
    """Returns the split that has this name; "" if none has."""
    return next((split for split, names in KNOWN.items() if name.casefold() in names), "")


def _choose(
    folder: pathlib.Path, found: Mapping[str, Files], split: str, names: SplitNames
) -> str | None:
    """Returns the name of the files that are a split."""
    given = getattr(names, split)
    if given:
        if given not in found:
            raise UserError(
                f"task.splits.{split} is {given!r}, but {folder} has {listed(sorted(found))}"
            )
        return given
    by_fold = {name.casefold(): name for name in found if name not in _given(names).values()}
    chosen = next((by_fold[name] for name in KNOWN[split] if name in by_fold), None)
    if chosen is None and split == "train" and len(found) == 1:
        # Parts of one table that no name tells apart, such as 0000.parquet, or part-0.parquet.
        chosen = next((name for name in found if name in ("", "part", "data")), None)
    return chosen


def _no_train(folder: pathlib.Path, found: Mapping[str, Files]) -> UserError:
    if not found:
        return UserError(
            f"there is no file {folder / 'train.jsonl'}, and {folder} has no other file of data; "
            f"its files are named by their splits and end in {', '.join(ENDINGS)}"
        )
    first = min(found)
    return UserError(
        f"there is no file {folder / 'train.jsonl'}, nor another train split; {folder} has "
        f"{listed(sorted(found))}: set task.splits.train={first}"
    )
