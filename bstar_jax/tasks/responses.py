"""Responses from a file: every line a task's own fields, and a response to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from typing import NamedTuple

from bstar_jax.config import TaskConfig, UserError
from bstar_jax.records import SPLITS, Query
from bstar_jax.tasks.loading import format_of
from bstar_jax.tasks.record import Record, kind, read_records
from bstar_jax.tasks.task import Task, fill

_ENDS = ("stop", "length")


class Response(NamedTuple):
    """A response, and where it was read.

    Attributes:
      query: What was answered.
      text: The response, which may be empty.
      finish_reason: "stop", or "length" where the line's `finish_reason` says so.
      record: The line.
    """

    query: Query
    text: str
    finish_reason: str
    record: Record


def load_responses(file: pathlib.Path, config: TaskConfig) -> tuple[Task, list[Response]]:
    """Reads responses to a task's questions; several lines may answer the same one.

    Args:
      file: JSON Lines with the fields of the task's own files, `response`, and optionally
        `finish_reason`.
      config: Name of the task; for task jsonl its fields and reward.

    Returns:
      A task whose train split holds the questions, and the responses in their order.

    Raises:
      UserError: If a line is broken, or lacks what the task needs to grade it.
    """
    form = format_of(
        config.name, config.fields, reward=config.reward, answer_marker=config.answer_marker
    )
    queries, places, responses = {}, {}, []
    for record in read_records(file, form.remedy):
        parts = form.read(record)
        if parts is None:
            raise UserError(f"{record.place}: the record has no tests, so nothing grades it")
        # Equal questions are one query, whatever they are called.
        content = json.dumps([parts.question, parts.reference, parts.fields], default=str)
        query_id = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        query = Query(
            query_id=query_id,
            split="train",
            prompt=fill(form.prompt, question=parts.question),
            reference=parts.reference,
            fields={"question": parts.question, **parts.fields},
        )
        query = queries.setdefault(query_id, query)
        places.setdefault(query_id, record.place)
        responses.append(_response(query, record))
    splits = {name: tuple(queries.values()) if name == "train" else () for name in SPLITS}
    return form.task(splits, places=places), responses


def _response(query: Query, record: Record) -> Response:
    text = record.value("response", "response")
    if not isinstance(text, str):
        raise record.error("response", f" holds {kind(text)}; the response is text")
    reason = record.values.get("finish_reason", "stop")
    if reason not in _ENDS:
        raise record.error("finish_reason", f" is {reason!r}; it takes one of {', '.join(_ENDS)}")
    return Response(query, text, reason, dataclasses.replace(record, values={}))
