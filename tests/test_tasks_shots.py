"""Solved examples in every prompt: the same ones, and none that would give anything away."""

import json

import pytest

from bstar_jax import tasks
from bstar_jax.config import FieldNames, UserError
from tests.formats import source, write

SIZES = {"sft_examples": 3, "calibration_queries": 2, "heldout_queries": 4}
SOLVED = FieldNames(solution="why")


def record(index, split="train"):
    return {"question": f"{split} {index}?", "answer": index, "why": f"because {index}"}


def load(path, **settings):
    return tasks.load("jsonl", str(path), **{"seed": 0, "fields": SOLVED, **SIZES, **settings})


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "train.jsonl", map(record, range(20)))


def ids(queries):
    return [query.query_id for query in queries]


def test_every_prompt_begins_with_the_same_solved_examples(file):
    plain, task = load(file), load(file, shots=2)
    shown = plain.splits["train"][-2:]
    assert source(task).shots == "".join(f"{query.prompt}{query.solution}\n\n" for query in shown)
    for query in task.query_by_id.values():
        before = plain.query_by_id[query.query_id]
        assert query.prompt == source(task).shots + before.prompt
        assert task.hint(query) == source(task).shots + plain.hint(before)
        assert (query.reference, query.solution) == (before.reference, before.solution)


def test_examples_leave_train_and_no_other_split_changes(file):
    plain = load(file)
    for shots in range(8):
        task = load(file, shots=shots)
        train = ids(plain.splits["train"])
        assert ids(task.splits["train"]) == train[: len(train) - shots]
        for name in ("sft", "calibration", "heldout"):
            assert ids(task.splits[name]) == ids(plain.splits[name])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_test_file", [False, True])
def test_no_query_is_shown_in_a_prompt_and_the_seed_picks_them(tmp_path, seed, with_test_file):
    write(tmp_path / "train.jsonl", map(record, range(20)))
    if with_test_file:
        write(tmp_path / "test.jsonl", (record(index, "test") for index in range(6)))
    task = load(tmp_path, shots=4, seed=seed)
    assert source(task).shots.count("# Solution") == 4
    for query in task.query_by_id.values():
        assert f"{query.fields['question']}\n" not in source(task).shots
    assert load(tmp_path, shots=4, seed=seed) == task
    assert source(load(tmp_path, shots=4, seed=seed + 1)).shots != source(task).shots


def test_too_few_records_or_solutions_are_refused(tmp_path, file):
    with pytest.raises(
        UserError,
        match=r"20 records, but 21 are needed \(4 held-out \+ 2 calibration \+ 3 train \+ 12 shots",
    ):
        load(file, shots=12)
    assert len(load(file, shots=11).splits["train"]) == 3
    with pytest.raises(UserError, match="task.shots is 1, but the records have no solutions"):
        load(file, shots=1, fields=FieldNames(), sft_examples=0)


def test_only_solved_records_are_examples_for_warm_up_or_prompts(tmp_path):
    tests = json.dumps({"inputs": ["1"], "outputs": ["1"]})
    rows = [
        {
            "problem_id": index,
            "question": f"{index}?",
            "solutions": json.dumps([f"print({index})"]) if index % 3 == 0 else "",
            "input_output": tests,
        }
        for index in range(30)
    ]
    path = write(tmp_path / "train.jsonl", rows)
    sizes = {"calibration_queries": 0, "heldout_queries": 0}
    task = tasks.load("apps", path, seed=0, sft_examples=4, shots=6, **sizes)
    assert len(task.splits["sft"]) == 4 and all(query.solution for query in task.splits["sft"])
    assert len(task.splits["train"]) == 24 and source(task).shots.count("```python\nprint(") == 6
    with pytest.raises(
        UserError, match="sft.examples is 5 and task.shots is 6, but 10 of 30 train records have"
    ):
        tasks.load("apps", path, seed=0, sft_examples=5, shots=6, **sizes)


def test_tasks_without_solutions_refuse_examples(tmp_path):
    choices = {"text": ["fire", "ice"], "label": ["A", "B"]}
    path = write(
        tmp_path / "train.jsonl",
        ({"question": f"{index}?", "choices": choices, "answerKey": "B"} for index in range(9)),
    )
    sizes = SIZES | {"sft_examples": 0}
    with pytest.raises(UserError, match="task.shots is 2, but the records have no solutions"):
        tasks.load("arc", path, seed=0, shots=2, **sizes)
    with pytest.raises(UserError, match="task.shots is 2, but task 'arithmetic' shows no examples"):
        tasks.load("arithmetic", seed=0, shots=2, **sizes)
