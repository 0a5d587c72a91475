"""The journal: an append-only record that survives being killed at any byte."""

import errno
import json
import subprocess
import sys
import types

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from bstar_jax.config import UserError
from bstar_jax.run import journal


def row(iteration=1, phase="grade", **figures):
    return {"iteration": iteration, "phase": phase, "wall_seconds": 1.5, **figures}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def open_log(path, **options):
    return journal.MetricsLog(path, **{"tensorboard": False, **options})


def test_rows_come_back_as_they_went_in_and_one_stands_on_each_line(path):
    rows = [
        row(0, "sft", step=20, loss=2.5),
        row(1, "monitor", **{"pass@32-4": 0.25, "split": "heldout", "greedy": None}),
        row(1, "balance", axes=[0.5, 1.0], chosen={"top_k": 0}, exact=True),
    ]
    with open_log(path) as log:
        for each in rows:
            log.append(each)
        assert log.rows() == rows
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert journal.read_rows(path) == rows


def test_a_row_is_on_disk_when_append_returns(path):
    log = open_log(path)
    log.append(row(loss=1.0))
    assert journal.read_rows(path) == [row(loss=1.0)]
    log.close()


def test_a_file_cut_at_any_byte_opens_to_its_whole_lines_and_grows_on(path):
    rows = [row(1, "generate", tokens=100), row(1, "grade", answer_accuracy=0.5)]
    with open_log(path) as log:
        for each in rows:
            log.append(each)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        count = whole[:size].count(b"\n")
        assert journal.read_rows(path) == rows[:count]
        assert path.read_bytes() == whole[:size], "reading must not edit"
        with open_log(path) as log:
            assert log.rows() == rows[:count]
            log.append(row(2))
        assert journal.read_rows(path) == [*rows[:count], row(2)]


@pytest.mark.parametrize(
    "broken",
    ['{"iteration": 1,', "[1, 2]", "", '{"iteration": 1, "phase": "grade"}', "\0\0"],
)
def test_a_broken_line_elsewhere_names_the_file_and_the_line(path, broken):
    good = json.dumps(row())
    path.write_text(f"{good}\n{broken}\n{good}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: broken line"):
        open_log(path)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: broken line"):
        journal.read_rows(path)


def test_a_nan_in_the_file_is_a_broken_line(path):
    path.write_text('{"iteration": 1, "phase": "improve", "wall_seconds": 1, "loss": NaN}\n')
    with pytest.raises(UserError, match=r":1: broken line: NaN is not JSON"):
        journal.read_rows(path)


def test_reading_where_no_run_is_says_so(path):
    with pytest.raises(UserError, match="does not exist; is .* the folder of a run"):
        journal.read_rows(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"loss": float("nan")}, "iteration 1 grade: 'loss' is nan"),
        ({"loss": float("-inf")}, "'loss' is -inf"),
        ({"score": [[0.5, float("nan")]]}, r"'score'\[0\]\[1\] is nan"),
        ({"chosen": {"t": float("inf")}}, r"'chosen'\['t'\] is inf"),
        ({"chosen": {1: 2}}, "keys are strings"),
        ({"loss": np.float32(1.0)}, r"'loss' is a float32, .*float\(x\)"),
        ({"where": {1, 2}}, "'where' is a set"),
        ({"iteration": "1"}, "'iteration' is '1'"),
        ({"phase": None}, "'phase' is None"),
        ({"wall_seconds": True}, "'wall_seconds' is True"),
        ({"step": 1.0}, "'step' is 1.0"),
    ],
)
def test_a_row_that_is_not_json_is_refused_and_leaves_no_trace(path, bad, message):
    with open_log(path) as log:
        with pytest.raises(ValueError, match=message):
            log.append({**row(), **bad})
        assert log.rows() == []
    assert path.read_bytes() == b""


def test_last_takes_the_last_of_iteration_phase_and_step(path):
    with open_log(path) as log:
        for loss, step in [(3.0, 10), (2.0, 20), (2.5, 10)]:  # a phase that ran again from 10
            log.append(row(1, "improve", step=step, loss=loss))
        log.append(row(2, "improve", step=10, loss=1.0))
        assert log.last(1, "improve", step=10)["loss"] == 2.5
        assert log.last(1, "improve", step=20)["loss"] == 2.0
        assert log.last(1, "improve")["loss"] == 2.5
        assert log.last(1, "improve", step=30) is None
        assert log.last(1, "monitor") is None
    with open_log(path) as log:
        assert log.last(2, "improve")["loss"] == 1.0


def test_a_process_that_does_not_write_touches_nothing(path, tmp_path):
    with open_log(path) as log:
        log.append(row(1))
    torn = path.read_bytes() + b'{"iteration": 2'
    path.write_bytes(torn)
    with journal.MetricsLog(path, write=False, wandb="balance") as log:
        assert log.rows() == [row(1)]
        log.append(row(2))
        assert log.last(2, "grade") == row(2)
    assert path.read_bytes() == torn
    assert journal.MetricsLog(tmp_path / "none" / "metrics.jsonl", write=False).rows() == []
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


class NearlyFullDisk:
    """A file whose disk takes `room` more bytes, then says that it is full."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken


def test_a_full_disk_is_a_clear_error_and_leaves_whole_lines(path):
    with open_log(path) as log:
        log.append(row(1))
        log._file = NearlyFullDisk(log._file, room=25)
        with pytest.raises(UserError, match=r"metrics\.jsonl: No space left.*free space"):
            log.append(row(2))
        assert log.rows() == journal.read_rows(path) == [row(1)]
        assert path.read_bytes().endswith(b"\n")
        log._file = NearlyFullDisk(log._file.file, room=10_000)
        log.append(row(2))
    assert journal.read_rows(path) == [row(1), row(2)]


def test_tensorboard_needs_no_torch_and_leaves_the_rest_of_the_process_its_own(tmp_path):
    """Where torch is installed its import takes longer than everything else before a run."""
    code = (
        "import sys; from bstar_jax.run.journal import MetricsLog\n"
        "MetricsLog(sys.argv[1] + '/metrics.jsonl', tensorboard=True).close()\n"
        "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules\n"
        "import importlib.util; assert importlib.util.find_spec('torch')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def tensorboard_points(folder):
    """(tag, step, value) of every point, read from the TFRecord framing by hand."""
    points = []
    for file in sorted(folder.glob("*tfevents*")):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            points += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return points


def test_tensorboard_holds_every_number_at_its_iteration_or_step(path, tmp_path):
    with open_log(path, tensorboard=True) as log:
        log.append(row(3, "monitor", **{"pass@32-4": 0.25, "split": "heldout", "greedy": None}))
        log.append(row(3, "improve", step=20, loss=0.5), step_offset=200)
    with open_log(path, tensorboard=True) as log:  # a restart within the same second
        log.append(row(4, "grade", answer_accuracy=1))
    assert sorted(tensorboard_points(tmp_path / "tensorboard")) == sorted(
        [
            ("monitor/wall_seconds", 3, 1.5),
            ("monitor/pass_at_32-4", 3, 0.25),
            ("improve/wall_seconds", 220, 1.5),
            ("improve/loss", 220, 0.5),
            ("grade/wall_seconds", 4, 1.5),
            ("grade/answer_accuracy", 4, 1.0),
        ]
    )


def test_wandb_that_is_not_installed_names_the_remedy(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'bstar_jax\[wandb\]'"):
        open_log(path, wandb="balance")


def test_wandb_gets_every_number_and_a_restart_the_same_run(path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        define_metric=lambda name, step_metric: calls.append((name, step_metric)),
        log=calls.append,
        finish=lambda: calls.append("finish"),
    )
    started = []
    wandb = types.SimpleNamespace(init=lambda **options: started.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with open_log(path, wandb="balance", config={"seed": 1}) as log:
        log.append(row(1, "monitor", **{"pass@1": 0.5, "greedy": None}))
        log.append(row(2, "improve", step=10, loss=0.25), step_offset=100)
    open_log(path, wandb="balance").close()
    assert calls == [
        ("monitor/*", "iteration"),
        {"iteration": 1, "monitor/wall_seconds": 1.5, "monitor/pass_at_1": 0.5},
        ("improve/*", "improve/step"),
        {"improve/step": 110, "improve/wall_seconds": 1.5, "improve/loss": 0.25},
        "finish",
        "finish",
    ]
    assert started[0]["project"] == "balance" and started[0]["config"] == {"seed": 1}
    assert started[0]["id"] == started[1]["id"] and started[0]["resume"] == "allow"


def test_iteration_rows_gather_the_phases_of_each_iteration():
    rows = [
        row(0, "sft", step=10, loss=3.0),
        row(0, "sft", step=20, loss=2.0),
        row(0, "monitor", **{"pass@1": 0.2, "split": "heldout"}),
        row(1, "calibrate", temperature=0.9, balance_score=0.28, balance_low=0.27),
        row(1, "select", selected=90, balance_score=0.26),
        row(1, "improve", step=10, loss=1.0),
        row(1, "monitor", **{"pass@1": 0.3}),
        row(1, "monitor", **{"pass@1": 0.4}),
        row(2, "calibrate", temperature=1.0, balance_score=None),
        row(2, "select", selected=80, balance_score=0.3),
    ]
    assert journal.iteration_rows(rows) == [
        {"iteration": 0, "loss": 2.0, "pass@1": 0.2},
        {
            "iteration": 1,
            "temperature": 0.9,
            "balance_score": 0.28,
            "balance_low": 0.27,
            "selected": 90,
            "loss": 1.0,
            "pass@1": 0.4,
        },
        {"iteration": 2, "temperature": 1.0, "balance_score": 0.3, "selected": 80},
    ]
