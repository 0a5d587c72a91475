"""Rewards from outside: what they give, and that one response spoils no other."""

import pathlib

import pytest

from bstar_jax.answers.solution_steps import split_steps
from bstar_jax.config import RewardsConfig, UserError
from bstar_jax.grading import Grade, open_grader, trial
from bstar_jax.grading.functions import hashed
from bstar_jax.grading.grade import reaches
from bstar_jax.isolation import outside
from bstar_jax.records import Query, Response, Rollouts, Source
from bstar_jax.run.grading_errors import ErrorLimit, graded_again, is_broken

REWARDS = pathlib.Path(__file__).parents[1] / "outside" / "rewards.py"
QUERIES = {
    f"train/{number}": Query(
        query_id=f"train/{number}", prompt=f"{number}?", reference=str(number), source="own"
    )
    for number in range(4)
}


def opened(reward, *, settings=None, **source):
    made = Source("own", reward=f"{REWARDS}:{reward}", **{"answer_kind": "free", **source})
    settings = settings or RewardsConfig(seconds=0.5, workers=2)
    return open_grader(QUERIES.values(), {"own": made}, settings)


def grade(reward, texts, **source):
    with opened(reward, **source) as grader:
        return grader.grade([Response(QUERIES["train/1"], text) for text in texts])


GIVEN = {  # what hard_cases says: score, answer ("" is the hash), reason, a part of the message
    "right": (1.0, "", "correct", ""),
    "numpy": (1.0, "", "correct", ""),
    "int": (1.0, "", "correct", ""),
    "bool": (1.0, "", "correct", ""),
    "array": (0.5, "", "wrong", ""),
    "grade": (0.5, "half", "wrong", "half right"),
    "unreadable": (0.0, None, "unparseable", "no answer in it"),
    "none": (None, None, "error", "it returned None"),
    "two": (None, None, "error", "the score is 2.0; it is in [0, 1]"),
    "nan": (None, None, "error", "it returned nan"),
    "text": (None, None, "error", "it returned 'yes'"),
    "dict": (None, None, "error", "it returned {}"),
    "raise": (None, None, "error", "KeyError: 'raise'"),
    "leave": (None, None, "error", "SystemExit: 3"),
    "sleep": (None, None, "timeout", "raise rewards.seconds (0.5)"),
    "allocate": (None, None, "error", "MemoryError"),
    "print": (1.0, "", "correct", ""),
    "fork": (1.0, "", "correct", ""),
    "kill": (None, None, "error", "SIGKILL"),
}


@pytest.mark.slow
def test_whatever_a_reward_does_is_one_responses_reason():
    graded = dict(zip(GIVEN, grade("hard_cases", list(GIVEN)), strict=True))
    for word, (score, answer, reason, message) in GIVEN.items():
        found = graded[word]
        wanted = hashed(Response(QUERIES["train/1"], word)) if answer == "" else answer
        assert (found.score, found.answer, found.reason) == (score, wanted, reason), word
        assert message in found.message, word
        assert found.correct == (reason == "correct"), word
    assert graded["grade"].step_rewards == [0.5, -1.0] and graded["grade"].process_reward == -1.0


def test_a_batch_that_fails_is_repeated_row_by_row():
    texts = ["so # 1", "raise # 1", "so # 2", "short # 1", "# 1"]
    for size in (1, 2, 32):
        settings = RewardsConfig(seconds=5, workers=2, batch=size)
        graded = grade("batched", texts, settings=settings)
        assert [each.reason for each in graded] == [
            "correct",
            "error",
            "wrong",
            "correct",
            "correct",
        ]
        assert "a batch with one bad response" in graded[1].message


def test_a_reward_may_be_awaited():
    assert [each.correct for each in grade("awaited", ["# 1", "# 2"])] == [True, False]


def test_partial_credit_counts_from_correct_at():
    texts = ["# 1", "# 21", "# 5"]
    for correct_at, right in ((1.0, 1), (0.6, 2), (0.601, 1), (0.25, 3)):
        graded = grade("share", texts, correct_at=correct_at)
        assert [each.score for each in graded] == [1.0, 0.6, 0.25]
        assert sum(each.correct for each in graded) == right
    assert reaches(0.1 + 0.2, 0.3) and not reaches(0.299999, 0.3)


def test_the_answer_is_read_by_the_task_where_the_reward_names_none():
    texts = ["so # 12", "so 12"]
    graded = grade("yes", texts, answer_kind="text", answer_marker="#")
    assert graded[0].answer == "12"
    assert graded[1].answer == hashed(Response(QUERIES["train/1"], "so 12"))


def test_steps_are_rewarded_one_by_one():
    text = "1 + 1 = 2\nso what\n# 1"
    assert split_steps(text, "\n", "#") == ["1 + 1 = 2\n", "so what\n", "# 1"]
    arguments = {"answer_kind": "text", "answer_marker": "#"}
    with opened("yes", step_reward=f"{REWARDS}:steps", **arguments) as grader:
        texts = [text, "", "# 1"]
        graded = grader.grade([Response(QUERIES["train/1"], each) for each in texts])
    assert [each.step_rewards for each in graded] == [[1.0, -1.0, 1.0], None, [1.0]]
    assert graded[0].process_reward == -1.0
    with opened("yes", step_reward=f"{REWARDS}:steps_of_wrong_length", **arguments) as grader:
        (wrong,) = grader.grade([Response(QUERIES["train/1"], text)])
    assert wrong.is_broken and "1 values for 3 steps" in wrong.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{REWARDS}:scroe", "has no 'scroe'; the nearest is '"),
        (f"{REWARDS}:too_few", r"takes 1 argument; it is called as too_few\(query, response"),
        (f"{REWARDS}:REWARDS", "has no 'REWARDS'"),
        ("no_such_module:f", "no module 'no_such_module' on sys.path; for a file write no_such_m"),
        ("nowhere.py:f", "there is no file .*nowhere.py"),
        ("bstar_jax:__version__", "which is no function"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(name, message):
    source = Source("own", "free", reward=name)
    with pytest.raises(UserError, match=message), open_grader(QUERIES.values(), {"own": source}):
        pass


def test_a_file_that_cannot_be_loaded_says_where(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\ny = x / 0\n\ndef f(query, response, finish_reason):\n    return True\n")
    source = Source("own", "free", reward=f"{file}:f")
    broken = pytest.raises(UserError, match=r"(?s)broken.py.*line 2.*ZeroDivisionError")
    with broken, open_grader(QUERIES.values(), {"own": source}):
        pass


def test_a_fingerprint_covers_the_file_and_what_it_imports(tmp_path):
    def fingerprint(folder, helper, body="return helping.VALUE"):
        folder.mkdir()
        (folder / "helping.py").write_text(f"VALUE = {helper}\n")
        (folder / "own.py").write_text(f"import helping\n\ndef f(q, r, reason):\n    {body}\n")
        source = Source("own", "free", reward=f"{folder / 'own.py'}:f")
        with open_grader(QUERIES.values(), {"own": source}) as grader:
            (described,) = grader.functions.described.values()
        assert [pathlib.Path(file).name for file in described.files] == ["own.py", "helping.py"]
        return described.fingerprint

    first = fingerprint(tmp_path / "a", True)
    assert fingerprint(tmp_path / "b", True) == first  # wherever it lies
    assert fingerprint(tmp_path / "c", False) != first
    assert fingerprint(tmp_path / "d", True, "return 1 * helping.VALUE") != first


def test_frames_begin_with_the_users_own():
    try:
        outside.load(f"{REWARDS}:yes").function(1)
    except TypeError as error:
        assert outside.last_frames(error).startswith("  File")
        assert "isolation" not in outside.last_frames(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": 1.5}, r"the score is 1.5; it is in \[0, 1\]"),
        ({"score": float("nan")}, r"the score is nan; it is a number in \[0, 1\]"),
        ({"score": "1"}, "the score is '1'"),
        ({"score": 0.5, "answer": None}, "the score is 0.5 without an answer"),
        ({"score": 0.5, "answer": 3}, "the answer is 3; it is a text or None"),
        ({"score": 1, "step_rewards": [2]}, r"a step reward is 2; it is in \[-1, 1\]"),
    ],
)
def test_a_grade_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grade(**arguments)


def rows(reasons):
    count = len(reasons)
    return Rollouts.from_columns(
        {
            "query_id": [f"train/{place}" for place in range(count)],
            "response": ["text"] * count,
            "reason": reasons,
            "score": [None if reason == "error" else 1.0 for reason in reasons],
            "message": ["Traceback" if reason == "error" else "" for reason in reasons],
        }
    )


def test_a_phase_ends_when_grading_breaks_too_often():
    limit = ErrorLimit(0.1, responses=100)
    limit.add(rows(["correct"] * 10 + ["error"] * 10))  # 10 of the phase's 100
    with pytest.raises(UserError, match=r"(?s)broke for 11 of 21 responses; .*Traceback"):
        limit.add(rows(["error"]))
    limit = ErrorLimit(0.1, responses=10_000)
    limit.add(rows(["error"] * 20 + ["correct"] * 180))
    limit.add(rows(["correct"] * 40))
    with pytest.raises(UserError, match="broke for 40 of 260 responses"):
        limit.add(rows(["error"] * 20))  # well before a tenth of the phase
    ErrorLimit(0.1, responses=100).add(rows(["wrong", "unparseable"] * 50))


def test_only_what_broke_is_graded_again():
    given = rows(["correct", "error", "wrong", "error"])
    asked = []

    def again(part):
        asked.extend(part.column("query_id"))
        count = len(part)
        return part.with_columns(reason=["correct"] * count, score=[1.0] * count)

    found = graded_again(given, again)
    assert asked == ["train/1", "train/3"]
    assert found.column("reason") == ["correct", "correct", "wrong", "correct"]
    assert found.column("query_id") == given.column("query_id")
    assert not is_broken(found).any()


def test_a_file_that_ends_its_process_is_refused(tmp_path):
    file = tmp_path / "leaving.py"
    file.write_text("import os\n\nos._exit(3)\n")
    source = Source("own", "free", reward=f"{file}:f")
    ended = pytest.raises(UserError, match="leaving.py:f cannot be called: .*ended or hung before")
    with ended, open_grader(QUERIES.values(), {"own": source}):
        pass


def test_what_a_reward_prints_is_shown_where_it_fails(tmp_path):
    file = tmp_path / "talking.py"
    file.write_text(
        "def f(query, response, reason):\n    print('comparing', response)\n    return 1\n"
    )
    source = Source("own", "free", reward=f"{file}:f")
    queries = list(QUERIES.values())
    with open_grader(queries, {"own": source}) as grader:
        (tried,) = trial.try_rewards(grader, queries, {"own": source}, seed=0)
    assert "of junk 16 of 16 are correct" in tried.failure()
    assert "it printed:\ncomparing" in tried.failure()


def test_an_example_is_what_must_be_right():
    source = Source("own", "free", reward=f"{REWARDS}:with_example")
    queries = list(QUERIES.values())
    with open_grader(queries, {"own": source}) as grader:
        (tried,) = trial.try_rewards(grader, queries, {"own": source}, seed=0)
    assert (tried.right, tried.failure()) == ("examples", "")
    assert len(tried.tried_right) == 4


def test_a_reward_that_changes_is_told():
    source = Source("own", "free", reward=f"{REWARDS}:changing")
    queries = list(QUERIES.values())
    with open_grader(queries, {"own": source}, RewardsConfig(workers=1)) as grader:
        (tried,) = trial.try_rewards(grader, queries, {"own": source}, seed=0)
    assert tried.changed > 0
    assert any("graded otherwise the second time" in text for text in tried.warnings())
