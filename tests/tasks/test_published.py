"""The published files load whole, and what their queries say agrees with the files."""

import ast
import json
import os
import pathlib

import pytest

from bstar_jax import tasks
from tests.formats import SIZES


@pytest.fixture
def published():
    def load(name, file):
        path = pathlib.Path(os.environ.get("BSTAR_DATA", "")) / file
        if not path.is_file():
            pytest.skip(f"set BSTAR_DATA to a folder with the published {file}")
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        task = tasks.load(name, str(path), **SIZES)
        assert len(task.query_by_id) == len(task.splits["train"]) == len(records)
        assert task.notes == ()
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
