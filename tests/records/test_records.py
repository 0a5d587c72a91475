"""What stands in memory is what stands in the file, and null is never zero."""

import errno
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bstar_jax.config import UserError
from bstar_jax.records import SCHEMA, Rollouts
from bstar_jax.records.files import (
    atomic_directory,
    atomic_file,
    full_disk_explained,
    write_json,
)


def rollouts(count=4, **columns):
    """Ungraded rows of two queries."""
    return Rollouts.from_columns(
        {
            "query_id": [f"train/{row % 2}" for row in range(count)],
            "sample_index": list(range(count)),
            "temperature": [0.7] * count,
            "top_k": [0] * count,
            **columns,
        }
    )


def test_the_columns_are_those_that_people_rely_on():
    types = {field.name: str(field.type) for field in SCHEMA}
    assert types == {
        "iteration": "int32",
        "split": "string",
        "query_id": "string",
        "sample_index": "int32",
        "temperature": "float",
        "top_k": "int32",
        "prompt": "string",
        "response": "string",
        "num_tokens": "int32",
        "finish_reason": "string",
        "logprob": "float",
        "answer": "string",
        "correct": "bool",
        "reason": "string",
        "process_reward": "float",
        "step_rewards": types["step_rewards"],
        "reward": "double",
        "selected": "bool",
        "rationalized": "bool",
        "score": "float",
        "message": "string",
        "source": "string",
        "messages": types["messages"],
    }
    assert [field.name for field in SCHEMA.field("messages").type.value_type] == ["role", "content"]
    assert SCHEMA.field("step_rewards").type == pa.list_(pa.float32())


def test_what_was_not_computed_is_null():
    rows = rollouts()
    assert rows.column("reward") == [None] * 4
    with pytest.raises(ValueError, match="'reward' has 4 nulls of 4 rows"):
        rows.array("reward")
    np.testing.assert_array_equal(rows.array("sample_index"), [0, 1, 2, 3])
    assert rows.array("temperature").dtype == np.float32


def test_columns_that_do_not_exist_or_differ_in_length_are_refused():
    with pytest.raises(KeyError, match=r"not rollout columns: \['rewards'\]"):
        rollouts(rewards=[0.0] * 4)
    with pytest.raises(ValueError, match="differ in length"):
        rollouts(reward=[0.0] * 3)
    with pytest.raises(KeyError, match="'rewards' is not a rollout column"):
        rollouts().with_columns(rewards=[0.0] * 4)
    with pytest.raises(pa.ArrowInvalid):
        rollouts().with_columns(reward=[0.0] * 3)


def test_rows_come_back_from_a_file_as_they_were(tmp_path):
    rows = rollouts(
        response=["", "é\n\t", "8 - 3", None],
        step_rewards=[[], None, [1.0, -1.0], [0.5]],
        logprob=[-0.0, -1e-30, None, -123.456],
        reward=[1.2345678, None, 0.0, -1.0],
        correct=[True, None, False, True],
    ).with_seconds(sample=1.5, grade=0.25)
    path = tmp_path / "new" / "rows.parquet"
    rows.write(path)
    back = Rollouts.read(path)
    assert back.table.equals(rows.table)
    assert back.seconds == {"sample": 1.5, "grade": 0.25}
    assert [each.name for each in path.parent.iterdir()] == ["rows.parquet"]
    back.write(path)
    assert Rollouts.read(path).table.equals(rows.table)


def test_equal_rows_are_equal_bytes(tmp_path):
    for name in "ab":
        rollouts().write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_rows_are_rows_too(tmp_path):
    for empty in (Rollouts.from_columns({}), Rollouts.concatenate([]), rollouts(0)):
        assert len(empty) == 0 and empty.table.schema == SCHEMA
        empty.write(tmp_path / "empty.parquet")
        assert len(Rollouts.read(tmp_path / "empty.parquet")) == 0


@pytest.mark.parametrize("count", [0, 3])
def test_rows_travel_as_bytes(count):
    sent = rollouts(count)
    assert Rollouts.from_bytes(sent.to_bytes()).table.equals(sent.table)


def test_another_file_is_refused_with_its_columns(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"], "score": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other.parquet: columns are \['prompt', 'score'\]"):
        Rollouts.read(tmp_path / "other.parquet")


def test_rows_are_sorted_by_query_order_temperature_top_k_and_sample():
    rng = np.random.default_rng(0)
    grid = [
        (query, temperature, top_k, sample)
        for query in ("b", "a", "c")
        for temperature in (0.5, 0.7, 1.1)
        for top_k in (0, 5)
        for sample in (0, 1, 10)
    ]
    names = ("query_id", "temperature", "top_k", "sample_index")
    shuffled = [grid[place] for place in rng.permutation(len(grid))]
    rows = Rollouts.from_columns(dict(zip(names, zip(*shuffled, strict=True), strict=True)))
    rows = rows.with_seconds(sample=2.0).sorted(["b", "a", "c", "unused"])
    got = list(zip(*map(rows.column, names), strict=True))
    assert [(q, round(t, 3), k, n) for q, t, k, n in got] == grid
    assert rows.seconds == {"sample": 2.0}
    with pytest.raises(KeyError, match="'c'"):
        rows.sorted(["a", "b"])


def test_filter_and_concatenate_undo_each_other():
    rows = rollouts(6, response=list("abcdef")).with_seconds(sample=2.0)
    even = [row % 2 == 0 for row in range(6)]
    parts = [rows.filter(even), rows.filter([not keep for keep in even])]
    assert parts[0].column("response") == ["a", "c", "e"]
    joined = Rollouts.concatenate(parts)
    assert joined.column("response") == list("acebdf")
    assert joined.seconds == {"sample": 4.0}


def test_with_columns_keeps_the_rest_and_the_types():
    rows = rollouts().with_columns(reward=np.arange(4), selected=np.array([1, 0, 1, 0], bool))
    assert rows.table.schema == SCHEMA
    assert rows.column("reward") == [0.0, 1.0, 2.0, 3.0]
    assert rows.column("query_id") == rollouts().column("query_id")
    assert rollouts().with_seconds(a=1.0).with_seconds(b=2.0).seconds == {"a": 1.0, "b": 2.0}


def killed(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["os.replace", "os.fsync"])
def test_a_file_is_complete_under_its_name_or_not_there(tmp_path, monkeypatch, name):
    path = tmp_path / "figures.txt"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(name, killed)
        with atomic_file(path) as file:
            file.write("half")
    assert not list(tmp_path.iterdir())
    (tmp_path / "figures.txt.tmp").write_text("what a kill left, which is longer")
    with atomic_file(path) as file:
        file.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    with pytest.raises(ZeroDivisionError), atomic_file(path, "wb") as file:
        file.write(bytes(1 // 0))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ["é\n".encode()]


def test_a_folder_is_complete_under_its_name_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "inner" / "out"
    (tmp_path / "inner" / ".out.writing").mkdir(parents=True)
    (tmp_path / "inner" / ".out.writing" / "half").write_text("what a kill left")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("os.replace", killed)
        with atomic_directory(path) as folder:
            (folder / "file").write_text("x")
    assert not list((tmp_path / "inner").iterdir())
    with atomic_directory(path) as folder:
        (folder / "file").write_text("x")
        assert not path.exists()
    assert [each.name for each in (tmp_path / "inner").iterdir()] == ["out"]
    assert [each.name for each in path.iterdir()] == ["file"]


def test_one_rename_makes_a_file_and_a_folder(tmp_path):
    """What watches a run's renames, to kill it at one, hears each name once."""
    program = (
        "import sys\n"
        "heard = []\n"
        "sys.addaudithook(lambda event, given: event == 'os.rename' and heard.append(given[1]))\n"
        "from bstar_jax.records.files import atomic_directory, atomic_file, write_json\n"
        "with atomic_directory(sys.argv[1] + '/folder') as folder:\n"
        "    with atomic_file(folder / 'file') as file:\n"
        "        file.write('x')\n"
        "write_json(sys.argv[1] + '/values.json', [1])\n"
        "print(*[str(path).rpartition('/')[2] for path in heard])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["file", "folder", "values.json"]


def test_json_is_one_line_with_its_end_and_holds_no_nan(tmp_path):
    write_json(tmp_path / "values.json", {"a": [1, None]})
    assert (tmp_path / "values.json").read_text() == '{"a": [1, null]}\n'
    write_json(tmp_path / "values.json", {"a": 1}, indent=2)
    assert (tmp_path / "values.json").read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "values.json", float("nan"))
    assert (tmp_path / "values.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_full_disk_is_explained_and_other_errors_pass():
    message = "cannot write here: No space left.*; free space there and"
    with pytest.raises(UserError, match=message), full_disk_explained("here"):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(PermissionError), full_disk_explained("here"):
        raise PermissionError(errno.EACCES, "not yours")


def test_files_of_earlier_versions_lack_columns(tmp_path):
    older = ("score", "message", "source", "messages")
    table = rollouts(correct=[True, False, True, False]).table.drop_columns(list(older))
    pq.write_table(table, tmp_path / "older.parquet")
    read = Rollouts.read(tmp_path / "older.parquet")
    assert read.table.schema == SCHEMA
    assert [read.column(name) for name in older] == [[None] * 4] * 4
    assert read.column("correct") == [True, False, True, False]
