"""The table of a run, a line an iteration, and its summary, the start against the end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import rich.box
import rich.table

# Key of the row, header, format. Keys that carry K and S in their names are found by prefix.
Columns = tuple[tuple[str, str, str], ...]

CHOICE_COLUMNS: Columns = (
    ("temperature", "temper-\nature", "{:g}"),
    ("top_k", "top-k", "{:d}"),
    ("threshold", "thres-\nhold", "{:g}"),
    ("process_weight", "process\nweight", "{:g}"),
    ("balance_score", "balance score\n[low, high]", "{:.3f}"),
)
_OUTCOME_COLUMNS: Columns = (
    ("selected", "selected", "{:,d}"),
    ("correct_fraction", "correct\nfraction", "{:.3f}"),
    ("loss", "loss", "{:.3f}"),
)
_ESTIMATOR_PREFIXES = ("pass@", "reward@")
_ABSENT = "-"


def outcome_columns(rows: Sequence[Mapping]) -> Columns:
    """Columns of what came of the choice, for the estimators that these rows have."""
    return _OUTCOME_COLUMNS + tuple(
        (key, key.replace("@", "\n@"), "{:.3f}") for key in _headline(_estimators(rows))
    )


def iteration_table(rows: Sequence[Mapping], columns: Columns) -> rich.table.Table:
    """One line an iteration: its number, then the columns; "-" where a row has no value."""
    table = _plain_table()
    for header in ("iter-\nation", *(header for _, header, _ in columns)):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(row, key, form) for key, _, form in columns]
        table.add_row(str(row["iteration"]), *cells)
    return table


def summary_table(rows: Sequence[Mapping]) -> rich.table.Table:
    """One line an estimator: its figure in the first row against that in the last."""
    first, last = rows[0], rows[-1]
    table = _plain_table()
    for header in ("", f"iteration {first['iteration']}", f"iteration {last['iteration']}"):
        table.add_column(header, justify="right" if header else "left", no_wrap=True)
    for key in _estimators(rows):
        cells = [_format(row.get(key), "{:.3f}") for row in (first, last)]
        table.add_row(key, *cells)
    return table


def _plain_table() -> rich.table.Table:
    return rich.table.Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, padding=(0, 0), header_style="bold"
    )


def _cell(row: Mapping, key: str, form: str) -> str:
    text = _format(row.get(key), form)
    low, high = row.get("balance_low"), row.get("balance_high")
    if key != "balance_score" or low is None or high is None:
        return text
    return f"{text} [{_format(low, form)}, {_format(high, form)}]"


def _format(value: object, form: str) -> str:
    return _ABSENT if value is None else form.format(value)


def _estimators(rows: Sequence[Mapping]) -> list[str]:
    """The keys of pass@..., reward@... and diversity, in the order in which they appear."""
    keys = [key for row in rows for key in row if key.startswith(_ESTIMATOR_PREFIXES)]
    keys += ["diversity"] if any("diversity" in row for row in rows) else []
    return list(dict.fromkeys(keys))


def _headline(keys: Sequence[str]) -> list[str]:
    """The keys that a table has room for: of each kind those with the smallest and largest K.

    Example: pass@1 pass@4 pass@32 pass@8-4 pass@32-4 -> pass@1 pass@32 pass@32-4
    """
    kinds: dict[tuple[str, bool], list[str]] = {}
    for key in keys:
        kinds.setdefault((key.partition("@")[0], "-" in key), []).append(key)
    chosen = set()
    for (_, with_s), members in kinds.items():
        members.sort(key=lambda key: [int(number) for number in re.findall(r"\d+", key)])
        chosen.update(members[-1:] if with_s else (members[0], members[-1]))
    return [key for key in keys if key in chosen]
