"""The same records come out of every form of file, and what is broken is refused with its place."""

import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bstar_jax.config import UserError
from bstar_jax.tasks.rows import read_rows
from bstar_jax.tasks.values import MOST_DIGITS, decode, decode_array, plain

RECORDS = [
    {"question": "a\u2028b", "answer": 12, "deep": {"more": [1.5, 0.1], "none": None}, "is": True},
    {"question": "naïve", "answer": -3, "deep": {"more": [], "none": None}, "is": False},
    {"question": "\n[", "answer": 10**15, "deep": {"more": [2.0], "none": None}, "is": None},
]


def lines():
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS)


def arrow(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def arrow_file(path):
    table = pa.Table.from_pylist(RECORDS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "a.jsonl": lambda path: path.write_text(lines(), encoding="utf-8"),
    "b.jsonl": lambda path: path.write_bytes(lines().replace("\n", "\r\n").encode()),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines().encode())),
    "a.data": lambda path: path.write_text(lines(), encoding="utf-8"),
    "lines.json": lambda path: path.write_text(lines(), encoding="utf-8"),
    "a.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "b.json": lambda path: path.write_text("\ufeff \n" + json.dumps(RECORDS, indent=1) + "\n\n"),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path),
    "a.arrow": arrow,
    "b.arrow": arrow_file,
}


def values(file, columns=None):
    rows = list(read_rows(file, columns))
    for row in rows:
        if row.error:
            raise row.error
    return [row.values for row in rows]


def is_exact(value):
    """Whether every number in a value is a Decimal."""
    if isinstance(value, (dict, list)):
        return all(map(is_exact, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (int, float)) or isinstance(value, bool)


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_records(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = values(tmp_path / name)
    assert is_exact(found)
    assert [plain(each) for each in found] == RECORDS
    assert [type(plain(each)["answer"]) for each in found] == [int] * 3


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "b.arrow"])
def test_a_table_reads_only_the_columns_that_are_needed(tmp_path, name):
    WRITERS[name](tmp_path / name)
    rows = list(read_rows(tmp_path / name, {"answer", "elsewhere"}))
    assert [row.values for row in rows] == [{"answer": record["answer"]} for record in RECORDS]
    assert rows[0].unread == ("question", "deep", "is")
    assert [row.place for row in rows] == [f"{tmp_path / name}, row {i}" for i in range(3)]
    assert len(list(read_rows(tmp_path / name, {"elsewhere"}))) == 3


def test_floats_of_a_table_are_read_as_they_were_written(tmp_path):
    columns = {
        "half": pa.array([0.1, 2.5], pa.float16()),
        "single": pa.array([0.1, 1e30], pa.float32()),
        "double": pa.array([0.1, float("nan")], pa.float64()),
        "several": pa.array([[0.1], [16777216.0]], pa.list_(pa.float32())),
        "exact": pa.array([decimal.Decimal("0.10"), None], pa.decimal128(5, 2)),
        "big": pa.array([2**63, 0], pa.uint64()),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
        "day": pa.array([0, 1], pa.date32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    first, second = values(tmp_path / "a.parquet")
    tenth = decimal.Decimal("0.1")
    assert first == {
        "half": tenth, "single": tenth, "double": tenth, "several": [tenth],
        "exact": decimal.Decimal("0.10"), "big": 2**63, "map": {"a": 1}, "day": "1970-01-01",
    }  # fmt: skip
    assert second["single"] == decimal.Decimal("1e30") and second["several"] == [16777216]
    assert second["double"].is_nan() and plain(second["double"]) is None


def test_an_array_tells_the_line_of_each_element(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n{"a": 1},\n\n {"a":\n 2}, 7,\n{"a": 3}\n]\n')
    rows = list(read_rows(path))
    assert [row.place for row in rows] == [f"{path}, line {line}" for line in (2, 4, 5, 6)]
    assert str(rows[2].error) == f"{path}, line 5 holds a number; each element is a JSON object"
    path.write_text(" [ ]")
    assert list(read_rows(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}', "line 1: not JSON: a ',' or the end of the array is missing"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: not JSON: a ',' or the end"),
        ('[{"a": 1}]\n]', "line 1: not JSON: a ',' or the end"),
        ('[{"a": 1},\n]', "line 2, column 1: not JSON"),
        ('[{"a": 1},\n{"a" 1}]', "line 2, column 6: not JSON"),
        ('[\n{"a": 1, "a": 2}]', "line 2: the key 'a' stands twice"),
        ('[\n{"a": 1e99999}]', "line 2: the number '1e99999' has more than 10,000 digits"),
    ],
)
def test_a_broken_array_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(f"{path}, line")


BOMBS = {
    "nested deeply": ('{"a": ' + "[" * 2000 + "]" * 2000 + "}", "more than 100 deep"),
    "nested beyond the stack": ('{"a": ' + "[" * 10**6 + "]" * 10**6 + "}", "more than 100 deep"),
    "objects in objects": ('{"a": ' * 101 + "1" + "}" * 101, "more than 100 deep"),
    "beyond Decimal": ('{"a": 1e9999999999999999999}', "more than 10,000 digits when written out"),
    "smaller than Decimal": ('{"a": -1e-9999999999999999999}', "more than 10,000 digits"),
    "large when written": ('{"a": 1e100000000}', "the number '1e100000000' has more than 10,000"),
    "keys twice": ('{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice in one object"),
    "keys twice inside": ('{"a": [{"b": 1, "b": 2}]}', "the key 'b' stands twice in one object"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_break_or_fill_the_machine_is_refused_with_its_line(tmp_path, name):
    line, message = BOMBS[name]
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + line + '\n{"a": 2}\n')
    first, broken, last = read_rows(path)
    assert (first.values, last.values) == ({"a": 1}, {"a": 2}) and broken.error
    assert str(broken.error).startswith(f"{path}, line 2: ") and message in str(broken.error)


def test_what_is_large_and_no_danger_is_read():
    wide = {"a": [[1]] * 500, "b": "[[[[{{{{" * 100}
    assert decode(json.dumps(wide), "here") == wide
    deep = json.loads('{"a": ' + "[" * 98 + "]" * 98 + "}")
    assert decode(json.dumps(deep), "here") == deep
    digits = "9" * MOST_DIGITS
    assert str(decode(digits, "here")) == digits
    assert list(decode_array("[1, [2]]", "here")) == [(1, 1), (1, [2])]


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("1.50", 1.5), ("2.0", 2.0), ("1e2", 100.0), ("NaN", None), ("-0", 0)],
)
def test_plain_numbers_are_those_of_json(text, value):
    found = plain(decode(text, "here"))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["1e5000", "Infinity", "9" * 5000])
def test_numbers_without_a_plain_value_are_refused(text):
    with pytest.raises(ValueError, match="too large for a float|more than 4000 digits"):
        plain(decode(text, "here"))


def test_files_that_are_broken_as_a_whole_are_refused(tmp_path):
    whole = gzip.compress(lines().encode())
    broken = {
        "cut.jsonl.gz": (whole[:-20], "is broken"),
        "no.jsonl.gz": (b"abc", "is broken"),
        "no.parquet": (b"abc", "is no Parquet file, or is broken"),
        "no.arrow": (b"abcdefghijk", "is no Arrow file, or is broken"),
        "a.csv": (b"a,b\n", "is no file of data that is known; write its records as JSON Lines"),
    }
    for name, (content, message) in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            list(read_rows(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-8])
    with pytest.raises(UserError, match="is no Parquet file, or is broken"):
        list(read_rows(tmp_path / "a.parquet"))
