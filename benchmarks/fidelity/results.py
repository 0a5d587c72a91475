"""What two folders of results differ in: runs, exported models, graded lines, plans."""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import launching
from benchmarks.fidelity.stored import arrays

IGNORED = {"cache", "tensorboard", "checkpoints", "scratch"}
IGNORED_FILES = {"done.json", "steps.json", "words.json"}
TIMES = (*launching.TIMINGS, "seconds")
Roots = tuple[pathlib.Path, pathlib.Path]
Compared = tuple[int, list[str]]  # how much was compared, a line for each difference


def compare(left: pathlib.Path, right: pathlib.Path) -> tuple[list[str], dict[str, int]]:
    """Compares two finished runs, or other folders of results.

    Not compared are logs, compiled programs, TensorBoard files, and checkpoint files as files.

    Returns:
      A line for each difference, and how much was compared, by kind.
    """
    mine, other = files(left), files(right)
    found = [f"only in {left.parent}: {name}" for name in sorted(mine.keys() - other.keys())]
    found += [f"only in {right.parent}: {name}" for name in sorted(other.keys() - mine.keys())]
    if not mine:
        found.append(f"{left} holds nothing to compare")
    counts = Counter[str]()
    for name in sorted(mine.keys() & other.keys()):
        kind, amount, lines = differences(mine[name], other[name], (left.parent, right.parent))
        counts[kind] += amount
        found += [f"{name}: {line}" for line in lines]
    return found, dict(counts)


def files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What is compared of a folder, by path: files, checkpoints, and folders left over in a run."""
    found, training = {}, {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        name = "/".join(parts)
        if "checkpoints" in parts[:-1] and (path / "_CHECKPOINT_METADATA").exists():
            if path.parent.name == "training":  # of these the newest counts
                newest = training.get(path.parent)
                if newest and int(newest[1].name) > int(path.name):
                    continue
                training[path.parent] = (name, path)
            else:
                found[name] = path
        elif not IGNORED & set(parts) and (_is_result(path) or "iterations" in parts):
            found[name] = path
    return found | dict(training.values())


def _is_result(path: pathlib.Path) -> bool:
    is_log = path.suffix in (".log", ".tmp")
    return path.is_file() and not is_log and path.name not in IGNORED_FILES


def differences(
    left: pathlib.Path, right: pathlib.Path, roots: Roots
) -> tuple[str, int, list[str]]:
    """Compares two files, two checkpoints, or two folders, which are both there.

    Args:
      left: One of them.
      right: The other, of the same name.
      roots: The folders whose names are left out where a text holds them.

    Returns:
      What was compared, how much of it there is, and a line for each difference.
    """
    if left.is_dir():
        is_checkpoint = (left / "_CHECKPOINT_METADATA").exists()
        return ("arrays", *_checkpoints(left, right)) if is_checkpoint else ("folders", 1, [])
    kind, compare = _KINDS.get(left.name) or _KINDS.get(left.suffix, ("bytes", None))
    if compare:
        return (kind, *compare(left, right, roots))
    mine, other = (_content(file, root) for file, root in zip((left, right), roots, strict=True))
    return "bytes", len(mine), [] if mine == other else [_first_bytes(mine, other)]


def _content(file: pathlib.Path, root: pathlib.Path) -> bytes:
    return file.read_bytes().replace(str(root).encode(), b"<root>")


def _first_bytes(mine: bytes, other: bytes) -> str:
    pairs = enumerate(zip(mine, other, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(mine), len(other)))
    start = max(at - 20, 0)
    return f"bytes differ at {at}: {mine[start : at + 40]!r} | {other[start : at + 40]!r}"


# Parquet.


def _parquet(left: pathlib.Path, right: pathlib.Path, roots: Roots) -> Compared:
    del roots
    mine, other = (_table(file) for file in (left, right))
    if not mine.schema.equals(other.schema, check_metadata=True):
        return mine.num_rows, [f"schemas differ: {_first_line(mine.schema, other.schema)}"]
    if mine.num_rows != other.num_rows:
        return mine.num_rows, [f"{mine.num_rows} | {other.num_rows} rows"]
    return mine.num_rows, [
        f"column {name}, {_first_value(mine[name], other[name])}"
        for name in mine.column_names
        if not _same_column(mine[name], other[name])
    ]


def _table(file: pathlib.Path) -> pa.Table:
    """The rows of a file with its metadata, of which the seconds of sampling are left out."""
    table = pq.ParquetFile(file).read()
    metadata = table.schema.metadata or {}
    kept = {key: value for key, value in metadata.items() if not is_time(key.decode())}
    return table.replace_schema_metadata(kept)


def _same_column(mine: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Whether two columns hold the same bits; NaN equals NaN, and -0 is not 0."""
    return (
        mine.combine_chunks().to_pylist().__repr__()
        == other.combine_chunks().to_pylist().__repr__()
    )


def _first_value(mine: pa.ChunkedArray, other: pa.ChunkedArray) -> str:
    pairs = enumerate(zip(mine.to_pylist(), other.to_pylist(), strict=True))
    row, (a, b) = next((row, pair) for row, pair in pairs if repr(pair[0]) != repr(pair[1]))
    return f"row {row}: {a!r} | {b!r}"


def _first_line(mine: pa.Schema, other: pa.Schema) -> str:
    pairs = zip(f"{mine}\n".splitlines(), f"{other}\n".splitlines(), strict=False)
    return next(
        (f"{a} | {b}" for a, b in pairs if a != b), "one has more fields, or other metadata"
    )


# Checkpoints.


def _checkpoints(left: pathlib.Path, right: pathlib.Path) -> Compared:
    mine, other = arrays(left), arrays(right)
    lines = [f"array {path} only in one" for path in sorted(mine.keys() ^ other.keys())]
    for path in sorted(mine.keys() & other.keys()):
        a, b = mine[path], other[path]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            lines.append(f"{path}: {a.dtype}{a.shape} | {b.dtype}{b.shape}")
        elif a.tobytes() != b.tobytes():
            apart = np.count_nonzero(a != b)
            lines.append(f"{path}: {apart} of {a.size} values differ")
    return len(mine), lines


# JSON.


def _metrics(left: pathlib.Path, right: pathlib.Path, roots: Roots) -> Compared:
    del roots
    mine, other = _metrics_rows(left), _metrics_rows(right)
    lines = [f"row {key} only in one" for key in sorted(mine.keys() ^ other.keys(), key=str)]
    lines += [
        f"row {key}: {_first_field(mine[key], other[key])}"
        for key in mine
        if key in other and mine[key] != other[key]
    ]
    return len(mine), lines


def _metrics_rows(file: pathlib.Path) -> dict[tuple[int, str, int | None], str]:
    """The last row of every (iteration, phase, step), less its times.

    A checkpoint that falls due by the clock writes a row of its own; those are left out.
    """
    config, rows = launching.read_config(file.parent), launching.metrics_rows(file.parent)
    lasts = {name: config[name]["steps"] for name in ("sft", "prm", "improve")}
    lasts["completer"] = config["prm"]["completer_steps"]
    return {
        (iteration, phase, step): json.dumps(untimed(row))
        for (iteration, phase, step), row in rows.items()
        if step is None or step % config["log"]["every"] == 0 or step == lasts[phase]
    }


def untimed(value: Any) -> Any:
    """A JSON value without the fields that are times or rates, at any depth, order kept."""
    if isinstance(value, dict):
        return {name: untimed(each) for name, each in value.items() if not is_time(name)}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def is_time(name: str) -> bool:
    """Whether a field of this name tells how long something took."""
    return name in TIMES or name.endswith("_seconds")


def _lines(left: pathlib.Path, right: pathlib.Path, roots: Roots) -> Compared:
    """JSON Lines less times."""
    mine, other = (
        [json.dumps(untimed(json.loads(line))) for line in _text(file, root).splitlines()]
        for file, root in zip((left, right), roots, strict=True)
    )
    if len(mine) != len(other):
        return len(mine), [f"{len(mine)} | {len(other)} lines"]
    pairs = enumerate(zip(mine, other, strict=True), 1)
    return len(mine), [f"line {n}: {_first_field(a, b)}" for n, (a, b) in pairs if a != b]


def _config(left: pathlib.Path, right: pathlib.Path, roots: Roots) -> Compared:
    """A run's config.json less the git revision, or a model's as it is."""
    return _json(left, right, roots, lambda value: _without(value, ("revision",)))


def _plan(left: pathlib.Path, right: pathlib.Path, roots: Roots) -> Compared:
    """A plan less the time that compiling took; its other seconds are forecasts, and compared."""

    def reduced(value: dict[str, Any]) -> dict[str, Any]:
        lists = ("programs", "would_fit_compiled")
        parts = {
            name: [_without(each, ("compile_seconds",)) for each in value[name]]
            for name in lists
            if name in value
        }
        return {**value, **parts}

    return _json(left, right, roots, reduced)


def _json(
    left: pathlib.Path, right: pathlib.Path, roots: Roots, reduced: Callable[[Any], object]
) -> Compared:
    mine, other = (
        json.dumps(reduced(json.loads(_text(file, root))))
        for file, root in zip((left, right), roots, strict=True)
    )
    return _leaves(json.loads(mine)), [] if mine == other else [_first_field(mine, other)]


def _leaves(value: object) -> int:
    """How many values a JSON value holds."""
    if isinstance(value, (dict, list)):
        return sum(map(_leaves, value.values() if isinstance(value, dict) else value))
    return 1


def _without(value: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name not in names}


def _text(file: pathlib.Path, root: pathlib.Path) -> str:
    return _content(file, root).decode()


def _first_field(mine: str, other: str) -> str:
    """The first value in which two JSON texts differ, or else that their fields stand otherwise."""
    a, b = json.loads(mine), json.loads(other)
    return next(_unlike(a, b, ""), "fields stand in another order")


def _unlike(a: object, b: object, path: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(name for name in b if name not in a)]:
            yield from _unlike(a.get(name, "<absent>"), b.get(name, "<absent>"), f"{path}.{name}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _unlike(x, y, f"{path}[{place}]")
    elif a != b:
        yield f"{path.removeprefix('.')}: {a!r} | {b!r}"


_KINDS = {
    ".parquet": ("rows", _parquet),
    "metrics.jsonl": ("metrics rows", _metrics),
    "config.json": ("values of configs", _config),
    ".jsonl": ("graded lines", _lines),
    ".plan": ("values of plans", _plan),
}
