"""The grading door: a file of responses in, the same lines with their grades out."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORY = "Eve has 8 . finds 4 . loses 3 . How many now?"


def grade(folder, lines, *flags):
    """(exit code, graded lines, standard output, standard error)."""
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    code, out, err = run(source, target, *flags)
    graded = (
        [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else []
    )
    return code, graded, out, err


def run(source, target, *flags):
    """(exit code, standard output, standard error) of the door."""
    door = [sys.executable, "-m", "bstar_jax.grade", f"--input={source}", f"--output={target}"]
    done = subprocess.run([*door, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_stories(tmp_path):
    lines = [
        {"question": STORY, "response": "8 - 3 = 5 . 5 + 4 = 9 . # 9", "mine": [1, 2.50]},
        {"question": STORY, "response": "# 8"},
        {"question": STORY, "response": "8 - 3", "finish_reason": "length"},
    ]
    code, graded, out, err = grade(tmp_path, lines, "--task=arithmetic")
    assert code == 0, err
    for line, given in zip(graded, lines, strict=True):
        assert {name: line[name] for name in given} == given and line["seconds"] >= 0
    assert [line["reason"] for line in graded] == ["correct", "wrong", "unparseable"]
    assert [line["answer"] for line in graded] == ["9", "8", None]
    assert [line["process_reward"] for line in graded] == [1.0, -1.0, -1.0]
    assert "0.3333" in out and "3 responses" in err


def test_own_fields_choose_the_reward(tmp_path):
    lines = [
        {"q": "Which is cold?", "c": ["ice", "fire"], "a": "A", "response": text}
        for text in ("Final answer: A", "**B**", "perhaps")
    ]
    names = {"question": "q", "choices": "c", "answer": "a"}
    flags = [f"--config.task.fields.{role}={name}" for role, name in names.items()]
    code, graded, _, err = grade(
        tmp_path, lines, "--task=jsonl", "--config.task.reward=choice", "--quiet", *flags
    )
    assert code == 0, err
    assert [line["reason"] for line in graded] == ["correct", "wrong", "unparseable"]
    assert err == ""


def test_mathematics_goes_to_workers(tmp_path):
    problem = {"problem": "Solve.", "answer": "\\frac{1}{2}"}
    texts = ["\\boxed{0.5}", "# Answer\n\n1/2", "so \\boxed{-0.5}", "nothing"]
    lines = [{**problem, "response": text} for text in texts]
    code, graded, _, err = grade(tmp_path, lines, "--task=math")
    assert code == 0, err
    assert [line["reason"] for line in graded] == ["correct", "correct", "wrong", "unparseable"]


def test_programs_are_run(tmp_path):
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    problem = {
        "task_id": 1, "text": "Double.", "code": "def double(x):\n    return 2 * x",
        "test_list": ["assert double(2) == 4", "assert double(3) == 6"], "test_setup_code": "",
    }  # fmt: skip
    bodies = ["return x + x", "return 4", "raise ValueError('no')"]
    lines = [{**problem, "response": f"def double(x):\n    {body}"} for body in bodies]
    lines.append({**problem, "response": " "})
    code, graded, _, err = grade(tmp_path, lines, "--task=mbpp")
    assert code == 0, err
    assert [line["reason"] for line in graded] == ["correct", "wrong", "error", "unparseable"]
    assert [line["first_failing"] for line in graded] == [None, 1, 0, None]
    assert graded[0]["message"] == "" and "assert double(3) == 6" in graded[1]["message"]
    assert "ValueError: no" in graded[2]["message"]


def test_what_a_line_held_is_kept_as_it_was_written(tmp_path):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given = f'"question": "{STORY}", "response": "# 9", "mine": [1.50, 1e2, {"9" * 5000}]'
    source.write_text("{" + given + " }\n")
    code, *_, err = run(source, target, "--task=arithmetic")
    assert code == 0, err
    line = target.read_text()
    assert line.startswith("{" + given) and '"correct": true' in line


@pytest.mark.parametrize(
    ("lines", "flags", "message"),
    [
        ([{"question": STORY, "response": "#"}], ["--task=aritmetic"], "task.name is 'aritmetic'"),
        ([{"question": STORY}], ["--task=arithmetic"], "line 1: there is no field 'response'"),
        ([{"question": STORY, "response": 3}], ["--task=arithmetic"], "holds a number"),
        ([{"question": "How?", "response": ""}], ["--task=arithmetic"], "holds no story"),
        (
            [{"question": STORY, "response": "", "finish_reason": "end"}],
            ["--task=arithmetic"],
            "field 'finish_reason' is 'end'; it takes one of stop, length",
        ),
        ([], ["--task=arithmetic"], "holds no records"),
        ([{}], ["--task=gsm8k", "--config.seed=1"], "seed changes no grade"),
        (
            [{"problem": "?", "answer": "\\frac{", "response": ""}],
            ["--task=math"],
            "1 of 1 reference answers cannot be read as mathematics",
        ),
        (
            [{"text": "?", "code": "x", "test_list": ["assert ("], "response": "x"}],
            ["--task=mbpp"],
            "the tests of 1 of 1 queries are broken",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(tmp_path, lines, flags, message):
    code, graded, _, err = grade(tmp_path, lines, *flags)
    assert (code, graded) == (2, [])
    assert err.startswith("error: ") and message in err, err


def test_the_output_never_overwrites_the_input(tmp_path):
    source = tmp_path / "in.jsonl"
    code, _, err = run(source, source, "--task=arithmetic")
    assert code == 2 and "give the output another name" in err


def test_a_folder_as_output_is_refused_before_grading(tmp_path):
    code, _, err = run(tmp_path / "in.jsonl", tmp_path, "--task=arithmetic")
    assert code == 2 and "is a folder; name a file in it" in err
