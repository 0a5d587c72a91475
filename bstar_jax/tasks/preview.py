"""A look at a task before a run is spent on it: what the model will see, and what was read.

`preview` collects the figures of each source, and `written` lays them out for people.
"""

from __future__ import annotations

import dataclasses
import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from bstar_jax import tokenizer as tokenizers
from bstar_jax.config import Config, FieldNames, SourceConfig
from bstar_jax.grading import Grader, trial
from bstar_jax.records import SPLITS, Query
from bstar_jax.tasks.task import LoadedTask
from bstar_jax.tokenizer import Tokenizer

_SHOWN = 3  # prompts of a source
_WIDTH = 80


def preview(
    config: Config, task: LoadedTask, tokenizer: Tokenizer, grader: Grader
) -> list[dict[str, Any]]:
    """Collects what a person should see of each source.

    Args:
      config: The settings.
      task: The task.
      tokenizer: The tokenizer of the run.
      grader: Tries the rewards.

    Returns:
      For each source its `name`, `path`, `fields`, `splits`, `tokens`, `references`, `reward`,
      `warnings`, `failure` and `prompts`, as JSON values; tokens and characters are counts.
    """
    queries = list(task.query_by_id.values())
    trials = trial.try_rewards(grader, queries, task.sources, config.seed)
    settings = config.task.all_sources()
    return [
        _of_source(config, task, tokenizer, each, settings.get(each.source) or settings[""])
        for each in trials
    ]


def _of_source(
    config: Config,
    task: LoadedTask,
    tokenizer: Tokenizer,
    tried: trial.Trial,
    settings: SourceConfig,
) -> dict[str, Any]:
    splits = {
        split: [query for query in task.splits[split] if query.source == tried.source]
        for split in SPLITS
    }
    source = task.sources[tried.source]
    queries = list({query.query_id: query for each in splits.values() for query in each}.values())
    prompts = [tokenizer.encode_prompt(query.asked) for query in queries]
    solutions = [query.solution for query in queries if query.solution]
    limits = config.generate
    chosen = [splits["train"][place] for place in range(min(_SHOWN, len(splits["train"])))]
    return {
        "name": tried.source,
        "path": settings.path or settings.name,
        "fields": _fields(settings),
        "splits": {split: len(each) for split, each in splits.items()},
        "tokens": {
            "prompt": _lengths(list(map(len, prompts)), limits.max_prompt_tokens),
            "solution": _lengths(
                [len(ids) + 1 for ids in tokenizer.encode_batch(solutions)], limits.max_tokens
            ),
        },
        "references": {
            "queries": len(queries),
            "without": sum(not query.reference for query in queries),
            "examples": [query.reference for query in chosen],
        },
        "reward": source.reward or source.answer_kind,
        "marker": source.answer_marker,
        "tried": tried.summary(),
        "warnings": tried.warnings(),
        "failure": tried.failure(),
        "prompts": [_prompt(tokenizer, query) for query in chosen],
    }


def _fields(settings: SourceConfig) -> dict[str, str]:
    """Returns the fields of a file that are named, by what they are to the task."""
    if not settings.path:
        return {}
    usual = FieldNames()
    every = dataclasses.asdict(settings.fields).items()
    main = ("question", "answer")
    return {role: name for role, name in every if role in main or name != getattr(usual, role)}


def _lengths(counts: Sequence[int], limit: int) -> dict[str, Any] | None:
    """Returns the least, median and most tokens, and how many texts are over the limit."""
    if not counts:
        return None
    over = sum(count > limit for count in counts)
    return {
        "least": min(counts),
        "median": int(statistics.median(counts)),
        "most": max(counts),
        "limit": limit,
        "over": over,
        "share_over": over / len(counts),
    }


def _prompt(tokenizer: Tokenizer, query: Query) -> dict[str, Any]:
    ids = tokenizer.encode_prompt(query.asked)
    return {
        "query_id": query.query_id,
        "split": query.split,
        "tokens": len(ids),
        "reference": query.reference,
        "parts": [list(part) for part in tokenizers.show(tokenizer, ids)],
    }


def written(found: dict[str, Any], mark: Callable[[str], str]) -> str:
    """Lays out what `preview` found of one source.

    Args:
      found: One element of its list.
      mark: Sets a special token apart, such as by brackets, from text that only looks like one.
    """
    references = found["references"]
    examples = "   ".join(map(repr, references["examples"]))
    without = f"{references['without']:,} of {references['queries']:,} have none"
    marker = f" after {found['marker']!r}" if found["marker"] else ""
    fields = ", ".join(f"{role} <- {name}" for role, name in found["fields"].items())
    rows = [
        *((("fields", fields),) if fields else ()),
        ("splits", "  ".join(f"{name} {count:,}" for name, count in found["splits"].items())),
    ]
    rows += [
        (f"{name} tokens", _length_line(lengths))
        for name, lengths in found["tokens"].items()
        if lengths
    ]
    rows += [
        ("references", f"{examples}; {without}"),
        ("reward", f"{found['reward']}{marker}: {found['tried']}"),
        *(("warning", text) for text in found["warnings"]),
    ]
    lines = [f"source {found['name']}: {found['path']}"]
    for name, text in rows:
        lines += textwrap.wrap(
            f"{name:<16} {text}", _WIDTH, initial_indent="  ", subsequent_indent=" " * 19
        )
    for prompt in found["prompts"]:
        lines.append(
            f"query {prompt['query_id']}, {prompt['tokens']} tokens, reference "
            f"{prompt['reference']!r}"
        )
        text = "".join(mark(text) if special else text for text, special in prompt["parts"])
        lines += [f"  {line}" for line in text.split("\n")]
    return "\n".join(lines)


def _length_line(lengths: dict[str, Any]) -> str:
    over = f"{lengths['over']:,} over ({lengths['share_over']:.1%})"
    least, median, most = lengths["least"], lengths["median"], lengths["most"]
    return f"{least} / {median} / {most} (least, median, most), limit {lengths['limit']}, {over}"
