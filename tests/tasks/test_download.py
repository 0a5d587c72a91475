"""Data sets of the hub: what is asked of it, what comes of it, and what it may answer."""

import pathlib

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

from bstar_jax import tasks
from bstar_jax.config import UserError
from bstar_jax.tasks.download import fetch
from tests.formats import SIZES, write

COMMIT = "e53f048856ff4f594e959d75785d2c2d37b678ee"
ROWS = [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(6)]


class Hub:
    """Answers as the hub does, from a folder that stands for its cache."""

    def __init__(self, folder):
        self.folder, self.asked, self.failure = folder, [], None

    def dataset_info(self, name, revision=None):
        self._call("info", name, revision)
        return huggingface_hub.DatasetInfo(id=name, sha=COMMIT)

    def snapshot_download(self, name, *, repo_type, revision, allow_patterns):
        self._call(repo_type, name, revision, allow_patterns)
        return str(self.folder)

    def _call(self, *call):
        self.asked.append(call)
        if self.failure:
            raise self.failure


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "cache")
    for name in ("main", "socratic"):
        (hub.folder / name).mkdir(parents=True)
        write(hub.folder / name / "train.jsonl", ROWS)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


@pytest.mark.parametrize(
    ("path", "revision", "inside"),
    [
        ("hf://datasets/openai/gsm8k/main", None, "main"),
        ("hf://datasets/openai/gsm8k@v1.0/main", "v1.0", "main"),
        ("hf://datasets/openai/gsm8k@refs/convert/parquet/main/", "refs/convert/parquet", "main"),
        ("hf://datasets/openai/gsm8k@refs%2Fpr%2F3/main", "refs/pr/3", "main"),
        ("hf://datasets/openai/gsm8k", None, ""),
        ("hf://datasets/openai/gsm8k/main/train.jsonl", None, "main/train.jsonl"),
    ],
)
def test_a_name_is_asked_for_its_commit_and_only_its_files_are_fetched(hub, path, revision, inside):
    place, (note,) = fetch(path)
    assert place == str(hub.folder / inside)
    pinned = f"hf://datasets/openai/gsm8k@{COMMIT}" + (f"/{inside}" if inside else "")
    assert note == f"the data is {pinned}"
    info, download = hub.asked
    assert info == ("info", "openai/gsm8k", revision)
    assert download[:3] == ("dataset", "openai/gsm8k", COMMIT)
    is_file = inside.endswith(".jsonl")
    assert download[3] == [inside] if is_file else f"{inside}/*.parquet".strip("/") in download[3]
    del hub.asked[:]
    assert fetch(pinned) == (place, (note,))
    assert [call[0] for call in hub.asked] == ["dataset"]  # a commit needs no question


def test_a_task_says_which_commit_it_read(hub):
    task = tasks.load("gsm8k", "hf://datasets/openai/gsm8k/main", **SIZES)
    assert len(task.splits["train"]) == 6
    assert task.notes == (f"the data is hf://datasets/openai/gsm8k@{COMMIT}/main",)
    with pytest.raises(UserError, match="holds 2 data sets: main, socratic"):
        tasks.load("gsm8k", "hf://datasets/openai/gsm8k", **SIZES)


@pytest.mark.parametrize(
    "failure",
    [
        HTTPError("Name or service not known"),
        ConnectionError("Name or service not known"),
        huggingface_hub.errors.OfflineModeIsEnabled("Name or service not known"),
        huggingface_hub.errors.LocalEntryNotFoundError("Name or service not known\nmore"),
    ],
)
def test_without_a_network_it_is_said_what_to_do(hub, failure):
    hub.failure = failure
    with pytest.raises(UserError) as caught:
        fetch("hf://datasets/openai/gsm8k")
    assert str(caught.value).startswith(
        "hf://datasets/openai/gsm8k cannot be fetched: Name or service not known; see that"
    )
    assert "or fetch it elsewhere and set task.path to its folder" in str(caught.value)


def test_what_the_hub_does_not_have(hub):
    with pytest.raises(UserError, match="at commit .*; name another folder, or the bran"):
        fetch("hf://datasets/openai/gsm8k/other")
    (hub.folder / "script").mkdir()
    (hub.folder / "script" / "load.py").touch()
    with pytest.raises(UserError, match="@refs/convert/parquet"):
        fetch("hf://datasets/openai/gsm8k/script")
    assert issubclass(RepositoryNotFoundError, (OSError, HTTPError))


@pytest.mark.parametrize(
    "path", ["hf://openai/gsm8k", "hf://datasets/gsm8k", "hf://datasets/a/b@", "hf://models/a/b"]
)
def test_other_names_are_refused(path):
    with pytest.raises(UserError, match="a data set of the hub is hf://datasets/OWNER/NAME"):
        fetch(path)


def test_any_other_path_is_left_alone(tmp_path):
    assert fetch(str(tmp_path)) == (str(tmp_path), ())
    assert pathlib.Path(fetch("a/b.jsonl")[0]) == pathlib.Path("a/b.jsonl")
