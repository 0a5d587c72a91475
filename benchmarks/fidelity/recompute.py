"""Computes a run's figures again from its stored rows, without the package that made them.

    python -m benchmarks.fidelity.recompute runs/first [runs/second ...] [--json FILE]

Reads RUN/config.json and the Parquet files with NumPy, pyarrow and the standard library alone,
takes the grades as stored, and computes again

    balance.json         the score of every cell, the cell chosen
    calibrate.parquet    `reward` of every row, `selected` of the chosen cell
    generate.parquet     the same, and the figures of the select and grade rows
    metrics.jsonl        every figure of the calibrate, select and monitor rows

The estimators are counted in whole numbers (`counting`) where the package walks through
probabilities. Prints how many values were compared and the largest difference of each item. The
exit code is 1 where a difference is above its limit: 0 for what is selected and chosen, 1e-6 for
the rest. A run of five iterations with the default sizes takes half a minute.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import figures
from benchmarks.fidelity import counting, selecting
from benchmarks.fidelity.selecting import Group, Row

LIMIT = 1e-6
AXES = {  # of a cell, in axis order, and where the config has their values
    "temperature": "temperatures",
    "top_k": "top_ks",
    "threshold": "thresholds",
    "process_weight": "process_weights",
}
Metrics = dict[tuple[int, str], dict[str, Any]]  # the last row of every iteration and phase


class Report:
    """Largest difference and number of values by item.

    Attributes:
      items: {item: {"compared", "largest", "limit", "at"}}; "at" says where the largest is.
    """

    def __init__(self) -> None:
        """Starts without items."""
        self.items: dict[str, dict[str, Any]] = defaultdict(
            lambda: {"compared": 0, "largest": 0.0, "limit": LIMIT, "at": ""}
        )

    def add(self, name: str, ours: Any, stored: Any, *, at: str, limit: float = LIMIT) -> None:
        """Compares numbers, or arrays of as many, that were computed here with those stored."""
        item = self.items[name]
        item["limit"] = limit
        for mine, theirs in zip(np.ravel(ours).tolist(), np.ravel(stored).tolist(), strict=True):
            item["compared"] += 1
            if mine is None or theirs is None:
                difference = 0.0 if mine is theirs else float("inf")
            else:
                difference = abs(float(mine) - float(theirs))
            if not difference <= item["largest"]:
                item["largest"], item["at"] = difference, f"{at}: {mine} here, {theirs} stored"

    @property
    def wrong(self) -> list[str]:
        """Items above their limit, and those of which nothing was compared."""
        return [
            name
            for name, item in self.items.items()
            if not item["largest"] <= item["limit"] or item["compared"] == 0
        ]

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The items; "largest" is None where only one side has a value."""
        return {
            name: {**item, "largest": item["largest"] if math.isfinite(item["largest"]) else None}
            for name, item in self.items.items()
        }

    def show(self) -> None:
        """Prints a line an item."""
        wrong = self.wrong
        for name, item in self.items.items():
            verdict = "WRONG" if name in wrong else "ok"
            where = f"  ({item['at']})" if item["largest"] else ""
            print(
                f"  {verdict:5} {name:32}{item['compared']:8,} values, largest difference "
                f"{item['largest']:.1e}{where}"
            )


class Recomputation:
    """One run: what it stored, beside what its rows say.

    Attributes:
      run: The run directory.
      config: Its resolved config.
      metrics: Its metrics rows.
      report: Takes what is compared.
    """

    def __init__(self, run: pathlib.Path):
        """Reads the config and the metrics."""
        self.run, self.report = run, Report()
        self.config: dict[str, Any] = json.loads((run / "config.json").read_text())["config"]
        self.metrics: Metrics = {}
        for line in (run / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            self.metrics[row["iteration"], row["phase"]] = row

    def check(self) -> list[int]:
        """Checks all iterations that are over, and returns their numbers.

        Raises:
          SystemExit: If none is over, or responses are missing.
        """
        done = sorted(iteration for iteration, phase in self.metrics if phase == "monitor")
        if not done:
            raise SystemExit(f"{self.run}: no iteration is over")
        for iteration in done:
            folder = self.run / "iterations" / f"{iteration:04d}"
            self.check_monitor(folder)
            if iteration:
                self.check_generate(folder, self.choice(folder))
        return done

    def choice(self, folder: pathlib.Path) -> dict[str, Any]:
        """The cell that an iteration chose, checked; a grid of one cell stores no choice."""
        if (folder / "balance.json").exists():
            return self.check_calibrate(folder)
        section = self.config["calibrate"]
        return {name: section[field][0] for name, field in AXES.items()}

    def check_calibrate(self, folder: pathlib.Path) -> dict[str, Any]:
        """Checks balance.json and calibrate.parquet; returns the chosen cell."""
        at, report, section = folder.name, self.report, self.config["calibrate"]
        stored = json.loads((folder / "balance.json").read_text())
        rows = selecting.read_rows(folder / "calibrate.parquet", self.config)
        cells = defaultdict(list)
        for row in rows:
            cells[row["temperature"], row["top_k"]].append(row)
        axes = [stored["axes"][name] for name in AXES]
        asked = [section[field] for field in AXES.values()]
        report.add(
            "axes of balance.json",
            [*itertools.chain(*asked)],
            [*itertools.chain(*axes)],
            at=at,
            limit=0,
        )
        score = np.zeros([len(axis) for axis in axes])
        for t, k, h, w in itertools.product(*map(range, score.shape)):
            groups = selecting.by_query(cells[float(np.float32(axes[0][t])), axes[1][k]])
            check_complete(folder, groups, section)
            masks = selecting.select_all(groups, self.config, axes[2][h], axes[3][w])
            score[t, k, h, w] = selecting.score(groups, masks, self.config)
        report.add("balance score of every cell", score, stored["score"], at=at)
        best = np.unravel_index(np.argmax(score), score.shape)
        chosen = {name: axis[i] for name, axis, i in zip(AXES, axes, best, strict=True)}
        ours = list(chosen.values())
        for source in (stored["chosen"], self.metrics[int(at), "calibrate"]):
            report.add("chosen cell", ours, [source[name] for name in AXES], at=at, limit=0)
            report.add("balance score of the choice", score[best], source["balance_score"], at=at)
        self.check_rows("calibrate", rows, chosen, at)
        return chosen

    def check_rows(
        self,
        name: str,
        rows: Sequence[Row],
        choice: dict[str, Any],
        at: str,
        cap: int | None = None,
    ) -> tuple[list[Group], list[np.ndarray]]:
        """Checks `reward` of all rows, and `selected`: false outside of the chosen cell."""
        threshold, weight = choice["threshold"], choice["process_weight"]
        ours = [selecting.reward_micro(row, weight) / 1e6 for row in rows]
        self.report.add(f"reward in {name}.parquet", ours, [row["reward"] for row in rows], at=at)
        cell = (float(np.float32(choice["temperature"])), choice["top_k"])
        inside = [row for row in rows if (row["temperature"], row["top_k"]) == cell]
        groups = selecting.by_query(inside)
        masks = selecting.select_all(groups, self.config, threshold, weight, cap)
        picked = {
            id(row) for group, mask in zip(groups, masks, strict=True)
            for row, is_selected in zip(group, mask, strict=True) if is_selected
        }  # fmt: skip
        ours = [id(row) in picked for row in rows]
        stored = [row["selected"] for row in rows]
        self.report.add(f"selected in {name}.parquet", ours, stored, at=at, limit=0)
        return groups, masks

    def check_generate(self, folder: pathlib.Path, choice: dict[str, Any]) -> None:
        """Checks generate.parquet and the figures of its grade and select rows."""
        at, iteration, settings = folder.name, int(folder.name), self.config["balance"]
        rows = selecting.read_rows(folder / "generate.parquet", self.config)
        cap = settings["cap"]
        if settings["rules"] == "reference":
            threshold, cap = selecting.reference_filter(
                selecting.by_query(rows), choice["process_weight"], self.config
            )
            choice = {**choice, "threshold": threshold}
        groups, masks = self.check_rows("generate", rows, choice, at, cap)
        correct_QN, selected_QN = selecting.as_arrays(groups, masks)
        total = int(selected_QN.sum())
        ours = {
            "threshold": choice["threshold"],
            "cap": cap,
            "selected": total,
            "queries_covered": int(selected_QN.any(axis=1).sum()),
            "correct_fraction": (correct_QN & selected_QN).sum() / total if total else None,
            "balance_score": selecting.score(groups, masks, self.config),
        }
        for name, value in ours.items():
            self.report.add(f"select {name}", value, self.metrics[iteration, "select"][name], at=at)
        accuracy = np.mean([row["correct"] for row in rows])
        stored = self.metrics[iteration, "grade"]["answer_accuracy"]
        self.report.add("grade answer_accuracy", accuracy, stored, at=at)
        stored = self.metrics[iteration, "grade"].get("errors", 0)
        self.report.add("grade errors", selecting.errors(rows), stored, at=at)

    def check_monitor(self, folder: pathlib.Path) -> None:
        """Checks every figure of the monitor row, from monitor.parquet."""
        at, settings = folder.name, self.config["monitor"]
        rows = selecting.read_rows(folder / "monitor.parquet", self.config)
        weight = settings["process_weight"]
        ours = [selecting.reward_micro(row, weight) / 1e6 for row in rows]
        self.report.add("reward in monitor.parquet", ours, [row["reward"] for row in rows], at=at)
        greedy = [row["correct"] for row in rows if row["temperature"] == 0]
        groups = selecting.by_query([row for row in rows if row["temperature"] != 0])
        check_complete(folder, groups, settings)
        stored = {"errors": 0, **self.metrics[int(at), "monitor"]}
        found = monitor_figures(groups, settings["ks"], settings["s"])
        found["greedy"] = float(np.mean(greedy)) if greedy else None
        found["errors"] = selecting.errors(rows)
        odd = found.keys() ^ (
            stored.keys() - {"iteration", "phase", "wall_seconds", "split", "by_source"}
        )
        if odd:
            raise SystemExit(f"{folder}: only one of row and recomputation has {sorted(odd)}")
        for name, value in found.items():
            self.report.add(f"monitor {name}", value, stored[name], at=at)


def check_complete(folder: pathlib.Path, groups: Sequence[Group], section: dict[str, Any]) -> None:
    """Stops unless every query has all of its responses.

    Raises:
      SystemExit: If the config asks for other numbers of queries or responses.
    """
    found = {len(group) for group in groups}
    if len(groups) != section["queries"] or found != {section["responses"]}:
        raise SystemExit(
            f"{folder}: {len(groups)} queries with {sorted(found)} responses, but the config asks "
            f"for {section['queries']} with {section['responses']}"
        )


def monitor_figures(groups: Sequence[Group], ks: Sequence[int], s: int) -> dict[str, float | None]:
    """Means over queries of the exact expectations over all K-subsets of the responses."""
    k = max(ks)
    columns = defaultdict(list)
    for rows in groups:
        correct = [row["correct"] for row in rows]
        rewards = [round(row["reward"] * 1e6) for row in rows]
        copies = Counter(row["response"].strip() for row in rows if row["correct"]).values()
        for each in {1, *ks}:
            columns[f"pass@{each}"].append(counting.pass_at(len(rows), sum(correct), each))
        columns[f"pass@{k}-{s}"].append(counting.pass_at_distinct(len(rows), copies, k, s))
        columns[f"best@{k}"].append(counting.top_correct(rewards, correct, k, 1))
        columns[f"reward@{k}-{s}"].append(counting.top_correct(rewards, correct, k, s))
        answers = [row["answer"] for row in rows]
        columns[f"majority@{k}"].append(counting.majority(answers, correct, k))
        equations = [one for row in rows if row["correct"] for one in row["equations"]]
        if equations:
            columns["diversity"].append(len(set(equations)) / len(equations))
    means = {name: float(sum(values) / len(values)) for name, values in columns.items()}
    return {"diversity": None, **means}


def main() -> None:
    """Checks every run that is named; the exit code says whether all agree."""
    parser = figures.flags(__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="a run directory")
    arguments = parser.parse_args()
    results = {}
    for run in arguments.runs:
        recomputation = Recomputation(run)
        done, report = recomputation.check(), recomputation.report
        print(f"{run}: iterations {', '.join(map(str, done))}")
        report.show()
        results[str(run)] = {"iterations": done, "wrong": report.wrong, "items": report.to_json()}
    figures.write(arguments.json, results)
    sys.exit(1 if any(result["wrong"] for result in results.values()) else 0)


if __name__ == "__main__":
    main()
