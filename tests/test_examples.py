"""The examples of docs/own.md are files that work as they are written."""

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bstar_jax import Query, load_config, tasks
from bstar_jax.config import RewardsConfig, TaskConfig
from bstar_jax.grading import open_grader, trial
from bstar_jax.records import Response, Source
from tests import structure

DOCUMENT = structure.ROOT / "docs" / "own.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    for name, text in EXAMPLES.items():
        (path / name).write_text(text)
    return path


def scores(folder, reward, query, texts):
    source = Source("own", "free", reward=f"{folder}/{reward}")
    settings = RewardsConfig(workers=1)
    with open_grader([query], {"own": source}, settings) as grader:
        graded = grader.grade([Response(query, text) for text in texts])
    assert not any(grade.is_broken for grade in graded), [grade.message for grade in graded]
    return [grade.score for grade in graded]


def query(**fields):
    reference = fields.pop("reference", "")
    return Query(query_id="1", prompt="?", reference=reference, fields=fields, source="own")


def test_a_reward(folder):
    asked = query(numbers=[3, 5, 8], target=16)
    texts = ["so => 8 + 5 + 3", "=> 3 + 5 * 8", "=> __import__('os')", ""]
    assert scores(folder, "countdown.py:score", asked, texts) == [1, 0, 0, 0]


def test_partial_credit(folder):
    asked = query(words=["cat", "dog", "cow", "hen"])
    texts = ["a dog, a cat, a cow and a hen", "a cow", "nothing"]
    assert scores(folder, "partial.py:share", asked, texts) == [1, 0.25, 0]


def test_a_judge_over_http(folder, monkeypatch):
    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            rows = eval(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(str([len(response) / 10 for _, response in rows]).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JUDGE_URL", f"http://127.0.0.1:{server.server_port}/")
    try:
        assert scores(folder, "judge.py:judge", query(), ["1234", "12345678"]) == [0.4, 0.8]
    finally:
        server.shutdown()


@pytest.mark.parametrize("name", ["verl", "trl", "openrlhf", "verifiers"])
def test_rewards_of_other_libraries(folder, name):
    assert scores(folder, f"wrapped.py:from_{name}", query(reference="7"), ["7", "8"]) == [1, 0]


def test_a_task_with_its_steps_passes_the_trial(folder):
    changes = {"task": TaskConfig(name=f"{folder}/game.py:task"), "sft.examples": 50}
    config = load_config(structure.ROOT / "configs/own.py").changed(changes)
    task = tasks.load_task(config)
    queries = list(task.query_by_id.values())
    with open_grader(queries, task.sources, config.rewards) as grader:
        (tried,) = trial.try_rewards(grader, queries, task.sources, config.seed)
        solved = [query for query in queries if query.solution][:5]
        graded = grader.grade([Response(query, query.solution) for query in solved])
    assert tried.failure() == "" and tried.warnings() == []
    assert [grade.step_rewards for grade in graded] == [[1.0, 1.0, 1.0]] * 5


def test_a_config_with_several_sources(folder, monkeypatch):
    monkeypatch.chdir(structure.ROOT)
    config = load_config(folder / "mix.py")
    assert {name: each.share for name, each in config.task.all_sources().items()} == {
        "code": 0.2,
        "game": 0.3,
        "math": 0.5,
    }
