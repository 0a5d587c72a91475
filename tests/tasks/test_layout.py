"""Files are the splits that their names say, and nothing else is read."""

import json

import pyarrow as pa
import pytest

from bstar_jax.config import SplitNames, UserError
from bstar_jax.tasks.layout import find_files


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")


def found(folder, **names):
    """The files of train, calibration and heldout by their paths in the folder; what is unread."""
    layout = find_files(folder, SplitNames(**names))
    splits = [
        None if files is None else [str(file.relative_to(folder)) for file in files]
        for files in layout[:3]
    ]
    return (*splits, list(layout.unread))


def parts(split, count, ending=".parquet"):
    return [f"{split}-{part:05}-of-{count:05}{ending}" for part in range(count)]


@pytest.mark.parametrize(
    ("names", "train", "calibration", "heldout", "unread"),
    [
        (["train.jsonl"], 0, None, None, []),
        (["train.jsonl", "test.jsonl"], 0, None, 1, []),
        (["training.json", "valid.json", "evaluation.json"], 0, 1, 2, []),
        (["Train.parquet", "dev.jsonl.gz", "TEST.jsonl"], 0, 1, 2, []),
        (["train.jsonl", "validation.jsonl"], 0, None, 1, []),  # alone, it is held out
        (["train.jsonl", "extended.jsonl", "notes.txt"], 0, None, None, ["extended"]),
        (["train.jsonl", "test.jsonl", "eval.jsonl"], 0, None, 1, ["eval"]),
        (["train.jsonl", "train.parquet"], 0, None, None, ["train.parquet"]),
        (["train.jsonl", "train-1.jsonl"], 0, None, None, ["train-1"]),
        (["data/train.jsonl", "a.md", "dataset_infos.json", ".cache/a.json"], 0, None, None, []),
        (["train/x.jsonl", "test/y.jsonl"], 0, None, 1, []),
        (["train.jsonl", "main/test.jsonl"], 0, None, None, []),
        (["part-0.parquet"], 0, None, None, []),
    ],
)  # fmt: skip
def test_splits_by_name(tmp_path, names, train, calibration, heldout, unread):
    make(tmp_path, *names)
    expected = [
        None if place is None else [names[place]] for place in (train, calibration, heldout)
    ]
    assert found(tmp_path) == (*expected, unread)


def test_parts_are_read_in_order(tmp_path):
    make(tmp_path, *(f"data/{name}" for name in parts("train", 11)), "data/test-0.parquet")
    train = [f"data/{name}" for name in parts("train", 11)]
    assert found(tmp_path) == (train, None, ["data/test-0.parquet"], [])
    (tmp_path / "data" / parts("train", 11)[3]).unlink()
    with pytest.raises(UserError, match="has 10 files of 'train', but .* there are 11; fetch"):
        found(tmp_path)


def test_parts_without_a_name_or_a_count(tmp_path):
    make(tmp_path / "a", "0000.parquet", "0001.parquet")
    make(tmp_path / "b", *(f"train/part-{number}.jsonl" for number in range(11)))
    make(tmp_path / "c", "train_2.json", "train_10.json", "train_1.json")
    assert found(tmp_path / "a")[0] == ["0000.parquet", "0001.parquet"]
    assert found(tmp_path / "b")[0] == [f"train/part-{number}.jsonl" for number in range(11)]
    assert found(tmp_path / "c")[0] == ["train_1.json", "train_2.json", "train_10.json"]


def test_other_names_are_read_where_a_setting_names_them(tmp_path):
    make(tmp_path, *parts("default", 2), *parts("extended", 1), "dev.parquet")
    with pytest.raises(UserError, match="has default, dev, extended: set task.splits.train=def"):
        found(tmp_path)
    named = found(tmp_path, train="default")
    assert named == (parts("default", 2), None, ["dev.parquet"], ["extended"])
    named = found(tmp_path, train="default", calibration="dev", heldout="extended")
    assert named == (parts("default", 2), ["dev.parquet"], parts("extended", 1), [])
    assert found(tmp_path, train="dev", heldout="default")[:3] == (
        ["dev.parquet"], None, parts("default", 2)
    )  # fmt: skip
    with pytest.raises(UserError, match="task.splits.heldout is 'best', but .* has default, dev"):
        found(tmp_path, train="default", heldout="best")
    with pytest.raises(UserError, match="names 'default' twice; a split has one use"):
        found(tmp_path, train="default", heldout="default")
    with pytest.raises(UserError, match="names a split in a folder, but task.path=.* is not one"):
        find_files(tmp_path / "dev.parquet", SplitNames(train="dev"))


def test_several_data_sets_are_listed_and_none_is_guessed(tmp_path):
    make(tmp_path, *(f"{name}/train.jsonl" for name in ("main", "socratic")), "README.md")
    with pytest.raises(UserError, match=r"holds 2 data sets: main, socratic; .*such as .*/main$"):
        found(tmp_path)
    assert found(tmp_path / "socratic")[0] == ["train.jsonl"]


def test_a_folder_without_a_train_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no file .*train.jsonl, and .* has no other file of data"):
        found(tmp_path)
    make(tmp_path, "test.jsonl")
    with pytest.raises(UserError, match=r"nor another train split; .* set task.splits.train=test"):
        found(tmp_path)
    assert found(tmp_path, train="test")[0] == ["test.jsonl"]


def save(folder, count, **state):
    """Writes a split as `datasets` saves it: its state, and Arrow streams."""
    folder.mkdir(parents=True)
    table = pa.table({"question": ["q"]})
    names = [f"data-{part:05}-of-{count:05}.arrow" for part in range(count)]
    for name in names:
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as writer,
        ):
            writer.write_table(table)
    files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, **state}))
    (folder / "dataset_info.json").write_text("{}")


def test_what_datasets_saves_to_disk(tmp_path):
    save(tmp_path / "all" / "train", 2)
    save(tmp_path / "all" / "validation", 1)
    save(tmp_path / "all" / "prompt", 1)
    listed = {"splits": ["train", "validation", "prompt"]}
    (tmp_path / "all" / "dataset_dict.json").write_text(json.dumps(listed))
    train = [f"train/data-0000{part}-of-00002.arrow" for part in range(2)]
    heldout = ["validation/data-00000-of-00001.arrow"]
    assert found(tmp_path / "all") == (train, None, heldout, ["prompt"])
    save(tmp_path / "one", 1, _split="test")
    assert found(tmp_path / "one")[0] == ["data-00000-of-00001.arrow"]
    save(tmp_path / "picked", 1, _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(UserError, match="state.json picks rows by indices; call flatten_indices"):
        found(tmp_path / "picked")
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="state.json has no list '_data_files'; save the dat"):
        found(tmp_path / "one")
