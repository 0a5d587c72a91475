"""Published programming problems become queries with tests in one form, or are refused."""

import ast
import json

import pytest

from bstar_jax import tasks
from bstar_jax.config import UserError
from tests.formats import SIZES, load, only, refused, source, write

# HumanEval.

DOUBLE = {
    "task_id": "HumanEval/7",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "\n\ndef check(candidate):\n    assert candidate(2) == 4\n",
}


def test_humaneval_is_continued(tmp_path):
    task = load(tmp_path, "humaneval", DOUBLE)
    query = only(task)
    assert (source(task).answer_kind, source(task).answer_marker, query.query_id) == (
        "code",
        "",
        "HumanEval/7",
    )
    assert query.prompt == DOUBLE["prompt"]
    assert query.solution == query.reference == DOUBLE["canonical_solution"]
    assert query.fields["tests"] == {
        "kind": "check",
        "prompt": DOUBLE["prompt"],
        "test": DOUBLE["test"],
        "entry_point": "double",
    }


def test_the_hint_of_humaneval_is_a_program_that_the_response_continues(tmp_path):
    task = load(tmp_path, "humaneval", DOUBLE)
    query = only(task)
    hint = task.hint(query)
    assert hint.endswith("\n" + query.prompt)
    first, again = ast.parse(hint + query.solution).body
    assert ast.dump(first) == ast.dump(again)


@pytest.mark.parametrize("name", ["prompt", "entry_point", "test"])
def test_humaneval_needs_its_fields(tmp_path, name):
    refused(tmp_path, "humaneval", {**DOUBLE, name: None}, f"field '{name}' holds null")
    record = {key: value for key, value in DOUBLE.items() if key != name}
    refused(tmp_path, "humaneval", record, f"there is no field '{name}'")


# MBPP.

SHARED = {
    "text": "Write a function to double.",
    "code": "\r\ndef double(x):\r\n  return 2 * x ",
    "task_id": 12,
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0 "],
    "challenge_test_list": ["assert double(9) == 18"],
}


def test_mbpp_shows_its_tests_and_takes_a_fenced_program(tmp_path):
    task = load(tmp_path, "mbpp", SHARED)
    query = only(task)
    tests = ["assert double(2) == 4", "assert double(0) == 0"]
    assert (source(task).answer_kind, source(task).answer_marker, query.query_id) == (
        "code",
        "",
        "12",
    )
    assert query.reference == "def double(x):\n  return 2 * x"
    assert query.solution == f"```python\n{query.reference}\n```"
    assert query.fields["tests"] == {"kind": "asserts", "setup": "", "asserts": tests}
    assert "Write a function to double.\n\n" in query.prompt
    assert "\n".join(tests) in query.prompt and "double(9)" not in query.prompt
    assert query.reference not in query.prompt
    assert query.reference in task.hint(query)


def test_mbpp_setup_and_the_imports_of_the_sanitized_file_precede_the_tests(tmp_path):
    setup = "root = Node(1) \r\nroot.left = Node(2)"
    query = only(load(tmp_path, "mbpp", SHARED | {"test_setup_code": setup}))
    assert query.fields["tests"]["setup"] == "root = Node(1) \nroot.left = Node(2)"
    assert query.fields["tests"]["setup"] + "\nassert double(2) == 4" in query.prompt
    sanitized = {
        "source_file": "x",
        "task_id": 2,
        "prompt": "Write a function to double.",
        "code": "def double(x): return 2 * x",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(double(2), 4)"],
    }
    query = only(load(tmp_path, "mbpp", sanitized))
    assert query.fields["tests"]["setup"] == "import math"
    assert "import math\nassert math.isclose" in query.prompt
    assert (
        only(load(tmp_path, "mbpp", sanitized | {"test_imports": []})).fields["tests"]["setup"]
        == ""
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_list": []}, "field 'test_list' is an empty list; of tests there is at least one"),
        ({"test_list": "assert True"}, "field 'test_list' holds text; the tests are a list"),
        ({"test_list": ["assert True", 3]}, r"field 'test_list\[1\]' holds a number; the test is"),
        ({"test_imports": "import re"}, "field 'test_imports' holds text"),
        ({"test_setup_code": 3}, "field 'test_setup_code' holds a number"),
        ({"text": ""}, "field 'text' is empty"),
        ({"code": 3}, "field 'code' holds a number"),
    ],
)
def test_broken_mbpp_is_refused(tmp_path, change, message):
    refused(tmp_path, "mbpp", SHARED | change, message)


# APPS.


def problem(tests, **change):
    record = {
        "problem_id": 3,
        "question": "Add the numbers.\n",
        "solutions": json.dumps(["print(sum(map(int, input().split())))\r\n", "other"]),
        "input_output": tests if isinstance(tests, str) else json.dumps(tests),
        "difficulty": "interview",
        "url": "https://example.org",
        "starter_code": "",
    }
    return record | change


def test_apps_reads_input_and_output_as_text(tmp_path):
    task = load(
        tmp_path, "apps", problem({"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3", ["7", ""]]})
    )
    query = only(task)
    assert (source(task).answer_kind, query.query_id) == ("code", "train/3")
    assert query.fields["tests"] == {
        "kind": "stdio",
        "inputs": ["1 2\n", "3\n4"],
        "outputs": ["3", "7\n"],
    }
    assert query.reference == "print(sum(map(int, input().split())))"
    assert query.solution == f"```python\n{query.reference}\n```"
    assert query.more_solutions == ("```python\nother\n```",)
    assert query.solutions(1) == (query.solution,) and len(query.solutions(9)) == 2
    assert "Add the numbers.\n\nThe program reads standard input" in query.prompt
    assert task.notes == ()


def test_apps_calls_keep_their_values_as_python_reads_them(tmp_path):
    starter = "class Solution:\n    def grow(self, x: int) -> int:\n        "
    digits = "9" * 5000  # more than Python itself reads or writes
    tests = f'{{"fn_name": "grow", "inputs": [[1, [2.5, "a"]], [{digits}]], "outputs": [2, [3]]}}'
    (query,) = load(tmp_path, "apps", problem(tests, starter_code=starter)).splits["train"]
    found = query.fields["tests"]
    assert (found["kind"], found["fn_name"]) == ("calls", "grow")
    assert found["inputs"] == [[1, [2.5, "a"]], [10**5000 - 1]] and found["outputs"] == [2, [3]]
    assert [type(value) for value in (found["inputs"][0][0], found["outputs"][0])] == [int, int]
    assert "`grow`" in query.prompt and starter.strip() in query.prompt
    assert "standard input" not in query.prompt


def test_apps_counts_problems_of_both_files_from_the_start(tmp_path):
    tests = {"inputs": ["1"], "outputs": ["1"]}
    for split, count in (("train", 3), ("test", 2)):
        asked = [problem(tests, problem_id=i, question=f"{split} {i}?") for i in range(count)]
        write(tmp_path / f"{split}.jsonl", asked)
    task = tasks.load("apps", str(tmp_path), **{**SIZES, "heldout_queries": 2})
    assert set(task.query_by_id) == {"train/0", "train/1", "train/2", "test/0", "test/1"}


def test_apps_without_tests_is_left_out_and_said(tmp_path):
    good = {"inputs": ["1"], "outputs": ["1"]}
    records = [
        problem(good, problem_id=0),
        problem("", problem_id=1),
        problem({"inputs": [], "outputs": []}, problem_id=2),
    ]
    task = load(tmp_path, "apps", *records)
    assert set(task.query_by_id) == {"train/0"}
    (note,) = task.notes
    assert note.startswith("2 of 3 records have no tests and are left out, such as ")
    assert note.endswith("line 2")


@pytest.mark.parametrize("solutions", ["", "[]", '["", " "]'])
def test_apps_without_a_solution_has_no_example_and_no_hint(tmp_path, solutions):
    record = problem({"inputs": ["1"], "outputs": ["1"]}, solutions=solutions)
    task = load(tmp_path, "apps", record)
    query = only(task)
    assert (query.reference, query.solution) == ("", "")
    with pytest.raises(UserError, match="'train/3' has no human solution .*rationalize=False"):
        task.hint(query)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_output": '{"inputs": [1}'}, "field 'input_output' is not JSON: .*column 14"),
        ({"input_output": "[]"}, "field 'input_output' holds the JSON of a list"),
        ({"input_output": '{"inputs": [NaN], "outputs": [1]}'}, "is not JSON: NaN is none of"),
        ({"input_output": {"inputs": []}}, "field 'input_output' holds an object"),
        ({"input_output": '{"inputs": ["1"]}'}, "field 'input_output' has no 'outputs'"),
        ({"input_output": '{"inputs": "1", "outputs": []}'}, "has text as 'inputs'; it is a list"),
        ({"input_output": '{"inputs": ["1"], "outputs": []}'}, "has 1 inputs and 0 outputs"),
        ({"input_output": '{"inputs": [1], "outputs": ["1"]}'}, "has a number among its inputs"),
        (
            {"input_output": '{"fn_name": "f", "inputs": [1], "outputs": [1]}'},
            r"has a number as inputs\[0\]; calls take a list of arguments",
        ),
        (
            {"input_output": '{"fn_name": "f()", "inputs": [[1]], "outputs": [1]}'},
            r"has the fn_name 'f\(\)'; it is the name of a function",
        ),
        ({"solutions": '["a"'}, "field 'solutions' is not JSON"),
        ({"solutions": '"a"'}, "field 'solutions' is not the JSON of a list of programs"),
        ({"solutions": "[1]"}, "field 'solutions' is not the JSON of a list of programs"),
        ({"question": ""}, "field 'question' is empty"),
    ],
)
def test_broken_apps_is_refused(tmp_path, change, message):
    refused(tmp_path, "apps", problem({"inputs": ["1"], "outputs": ["1"]}, **change), message)


def test_apps_needs_its_tests(tmp_path):
    record = problem("")
    del record["input_output"]
    refused(tmp_path, "apps", record, "there is no field 'input_output' for the tests")
