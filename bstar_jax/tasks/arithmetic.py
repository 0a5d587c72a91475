"""Short generated stories about counting: a task that a small model learns from scratch.

    Eve has 8 . finds 4 . loses 3 . How many now?    ->    8 - 3 = 5 . 5 + 4 = 9 . # 9

A story starts with a quantity and has two or three events: a loss, a gain, or bags of equal
size. A solution step replaces two of its quantities by one, until only the answer is left. Most
stories have many valid orders of steps, so a query has many different correct responses.

The four splits share no multiset of numbers. The hash of a story's multiset alone decides its
split, whatever the seed, names, verbs, or the order and roles of the numbers. A story that is held
out in one run is therefore held out in all.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bstar_jax.answers import equations
from bstar_jax.config import UserError
from bstar_jax.records import SPLITS, Query, Source
from bstar_jax.tasks import story_steps
from bstar_jax.tasks.format import Format, ParsedRecord
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.story_steps import MARKER, Quantities, legal_moves
from bstar_jax.tasks.task import LoadedTask, fill
from bstar_jax.tasks.values import short

NAMES = ("Ann", "Bob", "Cal", "Dan", "Eve", "Fay", "Gus", "Hal")
GAIN_VERBS = ("buys", "finds", "gets")
LOSS_VERBS = ("loses", "gives away", "eats")
LARGEST = 20  # of the gains together, and so of every number a valid step can name
AMOUNTS = range(1, 10)  # of the start, a gain or a loss
BAG_COUNTS = range(2, 5)
BAG_SIZES = range(2, 6)
SHARES = {"sft": 0.2, "train": 0.4, "calibration": 0.2, "heldout": 0.2}  # of the multisets
MOST_QUERIES = 1_000_000  # of one split; there are several million stories
VOCABULARY = (
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


class _Story(NamedTuple):
    question: str
    quantities: Quantities
    numbers: tuple[int, ...]  # all numbers of the question, in ascending order
    answer: int


def split_of(numbers: tuple[int, ...]) -> str:
    """Returns the split that owns all stories with these numbers, given in ascending order."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name in SPLITS[:-1]:
        position -= SHARES[name]
        if position < 0:
            return name
    return SPLITS[-1]


_split_of = functools.lru_cache(maxsize=None)(split_of)


def load(*, seed: int, sizes: Mapping[str, int], prompt: str, hint_prompt: str) -> LoadedTask:
    """Generates the task; see `tasks.load` for the arguments."""
    splits = {name: _generate(name, sizes[name], seed, prompt or FORMAT.prompt) for name in SPLITS}
    return FORMAT.task(splits, hint_prompt=hint_prompt, vocabulary=VOCABULARY)


def read_story(question: str) -> tuple[Quantities, int] | None:
    """Reads a story's quantities and its answer; None where it is no story of this task.

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
    return Quantities(tuple(sorted(gains)), tuple(sorted(losses)), tuple(bags)), answer


def _read(record: Record) -> ParsedRecord:
    question = record.text("question", "question")
    story = read_story(question)
    if story is None:
        raise record.error("question", f" holds no story of this task: {short(question)}")
    quantities, answer = story
    return ParsedRecord(question, str(answer), "", quantities._asdict())


FORMAT = Format(
    Source(
        "arithmetic",
        "number",
        MARKER,
        separator=".",
        hint_prompt=f"{{question}} {MARKER} {{reference}} .",
        step_check=story_steps.check_steps,
        equations=equations.in_stories,
    ),
    read=_read,
    prompt="{question}",
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
        if story is None or _split_of(story.numbers) != split or story.question in seen:
            continue
        seen.add(story.question)
        query = Query(
            query_id=f"{split}/{len(queries)}",
            split=split,
            prompt=fill(template, question=story.question),
            reference=str(story.answer),
            solution=_demonstrate(rng, story.quantities),
            fields={"question": story.question, **story.quantities._asdict()},
            source=FORMAT.name,
        )
        queries.append(query)
    return tuple(queries)


def _draw_story(rng: np.random.Generator) -> _Story | None:
    """Draws one story; None if its total falls below 0 or its gains exceed `LARGEST`."""
    dice = iter(rng.random(16))

    def pick(options: Sequence) -> Any:
        return options[int(next(dice) * len(options))]

    name, total = pick(NAMES), pick(AMOUNTS)
    sentences, numbers = [f"{name} has {total} ."], [total]
    gains, losses, bags = [total], [], []
    for _ in range(pick((2, 3))):
        kind = next(dice)
        if kind < 0.4:
            losses.append(pick(AMOUNTS))
            total -= losses[-1]
            numbers.append(losses[-1])
            sentences.append(f"{pick(LOSS_VERBS)} {losses[-1]} .")
        elif kind < 0.7 and not bags:
            bags.append((pick(BAG_COUNTS), pick(BAG_SIZES)))
            total += bags[0][0] * bags[0][1]
            numbers += bags[0]
            sentences.append(f"{pick(GAIN_VERBS)} {bags[0][0]} bags of {bags[0][1]} .")
        else:
            gains.append(pick(AMOUNTS))
            total += gains[-1]
            numbers.append(gains[-1])
            sentences.append(f"{pick(GAIN_VERBS)} {gains[-1]} .")
        if total < 0:
            return None
    if total + sum(losses) > LARGEST:
        return None
    quantities = Quantities(tuple(sorted(gains)), tuple(sorted(losses)), tuple(bags))
    question = " ".join([*sentences, "How many now?"])
    return _Story(question, quantities, tuple(sorted(numbers)), total)


def _demonstrate(rng: np.random.Generator, quantities: Quantities) -> str:
    """Writes a solution by uniformly random legal moves; no order of them gets stuck.

    Adding is always legal, and the gains are never less than the losses, so the last gain
    covers the last loss.
    """
    dice = iter(rng.random(16))
    steps = []
    while moves := legal_moves(quantities):
        move = moves[int(next(dice) * len(moves))]
        left, right = move.left, move.right
        if move.operator != "-" and next(dice) < 0.5:
            left, right = right, left
        steps.append(f"{left} {move.operator} {right} = {move.result} .")
        quantities = move.after
    return " ".join([*steps, f"{MARKER} {quantities.gains[0]}"])
