"""Small input files for the cases, cut from published data: the same bytes whenever they are made.

Records are the shortest of each file, so that prompts and responses stay short. Where a case needs
a model that sometimes answers right, its records stand several times under different ids: what
warm-up learns by heart then also stands in the calibration and held-out splits.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

FILES = {
    "gsm8k": "gsm8k_train.jsonl",
    "math": "math500_part.jsonl",
    "arc": "arc_challenge_train.jsonl",
    "mbpp": "mbpp_part.jsonl",
    "humaneval": "humaneval_part.jsonl",
}

Record = dict[str, Any]


def make(data: pathlib.Path, output: pathlib.Path) -> None:
    """Writes the input files of all cases into a folder.

    Args:
      data: Holds the published files named in `FILES`.
      output: The folder; made if it is not there.
    """
    output.mkdir(parents=True, exist_ok=True)
    records = {task: _read(data / name) for task, name in FILES.items()}
    short = {
        task: sorted(rows, key=lambda row: (_size(row), str(row))) for task, rows in records.items()
    }
    _write(output / "gsm8k.jsonl", short["gsm8k"][:300])
    _write(output / "arc.jsonl", _repeated(short["arc"][:40], 4, "id", "question"))
    _write(output / "arc_solved.jsonl", map(_solved, short["arc"][:40]))
    _write(output / "mbpp.jsonl", _repeated(_plain(short["mbpp"])[:16], 6, "task_id", "text"))
    _write(output / "humaneval.jsonl", _repeated(short["humaneval"][:10], 6, "task_id", "prompt"))
    for task, respond in _RESPONSES.items():
        _write(output / f"{task}_responses.jsonl", _responses(records[task], respond))


def _read(file: pathlib.Path) -> list[Record]:
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write(file: pathlib.Path, rows: Iterable[Record]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _size(record: Record) -> int:
    return len(json.dumps(record))


def _repeated(records: list[Record], times: int, id_field: str, question: str) -> list[Record]:
    """Every record several times, each time under another id and with another first line."""
    return [
        {
            **record,
            id_field: f"{record[id_field]}/{copy}",
            question: f"# {copy}\n{record[question]}",
        }
        for copy in range(times)
        for record in records
    ]


def _plain(records: list[Record]) -> list[Record]:
    """Those whose program holds no tab."""
    return [record for record in records if "\t" not in record["code"]]


def _solved(record: Record) -> Record:
    """A question of ARC with the one-line solution that teaches how to name an option."""
    return {**record, "solution": f"Final answer: {record['answerKey']}"}


# Responses to be graded: every record answered right, and wrong in several ways.


def _responses(
    records: list[Record], respond: Callable[[Record, Record], list[str]]
) -> list[Record]:
    """Each record with its responses; the last response also cut by the length limit."""
    rows = []
    most = 150 if "test_list" in records[0] or "entry_point" in records[0] else 600
    for place, record in enumerate(records[:most]):
        other = records[(place + 1) % len(records)]
        texts = [*respond(record, other), ""]
        rows += [{**record, "response": text} for text in texts]
        rows.append({**record, "response": texts[0], "finish_reason": "length"})
    return rows


def _gsm8k(record: Record, other: Record) -> list[str]:
    worked, _, number = record["answer"].rpartition("#### ")
    wrong_step = record["answer"].replace(">>", "1>>", 1)
    return [
        record["answer"], other["answer"], f"{worked}#### ${number}.00", f"{worked}#### -{number}",
        f"{worked}the answer is {number}", wrong_step,
    ]  # fmt: skip


def _math(record: Record, other: Record) -> list[str]:
    mine, theirs = record["answer"], other["answer"]
    return [
        f"# Answer\n\n{mine}", f"So it is \\boxed{{{mine}}}.", f"\\boxed{{{theirs}}}",
        f"# Answer\n\n{mine} + 1", f"# Answer\n\n{mine} \\cdot 1", mine,
    ]  # fmt: skip


def _arc(record: Record, other: Record) -> list[str]:
    del other
    label = record["answerKey"]
    labels = record["choices"]["label"]
    wrong = labels[(labels.index(label) + 1) % len(labels)]
    return [
        f"Final answer: {label}", f"Final answer: {wrong}", f"the answer is ({label})",
        f"It is {label} or {wrong}.", f"Final answer: {label}. {wrong}",
    ]  # fmt: skip


def _mbpp(record: Record, other: Record) -> list[str]:
    code = record["code"]
    return [
        f"```python\n{code}\n```", f"```python\n{other['code']}\n```", code,
        f"```python\n{code}\nraise ValueError('no')\n```",
    ]  # fmt: skip


def _humaneval(record: Record, other: Record) -> list[str]:
    return [record["canonical_solution"], other["canonical_solution"], "    return None\n"]


_RESPONSES = {
    "gsm8k": _gsm8k, "math": _math, "arc": _arc, "mbpp": _mbpp, "humaneval": _humaneval,
}  # fmt: skip
