"""Small files of records, as tasks are published, and what tests ask of them."""

import json

import pytest

from bstar_jax import tasks
from bstar_jax.config import UserError

SIZES = {"seed": 0, "sft_examples": 0, "calibration_queries": 0, "heldout_queries": 0}


def write(path, records):
    """Writes records, one a line; the path as text."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def load(folder, name, *records, **settings):
    """The task of these records, all of them in train."""
    path = write(folder / "records.jsonl", records)
    return tasks.load(name, path, **{**SIZES, **settings})


def only(task):
    """The one query of a task, whose fields must be JSON values."""
    (query,) = task.splits["train"]
    json.dumps(query.fields, allow_nan=False)
    return query


def source(task):
    """The one source of a task."""
    (only,) = task.sources.values()
    return only


def refused(folder, name, record, message, **settings):
    """Checks that a record is refused with its place."""
    with pytest.raises(UserError, match=message) as caught:
        load(folder, name, record, **settings)
    assert "records.jsonl, line 1" in str(caught.value)
