"""Tasks from outside: what `task.name=FILE.py:FUNCTION` calls."""

import dataclasses

from bstar_jax import Query, Task, tasks
from tests.outside import rewards


def stories(config):
    """The stories of task arithmetic, with a reward that gives partial credit."""
    made = tasks.load(
        "arithmetic",
        seed=config.seed,
        sft_examples=256,
        train_queries=64,
        calibration_queries=0,
        heldout_queries=16,
    )

    def own(split):
        return [dataclasses.replace(query, query_id="", source="") for query in made.splits[split]]

    return Task(
        own("train"),
        sft=own("sft"),
        heldout=own("heldout"),
        reward=rewards.share,
        step_reward=rewards.steps,
        correct_at=0.6,
        answer_marker="#",
        separator=".",
    )


def numbers(config):
    """Sums of small numbers; every split is cut from train."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    return Task(
        [
            Query(
                prompt=f"{a} + {b} =",
                reference=str(a + b),
                solution=f" # {a + b}",
                fields={"a": a, "b": b},
            )
            for a, b in pairs
        ],
        reward="number",
        answer_marker="#",
    )


def nothing(config):
    return [Query(prompt="?")]


def fails(config):
    raise KeyError("no such table")
