"""Responses from a file: each line holds the fields of a task's record, and a response."""

from __future__ import annotations

import hashlib
import json
import pathlib

from bstar_jax.config import TaskConfig, UserError
from bstar_jax.records import SPLITS, Query, Response
from bstar_jax.tasks.loading import find_format
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.rows import read_rows
from bstar_jax.tasks.task import LoadedTask
from bstar_jax.tasks.values import kind

_FINISH_REASONS = ("stop", "length")
_OF_A_RESPONSE = ("response", "finish_reason")  # the other fields of a line are the record's


def load_responses(
    file: pathlib.Path, config: TaskConfig
) -> tuple[LoadedTask, list[Response], list[str]]:
    """Reads responses to a task's questions; several lines may answer the same one.

    Args:
      file: JSON Lines with the fields of the task's own files, `response`, and optionally
        `finish_reason`.
      config: Name of the task, its fields and its reward.

    Returns:
      A task whose train split holds the questions; the responses in their order; and their lines.

    Raises:
      UserError: If a line is broken, or lacks what the task needs to grade it.
    """
    if config.sources:
        raise UserError(
            f"task.sources has {', '.join(sorted(config.sources))}, but a file of responses "
            "belongs to one task; drop them and set task.name"
        )
    form = find_format(config.all_sources()[""])
    queries: dict[str, Query] = {}
    places: dict[str, str] = {}
    responses: list[Response] = []
    lines: list[str] = []
    for number, row in enumerate(read_rows(file)):
        if row.error:
            raise row.error
        asked = {name: row.values[name] for name in row.values if name not in _OF_A_RESPONSE}
        parsed = form.parse(form.record(row._replace(values=asked), number))
        if parsed is None:
            raise UserError(f"{row.place}: the record has no tests, so nothing grades it")
        # Equal questions are one query, whatever they are called.
        content = [parsed.question, parsed.reference, parsed.fields]
        content += [parsed.messages] if parsed.messages else []
        text = json.dumps(content, default=str)
        query_id = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        query = form.query(query_id, parsed._replace(solution="", more_solutions=()))
        query = queries.setdefault(query_id, query)
        places.setdefault(query_id, row.place)
        responses.append(_response(query, form.record(row, number)))
        lines.append(row.line)
    if not responses:
        raise UserError(f"{file} holds no records; each line is a JSON object")
    splits = {name: tuple(queries.values()) if name == "train" else () for name in SPLITS}
    return form.task(splits, places=places), responses, lines


def _response(query: Query, record: Record) -> Response:
    text = record.value("response", "response")
    if not isinstance(text, str):
        raise record.error("response", f" holds {kind(text)}; the response is text")
    reason = record.values.get("finish_reason", "stop")
    if reason not in _FINISH_REASONS:
        raise record.error(
            "finish_reason", f" is {reason!r}; it takes one of {', '.join(_FINISH_REASONS)}"
        )
    return Response(query, text, reason)
