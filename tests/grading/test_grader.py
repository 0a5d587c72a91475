"""Grades of responses and of whole rollouts."""

import contextlib
import json
import os
import pathlib
import re

import pytest

from bstar_jax import grading, tasks
from bstar_jax.answers.equations import in_annotations, in_stories
from bstar_jax.answers.stated import answers_equal, stated_answer
from bstar_jax.config import UserError
from bstar_jax.grading import kinds
from bstar_jax.records import SPLITS, Query, Response, Rollouts, Source
from bstar_jax.tasks import LoadedTask, calculator

ARITHMETIC = {
    "sft_examples": 5,
    "train_queries": 20,
    "calibration_queries": 5,
    "heldout_queries": 5,
}


@pytest.fixture(scope="module")
def stories():
    return tasks.load("arithmetic", seed=0, **ARITHMETIC)


@pytest.fixture(scope="module")
def gsm8k_path():
    path = pathlib.Path(os.environ.get("BSTAR_DATA", "")) / "gsm8k_train.jsonl"
    if not path.is_file():
        pytest.skip("set BSTAR_DATA to a folder with the published gsm8k_train.jsonl")
    return path


def written_task(kind="number", references=("7", "1,200")):
    queries = tuple(
        Query(f"train/{i}", "train", "?", reference, fields={"question": "?"}, source="own")
        for i, reference in enumerate(references)
    )
    splits = {name: queries if name == "train" else () for name in SPLITS}
    source = Source(
        "own", kind, "####", hint_prompt="{question} {reference}", equations=in_annotations
    )
    return LoadedTask("own", splits, {"own": source})


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "equal"),
    [
        ("number", "$1,200.00", "1200", True),
        ("number", "2/4", "0.5", True),
        ("number", "-5", "5", False),
        ("number", "1/3", "0.33", False),
        ("number", "x", "x", False),
        ("text", "the  MOON.", "The moon", True),
        ("text", "moon", "The moon", False),
        ("text", "", "", False),
    ],
)
def test_answers_equal(kind, answer, reference, equal):
    assert answers_equal(kind, answer, reference) is equal
    assert answers_equal(kind, reference, answer) is equal


def test_a_cut_response_is_read_up_to_its_last_whole_line():
    assert stated_answer("number", "####", "#### 12", "stop") == "12"
    assert stated_answer("number", "####", "#### 12", "length") is None
    assert stated_answer("number", "####", "#### 12\nand so", "length") == "12"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (r"\boxed{18}", "18"),
        (r"$$ 18 $$", "18"),
        (r"\( \frac{54}{3} \)", "18"),
        (r"18 \text{ units}", "18"),
        ("10{,}080", "10080"),
        (r"$y = 18.50$", "37/2"),
        ("7, 8", None),
        (r"\sqrt{4}", None),
        (r"18^{2}", None),
    ],
)
def test_a_number_may_be_written_in_latex(written, answer):
    assert stated_answer("number", "####", f"so\n#### {written}", "stop") == answer


@pytest.mark.parametrize(
    ("response", "answer", "reason"),
    [
        ("3+4=7\n#### 7", "7", "correct"),
        ("#### $7.00", "7", "correct"),
        ("#### 8", "8", "wrong"),
        ("#### -7", "-7", "wrong"),
        ("7", None, "unparseable"),
        ("#### seven", None, "unparseable"),
        ("", None, "unparseable"),
    ],
)
def test_grade_of_an_answer(response, answer, reason):
    task = written_task()
    grade = grade_of(task, task.query_by_id["train/0"], response)
    right = reason == "correct"
    assert grade == grading.GradedResponse(answer, right, reason, score=float(right))


def test_grade_of_a_story(stories):
    query = stories.splits["heldout"][0]
    grade = grade_of(stories, query, f" {query.solution}\n")
    assert (grade.answer, grade.reason, grade.process_reward) == (query.reference, "correct", 1.0)
    guess = grade_of(stories, query, f"# {query.reference}")
    assert (guess.correct, guess.process_reward, guess.step_rewards) == (True, -1.0, [-1.0])
    other = grade_of(stories, query, query.solution + "1")
    assert (other.correct, other.reason) == (False, "wrong")
    assert other.process_reward == pytest.approx(1 / 3)


def test_process_reward_is_the_minimum_over_the_steps(stories):
    for query in stories.splits["train"]:
        for end in range(0, len(query.solution), 3):
            grade = grade_of(stories, query, query.solution[:end])
            assert grade.process_reward == min(grade.step_rewards)


def grade_of(task, query, response, finish_reason="stop"):
    with opened(task) as grader:
        return grader.grade([Response(query, response, finish_reason)])[0]


def opened(task):
    return grading.open_grader(task.query_by_id.values(), task.sources, places=task.places)


def grade_rollouts(task, rows):
    with opened(task) as grader:
        return grader.grade_rollouts(rows, task.query_by_id)


def rollouts(rows):
    names = ("query_id", "response", "finish_reason")
    return Rollouts.from_columns(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def test_rollouts_are_graded_row_by_row_and_keep_their_order(stories):
    first, second = stories.splits["train"][:2]
    rows = [
        (second.query_id, second.solution, "stop"),
        (first.query_id, first.solution + " ", "stop"),
        (first.query_id, second.solution, "stop"),
        (first.query_id, first.solution, "stop"),
        (first.query_id, first.solution, "length"),
    ]
    graded = grade_rollouts(stories, rollouts(rows))
    for index, (query_id, response, finish_reason) in enumerate(rows):
        expected = grade_of(stories, stories.query_by_id[query_id], response, finish_reason)
        assert graded.column("answer")[index] == expected.answer
        assert graded.column("correct")[index] == expected.correct
        assert graded.column("reason")[index] == expected.reason
        assert graded.column("process_reward")[index] == pytest.approx(expected.process_reward)
        assert graded.column("step_rewards")[index] == pytest.approx(expected.step_rewards)
    assert graded.column("response") == [row[1] for row in rows]
    assert graded.column("reason")[-1] == "unparseable"


def test_equal_texts_of_a_query_are_graded_once(stories, monkeypatch):
    calls = []
    check = kinds.stated_answer

    def counted(kind, marker, response, finish_reason):
        calls.append(response)
        return check(kind, marker, response, finish_reason)

    monkeypatch.setattr(kinds, "stated_answer", counted)
    one, two = (query.query_id for query in stories.splits["train"][:2])
    rows = [(one, "# 1", "stop"), (one, " # 1\n", "stop"), (two, "# 1", "stop")] * 5
    grade_rollouts(stories, rollouts(rows))
    assert calls == ["# 1", "# 1"]


def test_a_task_without_step_check_has_nulls_not_zeros():
    task = written_task()
    graded = grade_rollouts(task, rollouts([("train/0", "#### 7", "stop")]))
    assert graded.table.column("process_reward").null_count == 1
    assert graded.table.column("step_rewards").null_count == 1
    assert graded.column("correct") == [True]


def test_a_row_of_another_task_is_refused(stories):
    with pytest.raises(KeyError, match="test/99"):
        grade_rollouts(stories, rollouts([("test/99", "# 1", "stop")]))


def test_steps_are_checked_only_where_that_is_asked_for(stories):
    query = stories.splits["train"][0]
    with opened(stories) as grader:
        (checked,) = grader.grade([Response(query, query.solution)])
        (unchecked,) = grader.grade([Response(query, query.solution)], check_steps=False)
        rows = rollouts([(query.query_id, query.solution, "stop")])
        graded = grader.grade_rollouts(rows, stories.query_by_id, check_steps=False)
    assert checked.process_reward == 1.0 and unchecked.process_reward is None
    assert (unchecked.answer, unchecked.reason) == (checked.answer, checked.reason)
    assert graded.column("process_reward") == graded.column("step_rewards") == [None]


def test_a_run_may_mix_sources_each_graded_by_its_own_kind():
    sources = {
        "sums": Source("sums", "number", "####", step_check=calculator.check_steps),
        "words": Source("words", "text", "So:"),
        "quiz": Source("quiz", "choice", "Final answer:"),
    }
    options = {"labels": ["A", "B"], "options": ["ice", "fire"]}
    queries = {
        "sums": Query("1", "train", "?", "4", source="sums"),
        "words": Query("2", "train", "?", "Ice", source="words"),
        "quiz": Query("3", "train", "?", "B", fields=options, source="quiz"),
    }
    texts = {"sums": "<<2+2=4>> #### 4.0", "words": "So: ice.", "quiz": "The answer is fire."}
    mixed = [Response(queries[name], texts[name]) for name in ("quiz", "sums", "words", "sums")]
    with grading.open_grader(queries.values(), sources) as grader:
        grades = grader.grade(mixed)
        apart = [grader.grade([response])[0] for response in mixed]
    assert [grade.answer for grade in grades] == ["B", "4", "ice", "4"]
    assert all(grade.correct for grade in grades)
    assert [grade.step_rewards for grade in grades] == [None, [1.0], None, [1.0]]
    assert grades == apart


def test_a_kind_is_started_once_and_complaints_of_all_sources_are_shown(monkeypatch):
    started = []

    class Broken:
        def complaints(self, queries, source, places):
            return [f"{source.name}: {[places.get(query.query_id) for query in queries]}"]

    @contextlib.contextmanager
    def start(settings):
        started.append(settings)
        yield Broken()

    kind = kinds.AnswerKind(lambda response, source: None, start)
    monkeypatch.setattr(kinds, "KINDS", {"new": kind})
    sources = {name: Source(name, "new") for name in ("one", "two")}
    queries = [Query(name, "train", "?", "1", source=name) for name in sources]
    with (
        pytest.raises(UserError, match=r"^one: \['file'\]\ntwo: \[None\]$"),
        grading.open_grader(queries, sources, places={"one": "file"}),
    ):
        raise AssertionError
    assert len(started) == 1


def test_an_unknown_kind_of_answer_is_refused():
    known = ", ".join(kinds.KINDS)
    with pytest.raises(ValueError, match=f"one of {known}, not 'essay'"):
        kinds.answer_kind(Source("own", "essay"))


def test_queries_name_a_source_of_their_task():
    query = Query("1", "train", "?", "1", source="other")
    splits = {name: (query,) if name == "train" else () for name in SPLITS}
    with pytest.raises(ValueError, match="queries name the sources {'other'}, not {'own'}"):
        LoadedTask("own", splits, {"own": Source("own", "number")})


def test_only_the_table_asks_which_kind_of_answer_it_is():
    """A new kind is one entry: nothing else compares kinds."""
    package = pathlib.Path(grading.__file__).parents[1]
    asking = re.compile(
        r"answer_kind\b.{0,3}(?:==|!=| in | not in )|(?:==|!=| in )\s*\w*\.answer_kind"
    )
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if asking.search(path.read_text())
    }
    assert found == {"grading/kinds.py"}


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("so <<48/2=24>>24 and <<48+24=72>>72", ["48/2=24", "48+24=72"]),
        ("<<1,000 * 0.50 = $500>>500", ["1000*1/2=500"]),
        ("<<3*4=12>> <<3*4=12.0>>", ["3*4=12", "3*4=12"]),
        ("<<3*4>> 3*4=12", []),
        ("", []),
    ],
)
def test_calculator_equations(response, found):
    assert in_annotations(response) == found


def test_story_equations(stories):
    response = "8 - 3 = 5 . 5 + 4 = 9 . 5 + = 4 . 12 + 1 = 13 # 9"
    assert in_stories(response) == ["8-3=5", "5+4=9", "12+1=13"]
    for query in stories.splits["train"]:
        assert len(stories.equations(query.query_id, query.solution)) == query.solution.count("=")


def test_published_gsm8k_solutions_are_correct_and_those_of_the_next_question_are_not(gsm8k_path):
    records = [json.loads(line) for line in gsm8k_path.read_text(encoding="utf-8").splitlines()]
    task = tasks.load(
        "gsm8k", str(gsm8k_path), seed=0, sft_examples=1, calibration_queries=0, heldout_queries=0
    )
    assert len(task.query_by_id) == len(records) == 7473
    queries = [task.query_by_id[f"train/{i}"] for i in range(len(records))]
    plain = [record["answer"].split("#### ")[1].replace(",", "") for record in records]
    others = queries[1:] + queries[:1]
    with opened(task) as grader:
        own = grader.grade([Response(query, query.solution) for query in queries])
        theirs = grader.grade(
            [Response(query, other.solution) for query, other in zip(queries, others, strict=True)]
        )
    assert {grade.reason for grade in own} == {"correct"}
    assert sum(grade.process_reward == 1 for grade in own) == 7473 - 95
    for grade, number, other in zip(theirs, plain, plain[1:] + plain[:1], strict=True):
        assert grade.reason == ("correct" if float(number) == float(other) else "wrong")
