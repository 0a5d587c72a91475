"""Tasks from outside, and several sources together."""

import itertools
import pathlib
from collections import Counter

import numpy as np
import pytest

from bstar_jax import Query, Task, tasks
from bstar_jax.config import Config, SourceConfig, TaskConfig, UserError
from bstar_jax.phases.generate import iteration_queries
from bstar_jax.records import SPLITS
from bstar_jax.tasks.mixture import divide, shares_of

OUTSIDE = pathlib.Path(__file__).parents[1] / "outside"
SMALL = {
    "sft.examples": 20,
    "calibrate.queries": 10,
    "monitor.queries": 10,
    "task.train_queries": 50,
}


def load(**task):
    return tasks.load_task(Config().changed({"task": TaskConfig(**task), **SMALL}))


def config_of(sources, **changes):
    return Config().changed({"task": TaskConfig(sources=sources), **SMALL, **changes})


def test_a_task_of_ones_own_is_cut_into_splits():
    task = load(name=f"{OUTSIDE / 'tasks.py'}:numbers")
    sizes = {name: len(queries) for name, queries in task.splits.items()}
    assert sizes == {"sft": 20, "train": 80, "calibration": 10, "heldout": 10}
    parts = [{query.query_id for query in task.splits[name]} for name in SPLITS[1:]]
    assert not any(one & two for one, two in itertools.combinations(parts, 2))
    query = task.splits["train"][0]
    assert query.fields["question"] == query.prompt and query.split == "train"
    assert task.sources["numbers"].answer_kind == "number"
    assert load(name=f"{OUTSIDE / 'tasks.py'}:numbers") == task


def test_splits_that_a_task_brings_are_kept():
    task = load(name=f"{OUTSIDE / 'tasks.py'}:stories")
    (source,) = task.sources.values()
    assert source.reward.endswith("rewards.py:share") and source.correct_at == 0.6
    assert source.step_reward.endswith("rewards.py:steps") and source.answer_kind == "text"
    assert [query.query_id for query in task.splits["sft"][:2]] == ["sft/0", "sft/1"]
    assert {query.query_id.partition("/")[0] for query in task.splits["heldout"]} == {"heldout"}
    assert {query.query_id.partition("/")[0] for query in task.splits["calibration"]} == {"train"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tasks.py:nothing"}, "returned a list; it returns a Task"),
        ({"name": "tasks.py:fails"}, "(?s)failed:.*KeyError: 'no such table'"),
        ({"name": "tasks.py:numbrs"}, "has no 'numbrs'; the nearest is 'numbers'"),
        ({"name": "tasks.py:numbers", "path": "x"}, "task.path is set, but .* makes its own"),
        ({"name": "tasks.py:numbers", "prompt": "{question}"}, "task.prompt is set, but"),
    ],
)
def test_a_task_that_cannot_be_used_is_refused(settings, message):
    settings = {**settings, "name": f"{OUTSIDE}/{settings['name']}"}
    with pytest.raises(UserError, match=message):
        load(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": []}, "train is empty"),
        ({"train": ["?"]}, r"train has '\?'; it holds queries"),
        ({"train": [Query(prompt="?")], "correct_at": 0}, "correct_at is 0; it is above 0"),
        ({"train": [Query(prompt="?")], "reward": "code"}, "reward is 'code'; it is one of number"),
        ({"train": [Query(prompt="?")], "name": "a b"}, "name is 'a b'; it is an identifier"),
    ],
)
def test_a_task_is_checked_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        Task(**arguments)


def test_counts_are_divided_by_largest_remainders():
    assert divide(10, {"a": 0.5, "b": 0.25, "c": 0.25}) == {"a": 5, "b": 3, "c": 2}
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.dirichlet(np.ones(rng.integers(1, 6)))
        shares = {f"s{place}": float(share) for place, share in enumerate(weights)}
        count = int(rng.integers(0, 500))
        parts = divide(count, shares)
        assert sum(parts.values()) == count
        assert all(abs(parts[name] - count * share) < 1 + 1e-6 for name, share in shares.items())
    sources = {"a": SourceConfig(), "b": SourceConfig()}
    assert shares_of(sources, {"a": 30, "b": 10}) == {"a": 0.75, "b": 0.25}


def test_several_sources_are_one_task():
    sources = {
        "sums": SourceConfig(name=f"{OUTSIDE / 'tasks.py'}:numbers", share=0.25),
        "stories": SourceConfig(name="arithmetic", share=0.75),
    }
    config = config_of(sources, **{"generate.queries": 20})
    task = tasks.load_task(config)
    for name, count in (("sft", 20), ("calibration", 10), ("heldout", 10)):
        found = Counter(query.source for query in task.splits[name])
        assert found == divide(count, {"stories": 0.75, "sums": 0.25}), name
    assert all(query.query_id.startswith(f"{query.source}/") for query in task.splits["train"])
    assert set(task.sources) == {"sums", "stories"}
    assert task.group(task.splits["train"][0].query_id) == "stories"
    seen = Counter()
    for iteration in (1, 2, 3):
        chosen = iteration_queries(config, task, iteration)
        assert Counter(query.source for query in chosen) == {"stories": 15, "sums": 5}
        seen.update(query.query_id for query in chosen)
    assert max(seen.values()) == 1  # nothing comes twice before all have come


def test_one_source_draws_as_it_always_did():
    config = Config().changed({**SMALL, "generate.queries": 20})
    task = tasks.load_task(config)
    order = np.random.default_rng([0, 0]).permutation(50)[20:40]
    chosen = iteration_queries(config, task, 2)
    assert chosen == [task.splits["train"][place] for place in order]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a b": SourceConfig()}, "task.sources has 'a b'; the name of a source is an identifier"),
        ({"items": SourceConfig()}, "task.sources has 'items'"),
        ({"a": SourceConfig(share=0.5)}, r"sum to 0.5 \(a 0.5\); they sum to 1, or are all 0"),
    ],
)
def test_sources_that_cannot_be_are_refused(sources, message):
    with pytest.raises(UserError, match=message):
        TaskConfig(sources=sources)


def test_settings_beside_sources_are_refused():
    with pytest.raises(UserError, match=r"task.path is set beside task.sources.*sources.a.path"):
        TaskConfig(path="x", sources={"a": SourceConfig()})
    with pytest.raises(UserError, match="shares, but generate.queries is 0"):
        config_of({"a": SourceConfig(share=1.0)}, **{"generate.queries": 0})


def test_errors_name_the_setting_of_their_source():
    with pytest.raises(UserError, match=r"^task.sources.own.path is ''"):
        tasks.load_task(config_of({"own": SourceConfig(name="gsm8k")}))
