"""The journal of a run: `metrics.jsonl`, mirrored to TensorBoard and, if asked for, to W&B.

`metrics.jsonl` is the record, and the mirrors are views of it. It has one JSON object a line and
only grows. A phase that runs again appends again, so readers take the last row of (iteration,
phase, step). A line counts when its newline is on disk. A process that is killed while it writes
leaves at most one incomplete line at the end, which the next `MetricsLog` removes.
"""

from __future__ import annotations

import io
import json
import math
import os
import pathlib
import time
import uuid
from collections.abc import Iterable, Mapping

from bstar_jax.config import UserError
from bstar_jax.console.libraries import absent
from bstar_jax.records.files import full_disk_explained

_REQUIRED = {"iteration": int, "phase": str, "wall_seconds": (int, float)}


class MetricsLog:
    """The open `metrics.jsonl` of a run, and its mirrors.

    Every number of a row is mirrored under the name `phase/key`, with "_at_" for "@", which
    TensorBoard does not take. A null is written to the file and adds no point to a curve.

    Example:
        with MetricsLog("runs/first/metrics.jsonl") as log:
            log.append({"iteration": 1, "phase": "grade", "wall_seconds": 3.2,
                        "answer_accuracy": 0.41, "process_reward_mean": None})
            log.last(1, "grade")["answer_accuracy"]        # 0.41
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        write: bool = True,
        tensorboard: bool = True,
        wandb: str = "",
        config: Mapping | None = None,
    ):
        """Opens or creates the file. An incomplete last line is removed: the only edit ever made.

        Args:
          path: The `metrics.jsonl`. The mirrors are written to the same folder.
          write: Whether this process writes. False changes nothing on disk and keeps appended rows
            only in memory.
          tensorboard: Whether to mirror to the folder `tensorboard`.
          wandb: The W&B project to mirror to; "" for none.
          config: Settings of the run, which W&B shows.

        Raises:
          UserError: If a line is broken, the disk is full, or W&B is asked for but not installed.
        """
        self._path = pathlib.Path(path)
        self._file: io.FileIO | None = None
        self._mirrors: list[_TensorBoard | _WandB] = []
        text = self._path.read_bytes() if self._path.exists() else b""
        complete = _complete_lines(text)
        self._rows = _parse(complete, self._path)
        if not write:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that what `write` has returned for is no longer in this process.
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115  (closed in `close`)
        if len(complete) < len(text):
            self._file.truncate(len(complete))
            os.fsync(self._file.fileno())
        with full_disk_explained(self._path.parent):
            if tensorboard:
                self._mirrors.append(_TensorBoard(self._path.parent / "tensorboard"))
        if wandb:
            self._mirrors.append(_WandB(wandb, self._path.parent, config or {}))

    def append(self, row: Mapping, *, step_offset: int = 0) -> None:
        """Writes one row to the disk, then mirrors its numbers.

        Args:
          row: JSON values under `iteration`, `phase`, `wall_seconds` and any other keys. None
            means "not computed".
          step_offset: Added to the row's `step` to give its position on the x axis of the
            mirrors, such as the number of steps in earlier iterations. The position of rows
            without `step` is their iteration.

        Raises:
          ValueError: If a key is missing, or a value is NaN, infinite or not JSON.
          UserError: If the disk is full. The file then ends with the previous row.
        """
        row = dict(row)
        _check_row(row)
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        if self._file is not None:
            with full_disk_explained(self._path):
                _write(self._file, line)
        self._rows.append(row)
        with full_disk_explained(self._path.parent):
            for mirror in self._mirrors:
                mirror.append(row, row["step"] + step_offset if "step" in row else None)

    def rows(self) -> list[dict]:
        """Returns all rows in file order, repeats of a phase included."""
        return list(self._rows)

    def last(self, iteration: int, phase: str, step: int | None = None) -> dict | None:
        """Returns the row that counts for a phase, or None if the phase has no row yet.

        Args:
          iteration: The iteration, from 0.
          phase: The phase.
          step: The optimizer step; None takes the last row of the phase, whatever its step.
        """
        for row in reversed(self._rows):
            is_of_phase = (row["iteration"], row["phase"]) == (iteration, phase)
            if is_of_phase and (step is None or row.get("step") == step):
                return row
        return None

    def close(self) -> None:
        """Closes the file and the mirrors; closing twice is fine."""
        if self._file is not None:
            self._file.close()
        while self._mirrors:
            self._mirrors.pop().close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def _write(file: io.FileIO, line: bytes) -> None:
    """Appends the complete line or nothing."""
    size = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(line)
        while rest:  # a nearly full disk may write only a part, and returns its size
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        raise


def read_rows(path: str | os.PathLike) -> list[dict]:
    """Reads a `metrics.jsonl` without changing it. An incomplete last line is left out.

    Raises:
      UserError: If the file does not exist or a line is broken.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; is {path.parent} the folder of a run?") from error
    return _parse(_complete_lines(text), path)


def iteration_rows(rows: Iterable[Mapping]) -> list[dict]:
    """Gathers the figures of each iteration from the rows of its phases, for a table.

    The balance score is that of the choice if calibrate measured one, otherwise that of the
    selected responses. The loss is that of the last training step.

    Example: rows of calibrate and monitor of iteration 1 ->
        [{"iteration": 1, "temperature": 0.9, ..., "balance_score": 0.28, "pass@1": 0.41, ...}]

    Args:
      rows: Rows of a log, in file order.

    Returns:
      One dict for each iteration, in order. Figures that no phase computed are absent or None.
    """
    phases: dict[int, dict[str, Mapping]] = {}
    for row in rows:
        phases.setdefault(row["iteration"], {})[row["phase"]] = row
    table = []
    for iteration, found in sorted(phases.items()):
        figures = dict(found.get("select", {}))
        figures |= {k: v for k, v in found.get("calibrate", {}).items() if v is not None}
        for phase in ("sft", "improve"):
            if phase in found:
                figures["loss"] = found[phase].get("loss")
        figures |= found.get("monitor", {})
        figures["iteration"] = iteration
        for key in ("phase", "wall_seconds", "split"):
            figures.pop(key, None)
        table.append(figures)
    return table


def _complete_lines(text: bytes) -> bytes:
    return text[: text.rfind(b"\n") + 1]


def _parse(text: bytes, path: pathlib.Path) -> list[dict]:
    rows = []
    for number, line in enumerate(text.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
            _check_row(row)
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: broken line: {error}; the file only grows, so something else "
                "changed it: restore it, or take this line out by hand"
            ) from error
        rows.append(row)
    return rows


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check_row(row: object) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"a row is an object, not {row!r}")
    for key, kind in _REQUIRED.items():
        if not isinstance(row.get(key), kind) or isinstance(row[key], bool):
            raise ValueError(
                f"{key!r} is {row.get(key)!r}; every row has an integer iteration, the name of "
                "its phase and its wall_seconds"
            )
    if "step" in row and (not isinstance(row["step"], int) or isinstance(row["step"], bool)):
        raise ValueError(f"'step' is {row['step']!r}; it must be an integer, the optimizer step")
    where = f"iteration {row['iteration']} {row['phase']}"
    for key, value in row.items():
        _check_value(value, f"{where}: {key!r}")


def _check_value(value: object, name: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{name} is {value}; metrics are finite, and None where nothing was computed"
        )
    if isinstance(value, dict):
        for key, element in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} has the key {key!r}; keys are strings")
            _check_value(element, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, element in enumerate(value):
            _check_value(element, f"{name}[{index}]")
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"{name} is a {type(value).__name__}, which is not JSON; numbers of arrays are "
            "written as float(x) or int(x)"
        )


def _points(row: Mapping) -> dict[str, int | float]:
    """Returns the numbers of a row, also by source, by the name of their curve."""
    points = _numbers(row, row["phase"])
    for source, figures in row.get("by_source", {}).items():
        points |= _numbers(figures, f"{row['phase']}/{source}")
    return points


def _numbers(figures: Mapping, place: str) -> dict[str, int | float]:
    return {
        f"{place}/{key.replace('@', '_at_')}": value
        for key, value in figures.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        if key not in ("iteration", "step")
    }


class _TensorBoard:
    """An event file for each process, as TensorBoard expects when a run is resumed."""

    def __init__(self, folder: pathlib.Path):
        # This writer, which SummaryWriter uses, writes in the calling thread: a full disk raises
        # an error in `append`. SummaryWriter's own thread would die of it, and the run would hang.
        with absent("torch"):  # seconds and much memory at every start, for nothing that is used
            from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        # File names count seconds; the suffix keeps a quick restart from overwriting a file.
        self._writer = EventsWriter(str(folder / "events"), f".{uuid.uuid4().hex[:8]}")
        self._writer.flush()

    def append(self, row: Mapping, step: int | None) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made at import
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made at import

        values = [Summary.Value(tag=tag, simple_value=float(y)) for tag, y in _points(row).items()]
        event = Event(wall_time=time.time(), summary=Summary(value=values))
        event.step = row["iteration"] if step is None else step
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A W&B run; a resumed run continues it."""

    def __init__(self, project: str, folder: pathlib.Path, config: Mapping):
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise UserError(
                f"metrics were to go to the W&B project {project!r}, but wandb is not installed; "
                "run: pip install 'bstar_jax[wandb]'"
            ) from error
        id_file = folder / "wandb" / "run_id"
        id_file.parent.mkdir(exist_ok=True)
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=project,
            id=id_file.read_text(),
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        self._phases: set[str] = set()

    def append(self, row: Mapping, step: int | None) -> None:
        phase = row["phase"]
        axis = "iteration" if step is None else f"{phase}/step"
        if phase not in self._phases:
            self._phases.add(phase)
            self._run.define_metric(f"{phase}/*", step_metric=axis)
        place = row["iteration"] if step is None else step
        self._run.log({axis: place, **_points(row)})

    def close(self) -> None:
        self._run.finish()
