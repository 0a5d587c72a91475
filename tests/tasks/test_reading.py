"""Each question counts once, no train query is held out too, and what is left out is listed."""

import json
import random

import pytest

from bstar_jax import tasks
from bstar_jax.answers.mathematics.verifier import MathVerifier
from bstar_jax.config import FieldNames, SourceConfig, UserError
from bstar_jax.tasks.left_out import write_left_out
from tests.formats import SIZES, write

BROKEN = '{"question": "q", "answer":'


def record(index, **more):
    return {"question": f"q{index}", "answer": index, **more}


def load(path, **settings):
    return tasks.load("file", str(path), **{**SIZES, **settings})


def asked(task, split="train"):
    return {query.fields["question"] for query in task.splits[split]}


def write_lines(path, records):
    """Writes records, of which some are broken lines already."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_repeats_count_once_and_the_first_stays(tmp_path):
    numbers = random.Random(0).choices(range(20), k=100)
    path = write(tmp_path / "a.jsonl", [record(number) for number in numbers])
    task = load(path)
    firsts = {f"train/{numbers.index(number)}" for number in set(numbers)}
    assert set(task.query_by_id) == firsts == set(task.places)
    (note,) = task.notes
    assert note.startswith(f"{100 - len(firsts)} of 100 records repeat a question with its answer")


def test_what_differs_in_anything_that_is_asked_or_graded_is_no_repeat(tmp_path):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    rows = [
        {"question": "q", "answer": 1},
        {"question": "q", "answer": 2},
        {"question": "p", "answer": 1},
        {"question": chat, "answer": 1},
        {"question": chat[1:], "answer": 1},
    ]
    assert len(load(write(tmp_path / "a.jsonl", rows)).splits["train"]) == 5
    rows = [
        {"question": "q", "answer": "B", "choices": choices} for choices in (["a", "b"], ["b", "a"])
    ]
    assert len(load(write(tmp_path / "b.jsonl", rows), reward="choice").splits["train"]) == 2
    tests = [["assert f"], ["assert f", "assert g"]]
    rows = [{"question": "q", "tests": each} for each in tests]
    assert len(load(write(tmp_path / "c.jsonl", rows), reward="code").splits["train"]) == 2


def test_functions_get_fields_that_differ_in_every_repeat(tmp_path):
    rows = [record(0, id=number, number=number) for number in range(3)]
    path = write(tmp_path / "a.jsonl", rows)
    assert len(load(path, reward="a.py:f").splits["train"]) == 1
    # Without a reference answer, all that the function gets stands for it, but for the id.
    settings = {"reward": "a.py:f", "fields": FieldNames(answer="")}
    assert len(load(path, **settings).splits["train"]) == 3
    assert len(load(path, keep="answer,id", **settings).splits["train"]) == 1


def test_train_and_calibration_share_nothing_with_what_is_held_out(tmp_path):
    splits = {"train": range(20), "validation": range(15, 25), "test": range(18, 30)}
    for name, numbers in splits.items():
        write(tmp_path / f"{name}.jsonl", map(record, numbers))
    task = load(tmp_path, heldout_queries=12, calibration_queries=3)
    assert asked(task, "heldout") == {f"q{number}" for number in range(18, 30)}
    assert asked(task, "calibration") == {"q15", "q16", "q17"}
    assert asked(task) == {f"q{number}" for number in range(15)}
    (note,) = task.notes
    assert note.startswith("12 of 42 records stand in a split that is held out or calibrates too")
    with pytest.raises(UserError, match=r"has 3 records, but 4 are needed .*; 12 of 42 records"):
        load(tmp_path, heldout_queries=12, calibration_queries=4)


def test_equal_ids_are_one_record_or_an_error(tmp_path):
    rows = [record(0, id="a"), record(1, id="b"), record(0, id="a")]
    assert set(load(write(tmp_path / "train.jsonl", rows)).query_by_id) == {"a", "b"}
    write(tmp_path / "test.jsonl", [record(1, id="b")])
    task = load(tmp_path, heldout_queries=1)
    assert set(task.query_by_id) == {"a", "b"} and asked(task) == {"q0"}
    assert "test.jsonl, line 1" in task.places["b"]
    write(tmp_path / "test.jsonl", [record(2, id="b")])
    with pytest.raises(UserError, match=r"test.jsonl, line 1: the id 'b' stands in .*line 2 a"):
        load(tmp_path)


def test_a_run_of_before_keeps_its_repeats(tmp_path):
    rows = [record(number % 5) for number in range(20)]
    settings = SourceConfig(name="file", path=write(tmp_path / "train.jsonl", rows))
    write(tmp_path / "test.jsonl", rows)
    sizes = {"sft": 0, "calibration": 0, "heldout": 3, "shots": 0}
    for path in (settings.path, str(tmp_path)):
        source = SourceConfig(name="file", path=path)
        task = tasks.load_source(source, seed=0, sizes=sizes, most_left_out=0, keep_repeats=True)
        assert len(task.splits["train"]) == (17 if path.endswith("train.jsonl") else 20)
        assert task.notes == ()


def test_records_that_cannot_be_read_are_left_out_where_settings_say_so(tmp_path):
    rows = [*map(record, range(18)), BROKEN, record(18, answer="many"), "[1]", {"question": "r"}]
    random.Random(1).shuffle(rows)
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match="line 1[:,] "):
        load(write_lines(tmp_path / "b.jsonl", [BROKEN, *rows]))
    task = load(path, unreadable="drop", most_left_out=0.2)
    assert asked(task) == {f"q{number}" for number in range(18)}
    for query in task.splits["train"]:  # broken records keep their numbers
        number = int(query.query_id.removeprefix("train/"))
        assert rows[number]["question"] == query.fields["question"]
    good = [row for row in rows if isinstance(row, dict) and isinstance(row.get("answer"), int)]
    broken = [number for number, row in enumerate(rows) if row not in good]
    assert [left.id for left in task.left_out] == [f"train/{number}" for number in broken]
    assert [left.place for left in task.left_out] == [f"{path}, line {n + 1}" for n in broken]
    reasons = " ".join(left.reason for left in task.left_out)
    for reason in (
        "not JSON",
        "no number can be read",
        "holds a list; each line",
        "no field 'answ",
    ):
        assert reason in reasons
    (note,) = task.notes
    assert note.startswith("4 of 22 records cannot be read and are left out, such as ")
    write_left_out(tmp_path / "left_out.jsonl", task.left_out)
    listed = map(json.loads, (tmp_path / "left_out.jsonl").read_text().splitlines())
    assert list(listed) == [left._asdict() for left in task.left_out]


def test_too_many_unreadable_records_stop_the_run(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [*map(record, range(19)), BROKEN])
    assert len(load(path, unreadable="drop").left_out) == 1
    path = write_lines(tmp_path / "a.jsonl", [*map(record, range(18)), BROKEN, BROKEN])
    message = r"2 of 20 records cannot be read \(10.0%\), but task.most_left_out=0.05; the first: "
    with pytest.raises(UserError, match=message + ".*line 19: column 28: not JSON.*raise task"):
        load(path, unreadable="drop")
    # A field of another name leaves everything out, and is told with its remedy.
    with pytest.raises(UserError, match="18 of 18 .*set task.fields.answer=answer"):
        path = write_lines(tmp_path / "a.jsonl", map(record, range(18)))
        load(path, unreadable="drop", fields=FieldNames(answer="answers"))


@pytest.mark.slow
def test_references_that_nothing_can_be_graded_against_are_left_out_too(tmp_path):
    answers = ["$\\frac{1}{2}$", "5", "\\frac{", "x^2", "\\begin{cases}"]
    rows = [{"problem": f"p{place}", "answer": answer} for place, answer in enumerate(answers)]
    settings = {**SIZES, "unreadable": "drop", "most_left_out": 0.5}
    task = tasks.load("math", write(tmp_path / "a.jsonl", rows), **settings)
    with MathVerifier() as verifier:
        unreadable = verifier.unreadable(answers)
    assert unreadable and set(unreadable.values()) == {"error"}
    left = {f"train/{answers.index(answer)}" for answer in unreadable}
    assert {each.id for each in task.left_out} == left
    assert set(task.query_by_id) == {f"train/{place}" for place in range(5)} - left
    rows = [{"text": f"t{test}", "test_list": [test]} for test in ("assert f(1)", "assert f(")]
    task = tasks.load("mbpp", write(tmp_path / "b.jsonl", rows), **settings)
    (broken,) = task.left_out
    assert broken.id == "train/1" and broken.reason.startswith("the tests are broken: ")


def test_no_file_lists_what_is_not_left_out(tmp_path):
    write_left_out(tmp_path / "left_out.jsonl", ())
    assert list(tmp_path.iterdir()) == []
