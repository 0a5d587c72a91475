"""Fields are found by name or path, and what is missing is told with what is there."""

import pytest

from bstar_jax.config import UserError
from bstar_jax.tasks.record import Record, top

VALUES = {
    "prompt": [{"role": "user", "content": "1 + 1?"}, {"role": "user", "content": " "}],
    "reward_model": {"ground_truth": "2", "style": "rule", "none": None},
    "answers": ["two", "zwei"],
    "a.b": "whole",
    "a": {"b": "inside", "c d": {"e-f": [["x"]]}},
    "empty": {},
}
RECORD = Record("F, row 3", 3, VALUES, remedy="set task.fields.{role}={near}", unread=("other",))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("reward_model.ground_truth", "2"),
        ("answers[0]", "two"),
        ("answers[1]", "zwei"),
        ("prompt[0].content", "1 + 1?"),
        ("a.c d.e-f[0][0]", "x"),
        ("a.b", "whole"),  # a field of that name goes before the path
    ],
)
def test_a_path_goes_into_objects_and_lists(path, value):
    assert RECORD.value(path, "answer") == value and RECORD.knows(path)
    assert RECORD.text(path, "answer") == value and RECORD.has(path)


def test_null_and_empty_values_are_known_and_say_nothing():
    for path in ("reward_model.none", "prompt[1].content"):
        assert RECORD.knows(path) and not RECORD.has(path)
    for path in ("reward_model.truth", "answers[2]", "a..b", "a[0]", "[0]", "", "b.c", "answers["):
        assert not RECORD.knows(path) and not RECORD.has(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "reward_model.truth",
            "F, row 3: 'reward_model' has no 'truth'; it has ground_truth, none, style: "
            "set task.fields.answer=reward_model.ground_truth",
        ),
        ("empty.x", "F, row 3: 'empty' has no 'x'; it is empty"),
        (
            "answers[2]",
            "F, row 3: 'answers' has 2 elements, so there is no 'answers[2]' for the answer",
        ),
        ("a.b.c", "F, row 3: 'a.b' holds text, which has no 'c' for the answer"),
        (
            "prompt.content",
            "F, row 3: 'prompt' holds a list, which has no 'content' for the answer; an element "
            "of a list is written [0]",
        ),
        ("reward_model[0]", "F, row 3: 'reward_model' holds an object, so 'reward_model[0]' is no"),
        (
            "answer",
            "F, row 3: there is no field 'answer' for the answer; the nearest is 'answers': "
            "set task.fields.answer=answers",
        ),
        ("otter", "there is no field 'otter' for the answer; the nearest is 'other': set task."),
    ],
)
def test_a_missing_field_is_told_with_what_is_there(path, message):
    with pytest.raises(UserError) as caught:
        RECORD.value(path, "answer")
    assert message in str(caught.value)


def test_an_alias_is_the_name_in_messages():
    record = Record("F, line 1", 0, VALUES, aliases={"answer": "reward_model.style", "q": "no"})
    assert record.text("answer", "answer") == "rule" and not record.knows("q")
    with pytest.raises(UserError, match="there is no field 'no' for the question"):
        record.text("q", "question")
    with pytest.raises(UserError, match="field 'reward_model.style' is odd"):
        raise record.error("answer", " is odd")


def test_the_top_of_a_path():
    assert [top(path) for path in ("a", "a.b[0]", "a[0].b")] == ["a"] * 3
