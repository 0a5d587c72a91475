"""What a run writes when it begins."""

import io
import json

import pytest

from bstar_jax.config import UserError
from bstar_jax.console import Console
from bstar_jax.phases.opening import open_run
from tests import tiny


def begun(directory, config):
    """The task of a run that has begun."""
    with open_run(directory, config, Console(quiet=True, stderr=io.StringIO())) as run:
        run.workspace.begin(run.config, run.policy, run.task.left_out)
        return run.task


def test_a_run_lists_the_records_that_its_data_left_out(tmp_path):
    lines = [json.dumps({"question": f"What is {i} + 1?", "answer": i + 1}) for i in range(400)]
    lines[7] = lines[7][:-1]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines))
    changes = {
        "task.name": "file",
        "task.path": str(path),
        "tokenizer.vocab_size": 300,
        "sft.examples": 0,
        "sft.steps": 0,
    }
    with pytest.raises(UserError, match="line 8, column 43: not JSON"):
        begun(tmp_path / "run", tiny.GRID.changed(changes))
    changes["task.unreadable"] = "drop"
    for _ in range(2):  # the second goes on with the first
        task = begun(tmp_path / "run", tiny.GRID.changed(changes))
        assert len(task.splits["train"]) == 399 - 16
        assert "1 of 400 records cannot be read" in "".join(task.notes)
        (listed,) = map(json.loads, (tmp_path / "run/left_out.jsonl").read_text().splitlines())
        assert (listed["place"], listed["id"]) == (f"{path}, line 8", "train/7")
        assert listed["reason"].startswith("column 43: not JSON")
