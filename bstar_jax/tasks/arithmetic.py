"""Short stories about counting, generated: the task that a small model learns from nothing.

    Eve has 8 . finds 4 . loses 3 . How many now?    ->    8 - 3 = 5 . 5 + 4 = 9 . # 9

A story starts with a quantity and has two or three events: a loss, a gain, or bags of equal
size. Its quantities make a *pool*; a solution step replaces two quantities of the pool by one,
until one is left, the answer. Most stories have many valid orders of steps, so a query has many
different correct responses.

The four splits are disjoint by the multiset of a story's numbers: a multiset belongs to one
split, decided by its hash alone, whatever the seed, names, verbs, order, or roles of the
numbers. What is held out in one run is held out in all.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
from typing import NamedTuple

import numpy as np

from bstar_jax.config import UserError
from bstar_jax.records import SPLITS, Query
from bstar_jax.tasks.format import Layout, Parts
from bstar_jax.tasks.record import Record, short
from bstar_jax.tasks.task import Task, fill

NAMES = ("Ann", "Bob", "Cal", "Dan", "Eve", "Fay", "Gus", "Hal")
GAIN_VERBS = ("buys", "finds", "gets")
LOSS_VERBS = ("loses", "gives away", "eats")
LARGEST = 20  # of the gains together, and so of every number a valid step can name
AMOUNTS = range(1, 10)  # of the start, a gain or a loss
BAG_COUNTS = range(2, 5)
BAG_SIZES = range(2, 6)
SHARES = {"sft": 0.2, "train": 0.4, "calibration": 0.2, "heldout": 0.2}  # of the multisets
MOST_QUERIES = 1_000_000  # of one split; there are several million stories
MARKER = "#"
WORDS = (
    *map(str, range(LARGEST + 1)),
    *("+", "-", "*", "=", ".", MARKER),
    *NAMES,
    *dict.fromkeys(" ".join(GAIN_VERBS + LOSS_VERBS).split()),
    *("has", "bags", "of", "How", "many", "now?"),
)


_SENTENCE = re.compile(
    rf"(?:(?:{'|'.join(NAMES)}) )?(?P<verb>has|{'|'.join(GAIN_VERBS + LOSS_VERBS)}) "
    r"(?P<amount>\d{1,3})(?: bags of (?P<size>\d{1,3}))?"
)


class Pool(NamedTuple):
    """The quantities not yet put together, each group in growing order."""

    gains: tuple[int, ...]
    losses: tuple[int, ...]
    bags: tuple[tuple[int, int], ...]  # (bags, things in each)


class Move(NamedTuple):
    """One legal solution step, and the pool after it."""

    left: int
    operator: str  # "+", "-" or "*"
    right: int
    result: int
    pool: Pool


class _Story(NamedTuple):
    question: str
    pool: Pool
    quantities: tuple[int, ...]  # all numbers of the question, in growing order
    answer: int


@functools.lru_cache(maxsize=1 << 16)
def legal_moves(pool: Pool) -> tuple[Move, ...]:
    """The steps that a solution may take from a pool.

    Multiply a bag, which becomes a gain; add two gains; add two losses; take a loss from a gain
    that is at least as large. Equal quantities make equal moves, each listed.

    Example: gains (4, 8), losses (3,) -> 4 + 8 = 12, 4 - 3 = 1, 8 - 3 = 5.
    """
    gains, losses, bags = pool
    moves = []
    for index, (count, size) in enumerate(bags):
        after = Pool(_with(gains, (), count * size), losses, bags[:index] + bags[index + 1 :])
        moves.append(Move(count, "*", size, count * size, after))
    for i, j in itertools.combinations(range(len(gains)), 2):
        total = gains[i] + gains[j]
        moves.append(
            Move(gains[i], "+", gains[j], total, Pool(_with(gains, (i, j), total), losses, bags))
        )
    for i, j in itertools.combinations(range(len(losses)), 2):
        total = losses[i] + losses[j]
        moves.append(
            Move(losses[i], "+", losses[j], total, Pool(gains, _with(losses, (i, j), total), bags))
        )
    for (i, gain), (j, loss) in itertools.product(enumerate(gains), enumerate(losses)):
        if gain >= loss:
            rest = losses[:j] + losses[j + 1 :]
            after = Pool(_with(gains, (i,), gain - loss), rest, bags)
            moves.append(Move(gain, "-", loss, gain - loss, after))
    return tuple(moves)


def _with(values: tuple, dropped: tuple, new: int) -> tuple:
    kept = [value for index, value in enumerate(values) if index not in dropped]
    return tuple(sorted([*kept, new]))


def split_of(quantities: tuple[int, ...]) -> str:
    """The split that owns all stories with these numbers, given in growing order."""
    digest = hashlib.sha256(",".join(map(str, quantities)).encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name in SPLITS[:-1]:
        position -= SHARES[name]
        if position < 0:
            return name
    return SPLITS[-1]


_split_of = functools.lru_cache(maxsize=None)(split_of)


def load(*, seed, sizes, prompt, hint_prompt) -> Task:
    """Generates the task; see `tasks.load` for the arguments."""
    splits = {name: _generate(name, sizes[name], seed, prompt or LAYOUT.prompt) for name in SPLITS}
    layout = dataclasses.replace(LAYOUT, hint_prompt=hint_prompt or LAYOUT.hint_prompt)
    return layout.task(splits, words=WORDS)


def read_story(question: str) -> tuple[Pool, int] | None:
    """The quantities of a story and its answer; None where it is none of this task's.

    Example: "Eve has 8 . finds 4 . loses 3 . How many now?" -> gains (4, 8), losses (3,); 9
    """
    *sentences, asked = question.split(" . ")
    if not sentences or asked != "How many now?":
        return None
    gains, losses, bags = [], [], []
    for place, sentence in enumerate(sentences):
        match = _SENTENCE.fullmatch(sentence)
        if match is None or (place == 0) != (match["verb"] == "has"):
            return None
        amount = int(match["amount"])
        if match["size"] and match["verb"] not in GAIN_VERBS:
            return None
        if match["size"]:
            bags.append((amount, int(match["size"])))
        elif match["verb"] in LOSS_VERBS:
            losses.append(amount)
        else:
            gains.append(amount)
    answer = sum(gains) - sum(losses) + sum(count * size for count, size in bags)
    return Pool(tuple(sorted(gains)), tuple(sorted(losses)), tuple(bags)), answer


def _read(record: Record) -> Parts:
    question = record.text("question", "question")
    story = read_story(question)
    if story is None:
        raise record.error("question", f" holds no story of this task: {short(question)}")
    pool, answer = story
    return Parts(question, str(answer), "", pool._asdict())


LAYOUT = Layout(
    name="arithmetic",
    read=_read,
    answer_kind="number",
    answer_marker=MARKER,
    prompt="{question}",
    hint_prompt=f"{{question}} {MARKER} {{reference}} .",
    separator=".",
    steps="stories",
    equations="stories",
)


def _generate(split: str, count: int, seed: int, template: str) -> tuple[Query, ...]:
    if count > MOST_QUERIES:
        raise UserError(
            f"{count} {split} queries are asked for; task arithmetic makes at most {MOST_QUERIES}"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split),)))
    queries, seen = [], set()
    while len(queries) < count:
        story = _draw_story(rng)
        if story is None or _split_of(story.quantities) != split or story.question in seen:
            continue
        seen.add(story.question)
        query = Query(
            query_id=f"{split}/{len(queries)}",
            split=split,
            prompt=fill(template, question=story.question),
            reference=str(story.answer),
            solution=_demonstrate(rng, story.pool),
            fields={"question": story.question, **story.pool._asdict()},
        )
        queries.append(query)
    return tuple(queries)


def _draw_story(rng: np.random.Generator) -> _Story | None:
    """One story, or None where the draw has a total below 0 or gains above `LARGEST`."""
    dice = iter(rng.random(16))

    def pick(options):
        return options[int(next(dice) * len(options))]

    name, total = pick(NAMES), pick(AMOUNTS)
    sentences, quantities = [f"{name} has {total} ."], [total]
    gains, losses, bags = [total], [], []
    for _ in range(pick((2, 3))):
        kind = next(dice)
        if kind < 0.4:
            losses.append(pick(AMOUNTS))
            total -= losses[-1]
            quantities.append(losses[-1])
            sentences.append(f"{pick(LOSS_VERBS)} {losses[-1]} .")
        elif kind < 0.7 and not bags:
            bags.append((pick(BAG_COUNTS), pick(BAG_SIZES)))
            total += bags[0][0] * bags[0][1]
            quantities += bags[0]
            sentences.append(f"{pick(GAIN_VERBS)} {bags[0][0]} bags of {bags[0][1]} .")
        else:
            gains.append(pick(AMOUNTS))
            total += gains[-1]
            quantities.append(gains[-1])
            sentences.append(f"{pick(GAIN_VERBS)} {gains[-1]} .")
        if total < 0:
            return None
    if total + sum(losses) > LARGEST:
        return None
    pool = Pool(tuple(sorted(gains)), tuple(sorted(losses)), tuple(bags))
    question = " ".join([*sentences, "How many now?"])
    return _Story(question, pool, tuple(sorted(quantities)), total)


def _demonstrate(rng: np.random.Generator, pool: Pool) -> str:
    """A solution by uniformly random legal moves; no order of them gets stuck.

    Adding is always legal, and the gains are never less than the losses, so the last gain
    covers the last loss.
    """
    dice = iter(rng.random(16))
    steps = []
    while moves := legal_moves(pool):
        move = moves[int(next(dice) * len(moves))]
        left, right = move.left, move.right
        if move.operator != "-" and next(dice) < 0.5:
            left, right = right, left
        steps.append(f"{left} {move.operator} {right} = {move.result} .")
        pool = move.pool
    return " ".join([*steps, f"{MARKER} {pool.gains[0]}"])
