"""Responses from a file: each line holds the fields of a task's record, and a response."""

from __future__ import annotations

import hashlib
import json
import pathlib

from bstar_jax.config import TaskConfig, UserError
from bstar_jax.records import SPLITS, Query, Response
from bstar_jax.tasks.loading import find_format
from bstar_jax.tasks.record import Record, kind, read_records
from bstar_jax.tasks.task import Task

_FINISH_REASONS = ("stop", "length")


def load_responses(
    file: pathlib.Path, config: TaskConfig
) -> tuple[Task, list[Response], list[str]]:
    """Reads responses to a task's questions; several lines may answer the same one.

    Args:
      file: JSON Lines with the fields of the task's own files, `response`, and optionally
        `finish_reason`.
      config: Name of the task; for task jsonl its fields and reward.

    Returns:
      A task whose train split holds the questions; the responses in their order; and their lines.

    Raises:
      UserError: If a line is broken, or lacks what the task needs to grade it.
    """
    form = find_format(
        config.name, config.fields, reward=config.reward, answer_marker=config.answer_marker
    )
    queries: dict[str, Query] = {}
    places: dict[str, str] = {}
    responses: list[Response] = []
    lines: list[str] = []
    for record in read_records(file, form.remedy):
        parsed = form.read(record)
        if parsed is None:
            raise UserError(f"{record.place}: the record has no tests, so nothing grades it")
        # Equal questions are one query, whatever they are called.
        content = json.dumps([parsed.question, parsed.reference, parsed.fields], default=str)
        query_id = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        query = form.query(query_id, parsed._replace(solution="", more_solutions=()))
        query = queries.setdefault(query_id, query)
        places.setdefault(query_id, record.place)
        responses.append(_response(query, record))
        lines.append(record.line)
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
