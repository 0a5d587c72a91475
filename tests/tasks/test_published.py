"""The published files load whole, and what their queries say agrees with the files."""

import ast
import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bstar_jax import tasks
from bstar_jax.config import FieldNames
from tests.formats import SIZES


def firsts(records):
    """The records of which no earlier one says the same under another id."""
    found = {}
    for record in records:
        content = {name: value for name, value in record.items() if not name.endswith("id")}
        found.setdefault(json.dumps(content), record)
    return list(found.values())


@pytest.fixture
def published():
    def load(name, file):
        path = pathlib.Path(os.environ.get("BSTAR_DATA", "")) / file
        if not path.is_file():
            pytest.skip(f"set BSTAR_DATA to a folder with the published {file}")
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        total, records = len(records), firsts(records)
        task = tasks.load(name, str(path), **SIZES)
        assert len(task.query_by_id) == len(task.splits["train"]) == len(records)
        noted = [int(note.split(" of ")[0]) for note in task.notes]
        assert noted == ([total - len(records)] if total > len(records) else [])
        for query in task.query_by_id.values():
            json.dumps(query.fields, allow_nan=False)
        return task, records

    return load


def calls(tree):
    """Names of what a program calls."""
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def functions(program):
    """Names of the functions that a program defines, at its top."""
    body = ast.parse(program).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_gsm8k(published):
    task, records = published("gsm8k", "gsm8k_train.jsonl")
    for index, record in enumerate(records):
        query = task.query_by_id[f"train/{index}"]
        assert query.solution == record["answer"].strip()
        assert query.reference == record["answer"].rpartition("#### ")[2].strip()


@pytest.mark.slow
def test_gsm8k_in_the_layouts_of_others_is_the_same_queries(published, tmp_path):
    task, records = published("gsm8k", "gsm8k_train.jsonl")
    answers = [record["answer"].rpartition("#### ")[2] for record in records]
    chats = [[{"role": "user", "content": record["question"]}] for record in records]
    verl = [
        {
            "data_source": "openai/gsm8k",
            "prompt": chat,
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {**record, "index": index, "split": "train"},
        }
        for index, (record, chat, answer) in enumerate(zip(records, chats, answers, strict=True))
    ]
    trl = [
        {"prompt": record["question"], "solution": answer}
        for record, answer in zip(records, answers, strict=True)
    ]
    tables = {
        "main/train-00000-of-00002.parquet": records[:4000],
        "main/train-00001-of-00002.parquet": records[4000:],
        "verl/train.parquet": verl,
        "trl/data/train-00000-of-00001.parquet": trl,
    }
    for name, rows in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    same = tasks.load("gsm8k", str(tmp_path / "main"), **SIZES)
    assert same == task and tasks.fingerprint(same) == tasks.fingerprint(task)
    fields = FieldNames(solution="extra_info.answer")
    chat = tasks.load("verl", str(tmp_path / "verl"), fields=fields, answer_marker="####", **SIZES)
    text = tasks.load("trl", str(tmp_path / "trl"), **SIZES)
    assert len(chat.query_by_id) == len(text.query_by_id) == len(records)
    for query_id, query in task.query_by_id.items():
        asked = chat.query_by_id[query_id]
        assert asked.messages == (("user", query.fields["question"]),)
        assert (asked.reference, asked.solution) == (query.reference, query.solution)
        asked = text.query_by_id[query_id]
        assert (asked.prompt, asked.reference) == (query.prompt, query.reference)


def test_math(published):
    task, records = published("math", "math500_part.jsonl")
    for index, record in enumerate(records):
        query = task.query_by_id[f"train/{index}"]
        assert query.reference.split() == record["answer"].split()
        assert query.prompt.startswith(f"# Question\n\n{record['problem']}")


def test_arc(published):
    task, records = published("arc", "arc_challenge_train.jsonl")
    for record in records:
        query = task.query_by_id[record["id"]]
        right = record["choices"]["text"][record["choices"]["label"].index(record["answerKey"])]
        assert f"\n{record['answerKey']}. {right}\n" in query.prompt
        assert f"# Answer\n\n{query.reference}. {right}\n" in task.hint(query)


def test_humaneval(published):
    task, records = published("humaneval", "humaneval_part.jsonl")
    for record in records:
        query = task.query_by_id[record["task_id"]]
        tests = query.fields["tests"]
        assert tests["entry_point"] in functions(query.prompt + query.solution)
        assert "check" in functions(tests["test"])
        assert tests["entry_point"] in functions(task.hint(query) + query.solution)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_mbpp(published):
    task, records = published("mbpp", "mbpp_part.jsonl")
    for record in records:
        query = task.query_by_id[str(record["task_id"])]
        tests = query.fields["tests"]
        lines = ast.parse("\n".join([tests["setup"], *tests["asserts"]]))
        assert functions(query.reference) & calls(lines)
        assert query.solution == f"```python\n{query.reference}\n```"
        assert query.solution.count("```") == 2
        for line in record["test_list"]:
            assert line.strip() in query.prompt
