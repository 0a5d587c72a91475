"""Mistakes that people make with their own data and rewards: each is answered at the start.

An answer says what was given, what is allowed, and what to write.
"""

import json
import pathlib

import pytest

from bstar_jax import data, main
from bstar_jax.config import UserError
from tests import structure

OWN = f"--config={structure.ROOT / 'configs/own.py'}"
SMALL = ("sft.examples=0", "calibrate.queries=4", "monitor.queries=4", "sft.steps=0")
FUNCTIONS = """
NUMBER = 7


def score(query, response, finish_reason):
    return response.rpartition("#")[2].strip() == query.reference


def yes(query, response, finish_reason):
    return True


def no(query, response, finish_reason):
    return False


def one_argument(response):
    return True


def nothing(config):
    return 7


def fails(config):
    raise KeyError("no such table")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mistakes")
    records = [
        {"question": f"{n} + 1?", "answer": f"{n + 1}", "meta": {"truth": n, "id": n}}
        for n in range(40)
    ]
    chats = [
        [{"role": "system", "content": "Add."}, {"role": "user", "content": f"{n} + 1?"}]
        for n in range(40)
    ]
    files = {
        "q.jsonl": records,
        "chat.jsonl": [{"question": chat, "answer": "1"} for chat in chats],
        "from.jsonl": [{"question": [{"from": "human", "value": "?"}], "answer": "1"}],
        "pairs.jsonl": [{"question": "?", "answer": "1", "chosen": "a", "rejected": "b"}],
        "broken.jsonl": [*records, *({"question": "?"} for _ in range(20))],
        "two/a/train.jsonl": records,
        "two/b/train.jsonl": records,
        "split/first.jsonl": records,
    }
    for name, lines in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "own.py").write_text(FUNCTIONS)
    (path / "raises.py").write_text("x = 1 / 0\n")
    return path


MISTAKES = {
    # A reward.
    "task.reward=own.py": r"'own.py', which names a file, not a function.*write own.py:NAME",
    "task.reward=numbr": r"'numbr'; it takes one of 'number'.*did you mean 'number'",
    "task.reward=own.py:scroe": r"own.py has no 'scroe'; the nearest is 'score'",
    "task.reward=no_such_module:f": r"no module 'no_such_module' on sys.path; for a file write",
    "task.reward=gone.py:f": r"there is no file .*gone.py",
    "task.reward=raises.py:f": r"(?s)loading .*raises.py failed:.*line 1.*ZeroDivisionError",
    "task.reward=own.py:one_argument": r"takes 1 argument; it is called as one_argument\(query, re",
    "task.reward=own.py:NUMBER": r"own.py has 'NUMBER', which is no function",
    "task.reward=own.py:yes": r"(?s)fails its trial: of junk .* are correct.*check_reward=False",
    "task.reward=own.py:no": r"(?s)fails its trial: of right responses .* are correct",
    "task.step_reward=steps": r"task.step_reward is 'steps'; it takes FILE.py:FUNCTION",
    "task.reward=own.py:score task.step_reward=own.py:one_argument": r"called as one_argument\(que",
    "task.correct_at=80": r"task.correct_at is 80.0; it takes 1 or less",
    "task.correct_at=0": r"task.correct_at is 0.0; it takes more than 0",
    "task.reward=code task.answer_marker=#": r"task.answer_marker is '#', but task.reward=code",
    "task.reward=choice": r"there is no field 'choices' for the choices",
    "rewards.most_errors=2": r"rewards.most_errors is 2.0; it takes 1 or less",
    "rewards.batch=0": r"rewards.batch is 0; it takes 1 or more responses",
    "rewards.in_flight=-1": r"rewards.in_flight is -1; it takes 0 or more calls",
    "rewards.memory_mib=-1": r"rewards.memory_mib is -1; it takes 0 or more MiB",
    "calibrate.thresholds=80": r"thresholds has 80, but no reward exceeds 1 .* = 1, .*such as 0.99",
    # A task.
    "task.name=gsm9k": r"task.name is 'gsm9k'; it takes one of .*did you mean 'gsm8k'",
    "task.name=own.py:nothing task.path=": r"own.py:nothing returned a int; it returns a Task",
    "task.name=own.py:fails task.path=": r"(?s)own.py:fails failed:.*KeyError: 'no such table'",
    "task.name=own.py:fails": r"task.path is set, but own.py:fails makes its own queries; drop it",
    # Data.
    "task.path=nowhere.jsonl": r"there is no file nowhere.jsonl",
    "task.path=": r"task.path is '', but task 'file' reads a file; add --config.task.path=",
    "task.path=two": r"two .*a, b|two .* 'a'.*'b'",
    "task.path=split": r"first.*task.splits.train=first",
    "task.path=split task.splits.train=frist": r"'frist'",
    "task.fields.answer=anwser": r"no field 'anwser' for the answer; the nearest is 'answer'",
    "task.fields.answer=meta.truht": r"'meta' has no 'truht'; it has id, truth.*answer=meta.truth",
    "task.fields.answer=": r"task.reward=number compares with an answer; name its field, or give",
    "task.fields.question=meta": r"'meta' holds an object; the question is text",
    "task.path=from.jsonl": r"message 0 has 'from' and 'value'.*messages have role and content",
    "task.path=pairs.jsonl": r"'chosen' and 'rejected' are a preference pair",
    "task.path=chat.jsonl": r"chats?.*has no chat template; give tokenizer.path of a chat model",
    "task.path=chat.jsonl task.prompt={question}!": r"list of chat messages, but task.prompt is a",
    "task.path=chat.jsonl task.shots=1": r"list of chat messages, which task.shots=1",
    "task.system=Add.": r"task.system is 'Add.', but prompts are plain texts; set task.chat_templ",
    "task.template_variables=thinking=0": r"task.template_variables is .* no prompt is a chat; set",
    "task.unreadable=skip": r"task.unreadable is 'skip'; it takes one of 'stop', 'drop'",
    "task.path=broken.jsonl": r"broken.jsonl, line 41: there is no field 'answer'",
    "task.path=broken.jsonl task.unreadable=drop": r"20 of 60.*task.most_left_out",
    "task.keep=meta": r"task.keep is 'meta', but no function gets the fields of a record; drop it",
    "task.sources.math.share=1": r"there is no setting 'task.sources.math.share'",
}


def command(changes):
    words = {word.partition("=")[0]: word for word in (*SMALL, "task.path=q.jsonl", *changes)}
    return [OWN, *(f"--config.{word}" for word in words.values())]


@pytest.mark.parametrize("changes", MISTAKES)
def test_a_mistake_is_answered_with_value_rule_and_remedy(changes, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=MISTAKES[changes]):
        data.main(["data", *command(changes.split(" "))])


def test_without_a_mistake_the_data_is_shown(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    data.main(["data", *command(["task.reward=own.py:score"]), "--json=seen.json"])
    shown = capsys.readouterr().out
    assert "references as" in shown and "query train/" in shown
    (source,) = json.loads(pathlib.Path("seen.json").read_text())["sources"]
    assert source["splits"] == {"sft": 0, "train": 32, "calibration": 4, "heldout": 4}
    assert source["failure"] == "" and len(source["prompts"]) == 3


@pytest.mark.slow
def test_only_known_names_are_accepted(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    words = command(["task.reward=own.py:score"])
    with pytest.raises(UserError, match="--accept=rewards: it takes names of data, task, reward"):
        main.main(["main", *words, f"--workdir={tmp_path / 'run'}", "--accept=rewards"])
