"""Tasks from files: splits drawn as documented, and bad files refused with their place."""

import hashlib
import json

import pytest

from bstar_jax import tasks
from bstar_jax.config import FieldNames, UserError
from bstar_jax.tasks.task import fill
from tests.formats import source


def record(index):
    return {
        "question": f"What is {index} + 1?",
        "answer": f"{index}+1=<<{index}+1={index + 1}>>{index + 1}\n#### {index + 1}",
    }


def write(path, lines):
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return str(path)


def load(path, name="gsm8k", **settings):
    sizes = {"sft_examples": 3, "calibration_queries": 2, "heldout_queries": 4}
    return tasks.load(name, str(path), **{"seed": 0, **sizes, **settings})


@pytest.fixture
def gsm8k_file(tmp_path):
    return write(tmp_path / "train.jsonl", [record(i) for i in range(20)])


def order(ids, seed=0):
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())


def ids(queries):
    return [query.query_id for query in queries]


def test_splits_of_a_single_file_are_drawn_by_seed_and_id(gsm8k_file):
    task = load(gsm8k_file)
    expected = order([f"train/{i}" for i in range(20)])
    assert ids(task.splits["heldout"]) == expected[:4]
    assert ids(task.splits["calibration"]) == expected[4:6]
    assert ids(task.splits["train"]) == expected[6:]
    assert ids(task.splits["sft"]) == expected[6:9]
    assert ids(load(gsm8k_file, seed=1).splits["heldout"]) != expected[:4]
    for name, queries in task.splits.items():
        assert {query.split for query in queries} == {name}


def test_order_of_the_lines_does_not_matter_where_records_have_ids(tmp_path):
    records = [{**record(i), "id": f"r{i}"} for i in range(20)]
    forward = load(write(tmp_path / "a.jsonl", records))
    backward = load(write(tmp_path / "b.jsonl", records[::-1]))
    assert forward == backward


def test_a_test_file_gives_the_held_out_queries_and_train_keeps_its_own(tmp_path):
    write(tmp_path / "train.jsonl", [record(i) for i in range(10)])
    write(tmp_path / "test.jsonl", [record(i) for i in range(100, 108)])
    task = load(tmp_path)
    assert ids(task.splits["heldout"]) == order([f"test/{i}" for i in range(8)])[:4]
    train = order([f"train/{i}" for i in range(10)])
    assert ids(task.splits["calibration"]) == train[:2]
    assert ids(task.splits["train"]) == train[2:]


def test_a_folder_without_a_test_file_is_its_train_file(tmp_path, gsm8k_file):
    assert load(tmp_path) == load(gsm8k_file)


def test_gsm8k_queries_keep_the_published_solution(gsm8k_file):
    task = load(gsm8k_file)
    query = task.query_by_id["train/7"]
    assert query.prompt == "# Question\n\nWhat is 7 + 1?\n\n# Solution\n\n"
    assert query.solution == "7+1=<<7+1=8>>8\n#### 8"
    assert query.reference == "8"
    assert task.hint(query) == ("# Question\n\nWhat is 7 + 1?\n\n# Answer\n\n8\n\n# Solution\n\n")


def test_templates_are_the_callers(gsm8k_file):
    task = load(gsm8k_file, prompt="Q: {question}\nA:", hint_prompt="{question} ({reference})")
    query = task.query_by_id["train/7"]
    assert query.prompt == "Q: What is 7 + 1?\nA:"
    assert task.hint(query) == "What is 7 + 1? (8)"


def test_fill_leaves_other_braces_and_what_it_put_in_alone():
    filled = fill(r"{question} \frac{1}{2} {reference}", question="{reference} {x}", reference="7")
    assert filled == r"{reference} {x} \frac{1}{2} 7"


def test_jsonl_reads_the_named_fields(tmp_path):
    rows = [{"key": i, "ask": f"q{i}", "value": i / 2, "why": f"because {i}"} for i in range(9)]
    path = write(tmp_path / "own.jsonl", rows)
    fields = FieldNames(id="key", question="ask", answer="value", solution="why")
    task = load(path, "jsonl", fields=fields, answer_marker="So:")
    query = task.query_by_id["3"]
    assert (query.reference, query.solution) == ("1.5", "because 3\nSo: 1.5")
    assert (source(task).answer_marker, source(task).answer_kind) == ("So:", "number")


def test_jsonl_needs_no_solutions_without_warm_up(tmp_path):
    path = write(tmp_path / "own.jsonl", [{"question": f"q{i}", "answer": i} for i in range(9)])
    assert load(path, "jsonl", sft_examples=0).splits["sft"] == ()
    with pytest.raises(UserError, match=r"sft.examples is 3, but the records have no solutions"):
        load(path, "jsonl")


@pytest.mark.parametrize(
    ("number", "reference"), [("12", "12"), ("1.50", "1.50"), ("1e2", "100"), ("-0.1", "-0.1")]
)
def test_json_numbers_are_answers_as_written(tmp_path, number, reference):
    path = write(tmp_path / "a.jsonl", [f'{{"question": "q", "answer": {number}, "id": 1}}'])
    sizes = {"sft_examples": 0, "calibration_queries": 0, "heldout_queries": 0}
    assert load(path, "jsonl", **sizes).query_by_id["1"].reference == reference


@pytest.mark.parametrize("number", ["NaN", "9" * 5000])
def test_json_numbers_that_are_no_answers_are_refused(tmp_path, number):
    path = write(tmp_path / "a.jsonl", [f'{{"question": "q", "answer": {number}}}'])
    with pytest.raises(UserError, match="line 1: field 'answer': no number can be read"):
        load(path, "jsonl")


def test_text_answers_and_given_ids(tmp_path):
    rows = [{"id": f"x{i}", "question": f"q{i}", "answer": "The moon"} for i in range(9)]
    task = load(write(tmp_path / "a.jsonl", rows), "jsonl", reward="text", sft_examples=0)
    assert source(task).answer_kind == "text"
    assert task.query_by_id["x3"].reference == "The moon"


def test_blank_lines_a_byte_order_mark_and_odd_line_separators_are_read(tmp_path):
    lines = [record(0) | {"question": "a\u2028b"}, "", *(record(i) for i in range(1, 12)), "  "]
    path = tmp_path / "train.jsonl"
    write(
        path,
        [json.dumps(line, ensure_ascii=False) if line and line != "  " else line for line in lines],
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    task = load(path)
    assert task.query_by_id["train/0"].prompt == "# Question\n\na\u2028b\n\n# Solution\n\n"
    assert task.query_by_id["train/1"].fields["question"] == "What is 1 + 1?"


BAD_LINES = [
    ('{"question": "a", "answer"}', r"line 3, column 27: not JSON"),
    ("[1, 2]", r"line 3 holds a list; each line is a JSON object"),
    ({"questions": "a", "answer": "#### 1"}, r"line 3: there is no field 'question'.*'questions'"),
    ({"question": "a"}, r"line 3: there is no field 'answer'"),
    (
        {"question": 5, "answer": "#### 1"},
        r"line 3: field 'question' holds a number; the",
    ),
    ({"question": " ", "answer": "#### 1"}, r"line 3: field 'question' is empty"),
    ({"question": "\udfff", "answer": "#### 1"}, r"line 3: field 'question' holds half of a char"),
    ({**record(1), "id": "\ud800"}, r"line 3: field 'id' holds half of a character"),
    ({"question": "a", "answer": ["#### 1"]}, r"line 3: field 'answer' holds a list"),
    ({"question": "a", "answer": True}, r"line 3: field 'answer' holds true or false"),
    ({"question": "a", "answer": None}, r"line 3: field 'answer' holds null"),
    ({"question": "a", "answer": "#### many"}, r"line 3: field 'answer': no number .*'many'"),
    ({"question": "a", "answer": "####"}, r"line 3: field 'answer': no number"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_refused_with_its_place(tmp_path, line, message):
    lines = [record(0), "", line, *(record(i) for i in range(1, 20))]
    path = write(tmp_path / "train.jsonl", lines)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert path in str(caught.value)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"question": "a\xff"}\n')
    with pytest.raises(UserError, match=r"line 1, byte 16: not UTF-8"):
        load(path)


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none.jsonl"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"there is no file .*train.jsonl"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"train.jsonl holds no records"):
        load(write(tmp_path / "train.jsonl", ["", " "]))


def test_duplicate_ids_are_refused_with_both_lines(tmp_path):
    rows = [record(0) | {"id": "a"}, record(1) | {"id": "b"}, record(2) | {"id": "a"}]
    with pytest.raises(UserError, match=r"line 3: the id 'a' stands in .*line 1 already"):
        load(write(tmp_path / "train.jsonl", rows))


def test_duplicate_ids_between_train_and_test_are_refused(tmp_path):
    write(tmp_path / "train.jsonl", [record(i) | {"id": i} for i in range(9)])
    write(tmp_path / "test.jsonl", [record(20) | {"id": 20}, record(21) | {"id": 5}])
    with pytest.raises(UserError, match=r"test.jsonl, line 2: the id '5' .*train.jsonl, line 6"):
        load(tmp_path)


def test_too_few_records_are_refused_with_both_numbers(tmp_path):
    path = write(tmp_path / "train.jsonl", [record(i) for i in range(8)])
    with pytest.raises(
        UserError,
        match=r"has 8 records, but 9 are needed \(4 held-out \+ 2 calibration \+ 3 train\)",
    ):
        load(path)
    assert len(load(path, sft_examples=2).splits["train"]) == 2


def test_too_few_test_records_are_refused(tmp_path):
    write(tmp_path / "train.jsonl", [record(i) for i in range(9)])
    write(tmp_path / "test.jsonl", [record(i) for i in range(3)])
    with pytest.raises(UserError, match=r"test.jsonl has 3 records, but 4 are needed"):
        load(tmp_path)


def test_a_solution_that_contradicts_its_reference_is_refused(tmp_path):
    row = {"question": "a", "answer": "7", "why": "so\n#### 8"}
    fields = FieldNames(solution="why")
    with pytest.raises(UserError, match=r"line 1: the solution states '8', .*answer is '7'"):
        load(write(tmp_path / "a.jsonl", [row]), "jsonl", fields=fields)


def test_a_missing_id_field_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [record(0) | {"uid": 1}])
    with pytest.raises(UserError, match=r"no field 'udi' for the id; .*task.fields.id=uid"):
        load(path, "jsonl", fields=FieldNames(id="udi"))


def test_a_task_of_files_says_where_each_query_stands(gsm8k_file):
    task = load(gsm8k_file)
    assert task.places == {f"train/{i}": f"{gsm8k_file}, line {i + 1}" for i in range(20)}
    assert task.notes == ()


def test_an_unknown_task_is_refused():
    with pytest.raises(
        UserError, match=r"task.name is 'gsm'; it takes one of 'arithmetic', 'gsm8k'"
    ):
        load("", "gsm")
