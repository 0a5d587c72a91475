"""The fingerprint of data: the same wherever it lies, another if anything of it changes."""

import dataclasses
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

from bstar_jax import tasks
from bstar_jax.config import FieldNames
from bstar_jax.tasks.fingerprint import canonical_json
from tests.formats import SIZES, write

ROWS = [{"question": f"q{i}", "answer": i, "why": f"as {i}", "kind": "a"} for i in range(12)]
FIELDS = FieldNames(solution="why", source="kind")
COUNTS = SIZES | {"heldout_queries": 3, "calibration_queries": 2, "sft_examples": 2}


def load(path, **settings):
    return tasks.load("file", str(path), **{**COUNTS, "fields": FIELDS, **settings})


def test_data_has_one_fingerprint_in_every_file(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS, indent=2))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    (tmp_path / "e").mkdir()
    for part in range(2):
        write(tmp_path / "e" / f"train-{part}.jsonl", ROWS[6 * part : 6 * part + 6])
    found = {tasks.fingerprint(load(path)) for path in sorted(tmp_path.iterdir())}
    assert len(found) == 1 and len(found.pop()) == 64


def test_every_part_of_a_query_counts(tmp_path):
    task = load(write(tmp_path / "a.jsonl", ROWS))
    seen = {tasks.fingerprint(task)}
    changes = {
        "query_id": "x", "prompt": "x", "messages": (("user", "x"),), "reference": "x",
        "solution": "x", "more_solutions": ("x",), "fields": {"x": 1}, "label": "x", "prefix": "x",
    }  # fmt: skip
    for name, value in changes.items():
        for split in ("train", "heldout"):
            first, *others = task.splits[split]
            queries = (dataclasses.replace(first, **{name: value}), *others)
            other = dataclasses.replace(task, splits={**task.splits, split: queries})
            seen.add(tasks.fingerprint(other))
    fields = {field.name for field in dataclasses.fields(first)}
    assert fields - changes.keys() == {"split", "source"}
    moved = {**task.splits, "train": task.splits["train"][::-1]}
    seen.add(tasks.fingerprint(dataclasses.replace(task, splits=moved)))
    seen.add(tasks.fingerprint(load(tmp_path / "a.jsonl", seed=1)))
    assert len(seen) == 1 + 2 * len(changes) + 2


def test_any_json_value_has_one_form():
    assert canonical_json({"b": (1, "é"), "a": [None]}) == b'{"a":[null],"b":[1,"\\u00e9"]}'
    large = 10**20_000
    assert canonical_json({"a": [large]}) == canonical_json({"a": (large,)})
    assert canonical_json([large]) != canonical_json([large + 1])
    assert canonical_json("\ud800") != canonical_json("\ud801")
