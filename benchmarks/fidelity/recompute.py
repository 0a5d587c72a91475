"""Computes a run's figures again from its stored rows, without the package that made them.

    python -m benchmarks.fidelity.recompute runs/first [runs/second ...] [--json FILE]

Reads RUN/config.json and the Parquet files with NumPy, pyarrow and the standard library alone,
takes the grades as stored, and computes again

    balance.json         the score of every cell, the cell chosen
    calibrate.parquet    `reward` of every row, `selected` of the chosen cell
    generate.parquet     the same, and the figures of the select and grade rows
    metrics.jsonl        every figure of the calibrate, select and monitor rows

The estimators are counted in whole numbers (`counting.py`) where the package walks through
probabilities. Prints the values compared and the largest difference of each item; exit code 1
if one is above its limit: 1e-6, and 0 for what is selected and chosen. Half a minute for a run
of five iterations with the default sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import pathlib
import sys
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq

from benchmarks.fidelity import counting

LIMIT = 1e-6
REFERENCE_CAPS = range(1, 65)
AXES = {  # of a cell, in axis order, and where the config has their values
    "temperature": "temperatures",
    "top_k": "top_ks",
    "threshold": "thresholds",
    "process_weight": "process_weights",
}


def balance_score(correct_QN, selected_QN, target, *, covered_only):
    """The mean over queries of min(n'/n*, 1) * n'/n, rounded to 1e-6."""
    right_Q = (correct_QN & selected_QN).sum(axis=1)
    kept_Q = selected_QN.sum(axis=1)
    score_Q = np.minimum(right_Q / target, 1) * right_Q / np.maximum(kept_Q, 1)
    counted_Q = kept_Q > 0 if covered_only else np.ones(len(kept_Q), bool)
    mean = score_Q[counted_Q].mean() if counted_Q.any() else 0.0
    return float(np.round(np.round(mean, 12), 6))  # first what float64 lost of an exact half


def select(rows, threshold, weight, cap, rules):
    """Which of one query's rows training uses, in one cell: a boolean a row."""
    micro = [reward_micro(row, weight) for row in rows]
    above = round(threshold * 1e6)
    texts = [row["response"].strip() for row in rows]
    firsts = {row["repeat_key"]: place for place, row in reversed(list(enumerate(rows)))}
    order = [
        place
        for place, row in enumerate(rows)
        if row["answer"] is not None and row["finish_reason"] == "stop" and micro[place] > above
    ]
    order.sort(key=lambda place: (-micro[place], hashlib.sha256(texts[place].encode()).digest()))
    first = [place for place in order if firsts[rows[place]["repeat_key"]] == place]
    if rules == "paper":
        chosen = first[: cap or None]
    else:  # repeats use up the cap; of equal rewards and texts the sort kept the order
        chosen = set(order[: cap or None]) & set(first)
    return np.isin(np.arange(len(rows)), list(chosen))


def reward_micro(row, weight):
    """The reward in millionths: the answer's, and the weighted process reward's (0 if none)."""
    return round((float(row["correct"]) + weight * (row["process_reward"] or 0.0)) * 1e6)


class Report:
    """Largest difference and number of values by item."""

    def __init__(self):
        self.items = defaultdict(lambda: {"compared": 0, "largest": 0.0, "limit": LIMIT, "at": ""})

    def add(self, name, ours, stored, *, at, limit=LIMIT):
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
    def wrong(self):
        return [
            name
            for name, item in self.items.items()
            if not item["largest"] <= item["limit"] or item["compared"] == 0
        ]


def read_rows(file, config):
    """Rows of a Parquet file as dicts, with what makes a repeat in `repeat_key`."""
    rows = pq.read_table(file, partitioning=None).to_pylist()
    task, distinct = config["task"]["name"], config["balance"]["distinct"]
    for row in rows:
        text = row["response"].strip()
        row["equations"] = counting.equations(task, text)
        row["repeat_key"] = text if distinct == "text" else tuple(row["equations"])
    return rows


def by_query(rows):
    """Rows of each query in the order of the file."""
    queries = defaultdict(list)
    for row in rows:
        queries[row["query_id"]].append(row)
    return list(queries.values())


def check_complete(folder, groups, section):
    """Stops unless every query has all of its responses."""
    found = {len(group) for group in groups}
    if len(groups) != section["queries"] or found != {section["responses"]}:
        raise SystemExit(
            f"{folder}: {len(groups)} queries with {sorted(found)} responses, but the config asks "
            f"for {section['queries']} with {section['responses']}"
        )


def as_arrays(groups, masks):
    """Correct and selected as [Q, N]; places without a row are False."""
    shape = (len(groups), max(map(len, groups)))
    correct_QN, selected_QN = np.zeros(shape, bool), np.zeros(shape, bool)
    for query, (rows, mask) in enumerate(zip(groups, masks, strict=True)):
        correct_QN[query, : len(rows)] = [row["correct"] for row in rows]
        selected_QN[query, : len(rows)] = mask
    return correct_QN, selected_QN


def score_of(groups, masks, config):
    rules = config["balance"]
    covered_only = rules["rules"] == "reference"
    arrays = as_arrays(groups, masks)
    return balance_score(*arrays, rules["target_correct"], covered_only=covered_only)


def masks_of(groups, config, threshold, weight, cap=None):
    rules = config["balance"]
    cap = rules["cap"] if cap is None else cap
    return [select(rows, threshold, weight, cap, rules["rules"]) for rows in groups]


def check_calibrate(folder, config, report, metrics):
    """balance.json and calibrate.parquet; returns the chosen cell."""
    at = folder.name
    stored = json.loads((folder / "balance.json").read_text())
    rows = read_rows(folder / "calibrate.parquet", config)
    cells = defaultdict(list)
    for row in rows:
        cells[row["temperature"], row["top_k"]].append(row)
    axes = [
        stored["axes"][name] for name in ("temperature", "top_k", "threshold", "process_weight")
    ]
    section = config["calibrate"]
    asked = [section[name] for name in ("temperatures", "top_ks", "thresholds", "process_weights")]
    report.add("axes of balance.json", sum(asked, []), sum(axes, []), at=at, limit=0)
    score = np.zeros([len(axis) for axis in axes])
    for t, k, h, w in itertools.product(*map(range, score.shape)):
        groups = by_query(cells[float(np.float32(axes[0][t])), axes[1][k]])
        check_complete(folder, groups, section)
        masks = masks_of(groups, config, axes[2][h], axes[3][w])
        score[t, k, h, w] = score_of(groups, masks, config)
    report.add("balance score of every cell", score, stored["score"], at=at)
    best = np.unravel_index(np.argmax(score), score.shape)
    chosen = {name: axis[i] for name, axis, i in zip(AXES, axes, best, strict=True)}
    for source in (stored["chosen"], metrics[int(folder.name), "calibrate"]):
        report.add(
            "chosen cell", list(chosen.values()), [source[name] for name in AXES], at=at, limit=0
        )
        report.add("balance score of the choice", score[best], source["balance_score"], at=at)
    check_rows("calibrate", rows, chosen, config, report, at)
    return chosen


def check_rows(name, rows, choice, config, report, at, threshold=None, cap=None):
    """`reward` of all rows, and `selected`, which is false outside of the chosen cell."""
    weight = choice["process_weight"]
    threshold = choice["threshold"] if threshold is None else threshold
    ours = [reward_micro(row, weight) / 1e6 for row in rows]
    report.add(f"reward in {name}.parquet", ours, [row["reward"] for row in rows], at=at)
    cell = (float(np.float32(choice["temperature"])), choice["top_k"])
    inside = [row for row in rows if (row["temperature"], row["top_k"]) == cell]
    groups = by_query(inside)
    masks = masks_of(groups, config, threshold, weight, cap)
    picked = {
        id(row) for group, mask in zip(groups, masks, strict=True)
        for row, is_selected in zip(group, mask, strict=True) if is_selected
    }  # fmt: skip
    ours = [id(row) in picked for row in rows]
    stored = [row["selected"] for row in rows]
    report.add(f"selected in {name}.parquet", ours, stored, at=at, limit=0)
    return groups, masks


def reference_filter(groups, choice, config):
    """Threshold and cap chosen again on the generated pool, as rules="reference" wants."""
    best, weight = None, choice["process_weight"]
    for threshold in config["calibrate"]["thresholds"]:
        for cap in REFERENCE_CAPS:
            masks = masks_of(groups, config, threshold, weight, cap)
            if sum(mask.sum() for mask in masks) >= config["balance"]["target_total"]:
                break
        score = score_of(groups, masks, config)
        if best is None or score > best[0]:
            best = (score, threshold, cap)
    return best[1:]


def check_generate(folder, config, choice, report, metrics):
    """generate.parquet and the figures of its grade and select rows."""
    at, iteration = folder.name, int(folder.name)
    rows = read_rows(folder / "generate.parquet", config)
    threshold, cap = choice["threshold"], config["balance"]["cap"]
    if config["balance"]["rules"] == "reference":
        threshold, cap = reference_filter(by_query(rows), choice, config)
    groups, masks = check_rows("generate", rows, choice, config, report, at, threshold, cap)
    correct_QN, selected_QN = as_arrays(groups, masks)
    total = int(selected_QN.sum())
    ours = {
        "threshold": threshold,
        "cap": cap,
        "selected": total,
        "queries_covered": int(selected_QN.any(axis=1).sum()),
        "correct_fraction": (correct_QN & selected_QN).sum() / total if total else None,
        "balance_score": score_of(groups, masks, config),
    }
    for name, value in ours.items():
        report.add(f"select {name}", value, metrics[iteration, "select"][name], at=at)
    accuracy = np.mean([row["correct"] for row in rows])
    stored = metrics[iteration, "grade"]["answer_accuracy"]
    report.add("grade answer_accuracy", accuracy, stored, at=at)


def check_monitor(folder, config, report, metrics):
    """Every figure of the monitor row, from monitor.parquet."""
    at, settings = folder.name, config["monitor"]
    rows = read_rows(folder / "monitor.parquet", config)
    ours = [reward_micro(row, settings["process_weight"]) / 1e6 for row in rows]
    report.add("reward in monitor.parquet", ours, [row["reward"] for row in rows], at=at)
    greedy = [row["correct"] for row in rows if row["temperature"] == 0]
    groups = by_query([row for row in rows if row["temperature"] != 0])
    check_complete(folder, groups, settings)
    stored = dict(metrics[int(at), "monitor"])
    figures = monitor_figures(groups, settings["ks"], settings["s"])
    figures["greedy"] = float(np.mean(greedy)) if greedy else None
    odd = figures.keys() ^ (stored.keys() - {"iteration", "phase", "wall_seconds", "split"})
    if odd:
        raise SystemExit(f"{folder}: the monitor row and its recomputation differ in {sorted(odd)}")
    for name, value in figures.items():
        report.add(f"monitor {name}", value, stored[name], at=at)


def monitor_figures(groups, ks, s):
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
        written = [one for row in rows if row["correct"] for one in row["equations"]]
        if written:
            columns["diversity"].append(len(set(written)) / len(written))
    figures = {name: float(sum(values) / len(values)) for name, values in columns.items()}
    return {"diversity": None, **figures}


def check_run(run, report):
    """All iterations that are over."""
    config = json.loads((run / "config.json").read_text())["config"]
    metrics = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        metrics[row["iteration"], row["phase"]] = row
    done = sorted(iteration for iteration, phase in metrics if phase == "monitor")
    if not done:
        raise SystemExit(f"{run}: no iteration is over")
    for iteration in done:
        folder = run / "iterations" / f"{iteration:04d}"
        check_monitor(folder, config, report, metrics)
        if iteration:
            section = config["calibrate"]
            if (folder / "balance.json").exists():
                choice = check_calibrate(folder, config, report, metrics)
            else:
                choice = {name: section[field][0] for name, field in AXES.items()}
            check_generate(folder, config, choice, report, metrics)
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result here")
    arguments = parser.parse_args()
    results, wrong = {}, False
    for run in arguments.runs:
        report = Report()
        done = check_run(run, report)
        print(f"{run}: iterations {', '.join(map(str, done))}")
        for name, item in report.items.items():
            verdict = "WRONG" if name in report.wrong else "ok"
            where = f"  ({item['at']})" if item["largest"] else ""
            print(f"  {verdict:5} {name:32}{item['compared']:8,} values, largest difference "
                  f"{item['largest']:.1e}{where}")  # fmt: skip
        wrong = wrong or bool(report.wrong)
        results[str(run)] = {"iterations": done, "wrong": report.wrong, "items": report.items}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
