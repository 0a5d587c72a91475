"""Fetches data sets from the Hugging Face hub: hf://datasets/OWNER/NAME[@REVISION][/FOLDER].

What was fetched stays in the hub's own cache, and the commit is told. With a commit as the revision
nothing is asked of the network that the cache has.
"""

from __future__ import annotations

import pathlib
import re
import urllib.parse

from bstar_jax.config import UserError
from bstar_jax.tasks.rows import ENDINGS

_SCHEME = "hf://"
_NAME = re.compile(
    r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?"
    r"(?:/(?P<inside>[^@]*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(path: str) -> tuple[str, tuple[str, ...]]:
    """Returns where the data of `task.path` lies, after fetching it if it is on the hub.

    Args:
      path: A file or folder, or a data set's name on the hub.

    Returns:
      The file or folder, and notes for a person.

    Raises:
      UserError: If the name is none of the hub's, or it cannot be fetched.
    """
    if not path.startswith(_SCHEME):
        return path, ()
    match = _NAME.fullmatch(path)
    if match is None:
        raise UserError(
            f"task.path is {path!r}; a data set of the hub is "
            "hf://datasets/OWNER/NAME[@REVISION][/FOLDER]"
        )
    inside = (match["inside"] or "").strip("/")
    folder, commit = _download(path, match["name"], match["revision"], inside)
    place = folder / inside
    if not place.exists() or (place.is_dir() and not _has_data(place)):
        raise UserError(
            f"{path} has no file that ends in {', '.join(ENDINGS)} at commit {commit}; name "
            "another folder, or the branch of files that the hub made itself: "
            f"hf://datasets/{match['name']}@refs/convert/parquet"
        )
    pinned = f"hf://datasets/{match['name']}@{commit}" + (f"/{inside}" if inside else "")
    return str(place), (f"the data is {pinned}",)


def _download(path: str, name: str, revision: str | None, inside: str) -> tuple[pathlib.Path, str]:
    """Downloads the data files of a data set; their folder, and the commit."""
    # Only here, since most runs read no data from the hub, and it takes long to import.
    import huggingface_hub
    from huggingface_hub import errors

    # What the client that the hub's library uses raises where there is no network.
    no_network = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]  # whose it is varies

    revision = urllib.parse.unquote(revision) if revision else None
    try:
        commit = revision
        if commit is None or not _COMMIT.fullmatch(commit):
            commit = huggingface_hub.HfApi().dataset_info(name, revision=revision).sha
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=commit, allow_patterns=_patterns(inside)
        )
    except (OSError, ValueError, no_network) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} cannot be fetched: {reason[0]}; see that the name is right, that "
            "this machine reaches the hub, and that HF_TOKEN is set where the data set asks for "
            "it; or fetch it elsewhere and set task.path to its folder"
        ) from error
    return pathlib.Path(folder), str(commit)


def _patterns(inside: str) -> list[str]:
    if inside.endswith(ENDINGS):
        return [inside]
    before = f"{inside}/" if inside else ""
    return [f"{before}*{ending}" for ending in ENDINGS]


def _has_data(folder: pathlib.Path) -> bool:
    return any(file.name.endswith(ENDINGS) for file in folder.rglob("*"))
