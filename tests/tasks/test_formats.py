"""Published questions in words, and own files, become queries that can be asked and graded."""

import pytest

from bstar_jax import tasks
from bstar_jax.answers.equations import in_latex
from bstar_jax.config import BalanceConfig, Config, FieldNames, TaskConfig, UserError
from bstar_jax.tasks import load_task
from bstar_jax.tasks.file import LAYOUTS, REWARDS
from bstar_jax.tasks.loading import FORMATS
from tests.formats import load, only, refused, source


def test_the_config_names_every_task_and_reward():
    metadata = {name: field.metadata for name, field in TaskConfig.__dataclass_fields__.items()}
    assert set(metadata["name"]["choices"]) == set(tasks.TASKS)
    assert metadata["reward"]["choices"] == ("", *REWARDS)


def test_distinct_equations_are_refused_where_responses_have_none():
    known = [(TaskConfig(name=name), form.source) for name, form in FORMATS.items()]
    known += [(TaskConfig(name="jsonl", reward=name), rules) for name, rules in REWARDS.items()]
    for settings, rules in known:
        tasks.check_distinct(settings, "text")
        if rules.equations:
            tasks.check_distinct(settings, "equations")
            continue
        name = settings.reward if settings.name in LAYOUTS else settings.name
        with pytest.raises(UserError, match=f"of task '{name}' have none to tell them apart by"):
            tasks.check_distinct(settings, "equations")
        with pytest.raises(UserError, match=f"of task '{name}' have none to tell them apart by"):
            load_task(Config(task=settings, balance=BalanceConfig(distinct="equations")))


# MATH.

SUM = {
    "problem": "What is $1 + 1$?",
    "level": "Level 1",
    "type": "Algebra",
    "solution": "We add.\n\nIt is $\\boxed{\\frac{4}{2}}$.",
}


def test_math_reads_the_answer_out_of_the_solution(tmp_path):
    task = load(tmp_path, "math", SUM)
    query = only(task)
    expected = ("math", "# Answer", in_latex)
    assert (
        source(task).answer_kind,
        source(task).answer_marker,
        source(task).equations,
    ) == expected
    assert query.query_id == "train/0"
    assert query.prompt == "# Question\n\nWhat is $1 + 1$?\n\n# Solution\n\n"
    assert query.reference == "\\frac{4}{2}"
    assert query.solution == SUM["solution"] + "\n\n# Answer\n\n\\frac{4}{2}"
    assert task.hint(query).endswith("# Answer\n\n\\frac{4}{2}\n\n# Solution\n\n")


def test_math_500_brings_the_answer_and_may_bring_no_solution(tmp_path):
    record = {"problem": "p", "answer": "p - q", "subject": "Algebra", "level": 2}
    query = only(load(tmp_path, "math", {**record, "unique_id": "test/algebra/1.json"}))
    assert (query.query_id, query.reference, query.solution) == ("test/algebra/1.json", "p - q", "")
    given = only(load(tmp_path, "math", {**record, "solution": "see $\\boxed{q}$"}))
    assert given.solution == "see $\\boxed{q}$\n\n# Answer\n\np - q"
    assert only(load(tmp_path, "math", {"problem": "p", "answer": 0.5})).reference == "0.5"


@pytest.mark.parametrize(
    ("record", "reference"),
    [
        ({"answer": "$\\boxed{5}$"}, "5"),
        ({"answer": None, "solution": "$\\boxed 5$"}, "5"),
        ({"solution": "$\\boxed{4}$\n\n# Answer\n\n5 \n"}, "5"),
        (
            {"solution": "$\\boxed{\\begin{pmatrix}\n 1 \\\\\n 2 \\end{pmatrix}}$"},
            "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
        ),
    ],
)
def test_an_answer_in_latex_is_read_wherever_it_stands_and_written_on_one_line(
    tmp_path, record, reference
):
    query = only(load(tmp_path, "math", {"problem": "p", **record}))
    assert query.reference == reference
    if query.solution:
        assert query.solution.strip().endswith(f"# Answer\n\n{reference}")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": "1"}, "there is no field 'problem' for the question"),
        ({"problem": "p"}, "there is no field 'answer' for the answer"),
        ({"problem": "p", "answer": ["1"]}, "field 'answer' holds a list"),
        ({"problem": "p", "solution": 3, "answer": "1"}, "field 'solution' holds a number"),
        ({"problem": "p", "solution": "so 5"}, "field 'solution' states no answer"),
        ({"problem": "p", "solution": "$\\boxed{5"}, "field 'solution' states no answer"),
        ({"problem": "p", "answer": "# Answer\n"}, "field 'answer' states no answer after"),
    ],
)
def test_math_without_an_answer_is_refused(tmp_path, record, message):
    refused(tmp_path, "math", record, message)


# ARC.

HANDS = {
    "id": "Mercury_1",
    "question": "Which is cold?",
    "choices": {"text": ["fire", "ice", "steam"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
SHOWN = "Which is cold?\n\nA. fire\nB. ice\nC. steam"


def test_arc_shows_the_options_and_keeps_them_for_grading(tmp_path):
    task = load(tmp_path, "arc", HANDS)
    query = only(task)
    assert (source(task).answer_kind, source(task).answer_marker) == ("choice", "Final answer:")
    assert (query.query_id, query.reference, query.solution) == ("Mercury_1", "B", "")
    assert query.fields == {
        "question": SHOWN,
        "labels": ["A", "B", "C"],
        "options": ["fire", "ice", "steam"],
    }
    ask = 'Think step by step, then end with "Final answer: " and the label of the best option.'
    assert query.prompt == f"# Question\n\n{SHOWN}\n\n{ask}\n\n# Solution\n\n"
    assert task.hint(query) == query.prompt.replace(
        "# Solution", "# Answer\n\nB. ice\n\n# Solution"
    )


def test_the_first_published_form_of_arc_is_the_same_query(tmp_path):
    choices = [
        {"text": text, "label": label}
        for text, label in zip(HANDS["choices"]["text"], HANDS["choices"]["label"], strict=True)
    ]
    nested = {"stem": HANDS["question"], "choices": choices}
    assert load(tmp_path, "arc", HANDS | {"question": nested}) == load(tmp_path, "arc", HANDS)


def test_labels_may_be_digits(tmp_path):
    digits = {"text": ["fire", "ice", "steam", "fog", "sun"], "label": ["1", "2", "3", "4", "5"]}
    query = only(load(tmp_path, "arc", HANDS | {"choices": digits, "answerKey": "2"}))
    assert query.reference == "2" and "\n2. ice\n" in query.prompt
    numbers = {"text": [10, 20, 2.50], "label": [1, 2, 3]}
    query = only(load(tmp_path, "arc", HANDS | {"choices": numbers, "answerKey": 2}))
    assert (query.fields["options"], query.fields["labels"]) == (
        ["10", "20", "2.5"],
        ["1", "2", "3"],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerKey": "D"}, "field 'answerKey' holds 'D'; the labels are A, B, C"),
        ({"answerKey": "b"}, "field 'answerKey' holds 'b'; the labels are A, B, C"),
        ({"answerKey": None}, "field 'answerKey' holds null"),
        ({"choices": "fire"}, "field 'choices' holds text; the choices are a list"),
        ({"choices": {"text": ["a", "b"]}}, "no field 'choices.label' for the choices"),
        (
            {"choices": {"text": ["a", "b"], "label": ["A", "B", "C"]}},
            "field 'choices' has 2 options and 3 labels",
        ),
        (
            {"choices": {"text": ["a", "b"], "label": ["B", "B"]}},
            "field 'choices' has the labels B, B; each stands once",
        ),
        (
            {"choices": {"text": ["a", "b"], "label": ["b", "B"]}},
            "field 'choices' has the labels b, B; each stands once",
        ),
        (
            {"choices": {"text": ["a"], "label": ["B"]}},
            "field 'choices' has 1 options; a choice has two or more",
        ),
        (
            {"choices": {"text": ["a", ""], "label": ["A", "B"]}},
            r"field 'choices.text\[1\]' is empty",
        ),
        ({"choices": [{"text": "a", "label": "A"}, 3]}, r"field 'choices\[1\]' holds a number"),
        ({"question": {"stem": "s"}}, "no field 'question.choices' for the choices"),
        ({"question": 3}, "field 'question' holds a number"),
    ],
)
def test_broken_choices_are_refused(tmp_path, change, message):
    refused(tmp_path, "arc", HANDS | change, message)


# Own files.


def test_jsonl_math(tmp_path):
    fields = FieldNames(question="ask", answer="value", solution="why")
    record = {"ask": "p", "value": "$\\boxed{5}$", "why": "five"}
    task = load(tmp_path, "jsonl", record, reward="math", fields=fields, answer_marker="ANSWER:")
    query = only(task)
    assert (source(task).answer_kind, source(task).equations, query.reference) == (
        "math",
        in_latex,
        "5",
    )
    assert query.solution == "five\n\nANSWER:\n\n5"
    plain = load(tmp_path, "jsonl", record, reward="math", fields=fields)
    assert source(plain).answer_marker == "# Answer"
    del record["why"]
    refused(
        tmp_path, "jsonl", record, "no field 'why' for the solution", reward="math", fields=fields
    )


def test_jsonl_choice_labels_options_itself_where_they_have_no_labels(tmp_path):
    fields = FieldNames(choices="options", solution="why")
    record = {
        "question": "Which is cold?",
        "options": ["fire", "ice", "steam"],
        "answer": "B",
        "why": "Ice is.",
    }
    task = load(tmp_path, "jsonl", record, reward="choice", fields=fields, answer_marker="So:")
    query = only(task)
    assert query.fields["question"] == SHOWN and query.fields["labels"] == ["A", "B", "C"]
    assert query.solution == "Ice is.\n\nSo: B"
    assert 'end with "So: "' in query.prompt and 'end with "So: "' in task.hint(query)
    labelled = record | {"options": HANDS["choices"], "why": "Ice is.\nFinal answer: B"}
    query = only(load(tmp_path, "jsonl", labelled, reward="choice", fields=fields))
    assert query.solution == "Ice is.\nFinal answer: B"
    for change, message in (
        ({"answer": "ice"}, "field 'answer' holds 'ice'; the labels are A, B, C"),
        ({"options": list(map(str, range(27)))}, "has 27 options and 26 labels"),
        ({"options": []}, "field 'options' is an empty list; of choices there is at least one"),
    ):
        refused(tmp_path, "jsonl", record | change, message, reward="choice", fields=fields)
    near = "no field 'options' for the choices; the nearest is 'option': .*task.fields.choices="
    moved = {"option" if key == "options" else key: value for key, value in record.items()}
    refused(tmp_path, "jsonl", moved, near, reward="choice", fields=fields)


def test_jsonl_code(tmp_path):
    record = {"question": "Double.", "tests": ["assert f(2) == 4"], "why": "f = lambda x: 2 * x\n"}
    task = load(tmp_path, "jsonl", record, reward="code", fields=FieldNames(solution="why"))
    query = only(task)
    assert query.fields["tests"] == {
        "kind": "asserts",
        "setup": "",
        "asserts": ["assert f(2) == 4"],
    }
    assert query.solution == "```python\nf = lambda x: 2 * x\n```"
    assert only(load(tmp_path, "jsonl", record, reward="code")).solution == ""
    refused(
        tmp_path, "jsonl", record | {"tests": []}, "field 'tests' is an empty list", reward="code"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "exact"}, "task.reward is 'exact'; it takes one of 'number', 'text', 'math'"),
        ({"fields": FieldNames(choices="o")}, "task.fields.choices is 'o', but task.reward is 'n"),
        ({"fields": FieldNames(tests="o")}, "task.fields.tests is 'o'.* set task.reward=code"),
        ({"reward": "code", "answer_marker": "#"}, "answer_marker is '#', but task.reward=code"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        load(
            tmp_path, "jsonl", {"question": "q", "answer": 1, "tests": ["assert True"]}, **settings
        )
