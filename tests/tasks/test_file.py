"""Own files, and layouts of projects: what the settings name is what is asked and graded."""

import json
import pathlib
import re
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bstar_jax import tasks
from bstar_jax.config import Config, FieldNames, TaskConfig, UserError
from bstar_jax.tasks.file import LAYOUTS
from bstar_jax.tasks.layout import KNOWN
from bstar_jax.tasks.loading import find_format
from bstar_jax.tasks.rows import ENDINGS
from bstar_jax.tasks.values import DEEPEST, MOST_DIGITS
from tests.formats import SIZES, load, only, refused, source, write

FUNCTION = "countdown:score"
COUNTDOWN = {
    "question": "Use 3, 5, 8 to make 16.", "numbers": [3, 5, 8], "target": 16.0, "big": None,
}  # fmt: skip
NO_ANSWER = FieldNames(answer="")


def verl(index, **changes):
    """A record of GSM8K as verl writes it."""
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"What is {index} + 1? Answer after ####."}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(index + 1)},
        "extra_info": {"index": index, "answer": f"So it is.\n#### {index + 1}", "split": "train"},
        **changes,
    }


def test_file_and_jsonl_are_one_task_by_two_names(tmp_path):
    rows = [{"question": f"q{i}", "answer": i, "id": i} for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    sizes = SIZES | {"heldout_queries": 3, "calibration_queries": 2}
    new, old = (tasks.load(name, path, **sizes) for name in ("file", "jsonl"))
    assert new.name == "file" and tasks.fingerprint(new) == tasks.fingerprint(old)


# Layouts of projects.


def test_verl_reads_chats_nested_answers_and_labels(tmp_path):
    pq.write_table(pa.Table.from_pylist([verl(i) for i in range(6)]), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist([verl(i) for i in (7, 8)]), tmp_path / "test.parquet")
    fields = FieldNames(solution="extra_info.answer")
    sizes = SIZES | {"heldout_queries": 2, "sft_examples": 1}
    task = tasks.load("verl", str(tmp_path), fields=fields, answer_marker="####", **sizes)
    query = task.query_by_id["train/3"]
    asked = "What is 3 + 1? Answer after ####."
    assert query.messages == (("user", asked),) and query.prompt == asked
    assert (query.reference, query.solution) == ("4", "So it is.\n#### 4")
    assert (query.label, query.fields) == ("openai/gsm8k", {"question": asked})
    assert task.places["test/0"] == f"{tmp_path / 'test.parquet'}, row 0"
    assert (source(task).answer_kind, source(task).reward) == ("number", "")


def test_a_layout_gives_way_to_settings(tmp_path):
    record = verl(1, id=5, ability=["x"])
    query = only(load(tmp_path, "verl", record))
    assert query.query_id == "train/0"  # verl's ids start over in each split
    fields = FieldNames(
        id="extra_info.index", answer="extra_info.answer", source="extra_info.split"
    )
    query = only(load(tmp_path, "verl", record, fields=fields))
    assert (query.query_id, query.reference, query.label) == ("1", "2", "train")
    del record["data_source"]
    assert only(load(tmp_path, "verl", record)).label == ""
    near = "no field 'kind' for the source; the nearest is .*: set task.fields.source="
    refused(tmp_path, "verl", record, near, fields=FieldNames(source="kind"))
    near = "'reward_model' has no 'truth'; it has ground_truth, style: set task.fields.answer="
    refused(tmp_path, "verl", record, near, fields=FieldNames(answer="reward_model.truth"))


def test_trl_reads_texts_and_chats(tmp_path):
    text = {"prompt": "What is $1 + 1$?", "solution": "$2$"}
    task = load(tmp_path, "trl", text, reward="math")
    query = only(task)
    assert (query.reference, query.solution, query.messages) == ("$2$", "", ())
    assert query.prompt == "# Question\n\nWhat is $1 + 1$?\n\n# Solution\n\n"
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1 + 1?"}]
    query = only(load(tmp_path, "trl", text | {"prompt": chat}, reward="math"))
    assert query.messages == (("system", "Be short."), ("user", "1 + 1?"))
    assert (query.prompt, query.fields["question"]) == ("1 + 1?", "1 + 1?")
    pair = {"prompt": chat, "chosen": chat, "rejected": chat}
    refused(tmp_path, "trl", pair, "'chosen' and 'rejected' are a preference pair")
    settings = {"reward": "judges:f", "fields": NO_ANSWER}
    assert only(load(tmp_path, "trl", pair, **settings)).fields["chosen"] == chat
    refused(tmp_path, "file", pair, "'chosen' and 'rejected' are a preference pair", **settings)


def test_nothing_is_put_around_a_chat(tmp_path):
    record = verl(1)
    message = "list of chat messages, but task.prompt is a template for texts; drop task.prompt"
    refused(tmp_path, "verl", record, message, prompt="Q: {question}")
    fields = FieldNames(solution="extra_info.answer")
    path = write(tmp_path / "several.jsonl", map(verl, range(4)))
    with pytest.raises(UserError, match="line 1: the question is a list .*, which task.shots=2"):
        tasks.load("verl", path, fields=fields, shots=2, **SIZES)
    options = {"reward": "choice", "fields": FieldNames(answer="right", choices="options")}
    chosen = only(load(tmp_path, "verl", verl(1, right="B", options=["a", "b"]), **options))
    assert chosen.prompt == record["prompt"][0]["content"] and chosen.fields["labels"] == ["A", "B"]


# Functions as rewards.


def test_a_function_gets_the_whole_record_as_plain_values(tmp_path):
    task = load(tmp_path, "file", COUNTDOWN, reward=FUNCTION, fields=NO_ANSWER)
    query = only(task)
    assert query.fields == COUNTDOWN
    assert [type(query.fields[name]) for name in ("target", "numbers")] == [float, list]
    assert type(query.fields["numbers"][0]) is int
    assert (query.reference, query.solution) == ("", "")
    assert (source(task).answer_kind, source(task).reward) == ("free", FUNCTION)
    assert source(task).answer_marker == ""
    marked = load(
        tmp_path, "file", COUNTDOWN, reward=FUNCTION, fields=NO_ANSWER, answer_marker="=>"
    )
    assert (source(marked).answer_kind, source(marked).answer_marker) == ("text", "=>")


def test_a_function_gets_the_fields_that_are_kept(tmp_path):
    keep = {"reward": FUNCTION, "fields": NO_ANSWER}
    query = only(load(tmp_path, "file", COUNTDOWN, keep="target, numbers[0]", **keep))
    asked = {"question": COUNTDOWN["question"]}
    assert query.fields == asked | {"target": 16.0, "numbers[0]": 3}
    refused(tmp_path, "file", COUNTDOWN, "no field 'goal' for the function", keep="goal", **keep)
    with pytest.raises(UserError, match="task.keep is 'a', but no function gets the fields"):
        load(tmp_path, "file", COUNTDOWN, keep="a")
    stepped = {"question": "q", "answer": 1, "more": 2}
    query = only(load(tmp_path, "file", stepped, step_reward="judges:f", keep="more"))
    assert query.fields == {"question": "q", "more": 2} and query.reference == "1"


def test_only_what_is_needed_is_read_from_a_table(tmp_path):
    path = str(tmp_path / "a.parquet")
    infinite = [COUNTDOWN | {"big": float("inf"), "answer": "5"}]  # has no plain value
    pq.write_table(pa.Table.from_pylist(infinite), path)
    assert only(tasks.load("file", path, **SIZES)).fields == {"question": COUNTDOWN["question"]}
    settings = {"reward": FUNCTION, "fields": NO_ANSWER, **SIZES}
    kept = only(tasks.load("file", path, keep="target", **settings))
    assert kept.fields == {"question": COUNTDOWN["question"], "target": 16.0}
    with pytest.raises(UserError, match="row 0: field 'big': the number 'Infinity' is too l"):
        tasks.load("file", path, **settings)
    with pytest.raises(UserError, match="no field 'targets' .* the nearest is 'target': set"):
        tasks.load("file", path, fields=FieldNames(answer="targets"), **SIZES)


def test_with_a_function_answers_and_solutions_stay_as_they_are(tmp_path):
    fields = FieldNames(solution="why")
    for answer, reference in (
        ("  42 ", "  42 "),
        (4.50, "4.5"),
        ({"target": 16, "numbers": [3, 5.5]}, '{"target": 16, "numbers": [3, 5.5]}'),
        (True, "true"),
    ):
        record = {"question": "q", "answer": answer, "why": " as is\n"}
        query = only(load(tmp_path, "file", record, reward="judges:f", fields=fields))
        assert (query.reference, query.solution) == (reference, " as is\n")
        assert query.fields == record
    refused(tmp_path, "file", {"question": "q"}, "no field 'answer' for the ans", reward="judges:f")


def test_a_built_in_reward_needs_an_answer(tmp_path):
    for reward in ("number", "text", "math", "choice"):
        message = f"task.reward={reward} compares with an answer; name its field, or give a func"
        with pytest.raises(UserError, match=message):
            load(tmp_path, "file", COUNTDOWN, reward=reward, fields=NO_ANSWER)
    tested = {"question": "Double.", "tests": ["assert f(2) == 4"]}
    assert only(load(tmp_path, "file", tested, reward="code", fields=NO_ANSWER)).reference == ""


# Published formats with other fields and markers.

PUBLISHED = {
    "gsm8k": (
        {"q": "1 + 1?", "a": {"b": "1+1=<<1+1=2>>2\n#### 2"}},
        {"question": "q", "answer": "a.b"},
        {"question": "1 + 1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    ),
    "math": (
        {"question": "p", "final": "$\\boxed{5}$", "worked": "so $5$"},
        {"answer": "final", "solution": "worked"},  # `question` is its usual name
        {"problem": "p", "answer": "$\\boxed{5}$", "solution": "so $5$"},
    ),
    "arc": (
        {"stem": "Cold?", "options": ["fire", "ice"], "right": ["B"]},
        {"question": "stem", "choices": "options", "answer": "right[0]"},
        {"question": "Cold?", "choices": ["fire", "ice"], "answerKey": "B"},
    ),
    "humaneval": (
        {"p": "def f(x):\n", "s": "    return x\n", "check": "def check(f): pass",
         "entry_point": "f"},
        {"question": "p", "solution": "s", "tests": "check"},
        {"prompt": "def f(x):\n", "canonical_solution": "    return x\n",
         "test": "def check(f): pass", "entry_point": "f"},
    ),
    "mbpp": (
        {"ask": "Double.", "program": "f = 1", "asserts": ["assert f"]},
        {"question": "ask", "solution": "program", "tests": "asserts"},
        {"text": "Double.", "code": "f = 1", "test_list": ["assert f"]},
    ),
    "apps": (
        {"ask": "Echo.", "io": json.dumps({"inputs": ["1"], "outputs": ["1"]}), "done": "[\"1\"]"},
        {"question": "ask", "solution": "done", "tests": "io"},
        {"question": "Echo.", "solutions": "[\"1\"]",
         "input_output": json.dumps({"inputs": ["1"], "outputs": ["1"]})},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_formats_take_other_fields(tmp_path, name):
    record, names, published = PUBLISHED[name]
    expected = only(load(tmp_path, name, published))
    assert only(load(tmp_path, name, record, fields=FieldNames(**names))) == expected
    called = load(tmp_path, name, published, reward="judges:f")
    query = only(called)
    assert source(called).reward == "judges:f" and source(called).separator == "\n"
    assert source(called).answer_kind == source(load(tmp_path, name, published)).answer_kind
    assert query.fields == {**published, **expected.fields}
    labelled = published | {"from": "here", "key": 7}
    query = only(load(tmp_path, name, labelled, fields=FieldNames(source="from", id="key")))
    assert (query.label, query.query_id.removeprefix("train/")) == ("here", "7")


def test_published_formats_take_another_marker(tmp_path):
    record, names, _ = PUBLISHED["gsm8k"]
    given = FieldNames(**names)
    task = load(tmp_path, "gsm8k", record, fields=given, answer_marker="So:")
    assert only(task).solution == "1+1=<<1+1=2>>2\nSo: 2" and source(task).answer_marker == "So:"
    written = {"question": "q", "answer": "two\nSo: 2"}
    assert only(load(tmp_path, "gsm8k", written, answer_marker="So:")).reference == "2"
    task = load(tmp_path, "math", PUBLISHED["math"][2], answer_marker="Answer:")
    assert only(task).solution == "so $5$\n\nAnswer:\n\n5"
    task = load(tmp_path, "arc", PUBLISHED["arc"][2], answer_marker="So:")
    assert 'end with "So: "' in only(task).prompt and 'end with "So: "' in task.hint(only(task))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mbpp", {"answer_marker": "#"}, "task mbpp reads answers that no other marker"),
        ("mbpp", {"fields": FieldNames(answer="a")}, "but task mbpp reads question, soluti"),
        ("gsm8k", {"fields": FieldNames(answer="")}, "task.fields.answer is '', but task gsm8k"),
        ("gsm8k", {"reward": "text"}, "'text', but task gsm8k is graded as 'number'; drop"),
        ("arithmetic", {"answer_marker": "="}, "task arithmetic makes its own queries; drop"),
        ("file", {"fields": FieldNames(question="")}, "fields.question is ''; every record"),
        ("file", {"reward": "code", "fields": FieldNames(tests="")}, "fields.tests is '', but"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(tmp_path, name, settings, message):
    with pytest.raises(UserError) as caught:
        load(tmp_path, name, {"question": "q", "answer": 1}, **settings)
    assert message in str(caught.value)


# Responses.


def test_responses_to_a_function_are_told_apart_by_their_records(tmp_path):
    rows = [
        {**COUNTDOWN, "response": response, "finish_reason": "stop"} for response in ("a", "b")
    ] + [{**COUNTDOWN, "target": 17, "response": "a"}]
    file = tmp_path / "in.jsonl"
    write(file, rows)
    config = TaskConfig(name="file", reward=FUNCTION, fields=NO_ANSWER)
    task, responses, lines = tasks.load_responses(file, config)
    first, last = task.splits["train"]
    assert [response.query for response in responses] == [first, first, last]
    assert first.fields == COUNTDOWN and len(lines) == 3


# What docs/data.md says.

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "data.md"
SETTINGS = re.findall(r"`(name=[^`]+)`", PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", SETTINGS)
def test_the_settings_of_published_layouts_go_together(text):
    changes = dict(each.split("=", 1) for each in shlex.split(text.replace("\n", " ")))
    config = Config().changed({f"task.{name}": value for name, value in changes.items()})
    form = find_format(config.task.all_sources()[""])
    assert form.name == changes["name"]
    assert bool(form.source.reward) == (":" in changes.get("reward", ""))


def test_the_page_has_the_names_that_are_read():
    assert len(SETTINGS) > 12
    page = PAGE.read_text(encoding="utf-8")
    for names in KNOWN.values():
        assert f"| {', '.join(names)} |" in page
    for layout in (LAYOUTS["verl"], LAYOUTS["trl"]):
        assert f"| {layout.question} | {layout.answer} |" in page
    assert all(ending in page for ending in ENDINGS) and f"{MOST_DIGITS:,} digits" in page
    assert f"more than {DEEPEST} deep" in page
