"""Figures by source: those of all are their sums and means."""

import functools

import numpy as np
import pytest

from bstar_jax.config import Config
from bstar_jax.phases.groups import by_source, in_row
from bstar_jax.phases.select import selection_figures
from bstar_jax.records import SPLITS, Query, Rollouts, Source
from bstar_jax.tasks import LoadedTask

COUNTS = {"math": 5, "words/easy": 3, "words/hard": 2}  # queries of each source or label


def task_of(counts):
    queries = []
    for group, count in counts.items():
        source, _, label = group.partition("/")
        queries += [
            Query(query_id=f"{group}/{number}", source=source, label=label)
            for number in range(count)
        ]
    splits = {name: tuple(queries) if name == "train" else () for name in SPLITS}
    sources = {query.source: Source(query.source, "text") for query in queries}
    return LoadedTask("mixed", splits, sources)


def rows_of(task, responses=6):
    rng = np.random.default_rng(0)
    ids = [query_id for query_id in task.query_by_id for _ in range(responses)]
    selected = rng.random(len(ids)) < 0.6
    return Rollouts.from_columns(
        {
            "query_id": ids,
            "response": [f"{place}" for place in range(len(ids))],
            "correct": (rng.random(len(ids)) < 0.5).tolist(),
            "selected": selected.tolist(),
        }
    )


def test_figures_of_sources_add_up_to_those_of_all():
    task = task_of(COUNTS)
    rows = rows_of(task)
    figures = functools.partial(selection_figures, Config())
    every, parts = figures(rows), by_source(task, rows, figures)
    assert list(parts) == sorted(COUNTS)
    for name in ("selected", "queries_covered"):
        assert sum(part[name] for part in parts.values()) == every[name] > 0
    mean = sum(COUNTS[name] * part["balance_score"] for name, part in parts.items()) / 10
    assert mean == pytest.approx(every["balance_score"], abs=2e-6)
    assert len({part["balance_score"] for part in parts.values()}) == 3


def test_one_source_has_no_figures_of_its_own():
    task = task_of({"math": 4})
    assert by_source(task, rows_of(task), lambda rows: pytest.fail("computed for nothing")) == {}
    assert in_row({}) == {} and in_row({"a": {}}) == {"by_source": {"a": {}}}
