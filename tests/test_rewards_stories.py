"""The exact step check of stories, against a search that knows nothing of quantities."""

import itertools
import re

import numpy as np
import pytest

from bstar_jax import tasks
from bstar_jax.records import Query
from bstar_jax.tasks.story_steps import check_steps

EVE = {"gains": (4, 8), "losses": (3,), "bags": ()}  # m = 2
BOB = {"gains": (2,), "losses": (5,), "bags": ((3, 4),)}  # m = 3


def story(fields):
    return Query("train/0", "train", "?", "0", fields=fields)


@pytest.fixture(scope="module")
def queries():
    task = tasks.load(
        "arithmetic", seed=11, sft_examples=1500, train_queries=1500,
        calibration_queries=1, heldout_queries=1,
    )  # fmt: skip
    return task.splits["sft"] + task.splits["train"]


def searched_rewards(fields, response):
    """The documented rewards by trying every way to match every step to actual things.

    Things are signed numbers, gains above zero and losses below, or pairs; each keeps its own
    identity, and a step is tried on every ordered pair of things there are.
    """
    things = [("+", g) for g in fields["gains"]] + [("-", n) for n in fields["losses"]]
    things += [("bag", bag) for bag in fields["bags"]]
    needed = len(things) - 1 + len(fields["bags"])
    body, marker, conclusion = response.partition("#")
    steps = [step for step in re.split(r"(?<=\.)", " ".join(body.split())) if step.strip()]

    def outcomes(things, step):
        match = re.fullmatch(r"(\d+) (.) (\d+) = (\d+) \.", step.strip())
        if not match:
            return
        a, operator, b, c = int(match[1]), match[2], int(match[3]), int(match[4])
        for index, (kind, value) in enumerate(things):
            if kind == "bag" and operator == "*" and sorted(value) == sorted((a, b)) and c == a * b:
                yield [*things[:index], *things[index + 1 :], ("+", c)]
        for (i, first), (j, second) in itertools.permutations(enumerate(things), 2):
            rest = [thing for k, thing in enumerate(things) if k not in (i, j)]
            if operator == "+" and a + b == c:
                for sign in "+-":
                    if (first, second) == ((sign, a), (sign, b)):
                        yield [*rest, (sign, c)]
            if operator == "-" and a - b == c >= 0 and (first, second) == (("+", a), ("-", b)):
                yield [*rest, ("+", c)]

    def best(things, left):
        """The most steps valid in any reading, and whether all are and the story concludes."""
        if not left:
            stated = conclusion.strip()
            told = re.fullmatch(r"\d+", stated) and things == [("+", int(stated))]
            return 0, bool(marker and told)
        found = [best(after, left[1:]) for after in outcomes(things, left[0])]
        return max(((n + 1, done) for n, done in found), default=(0, False))

    valid, done = best(things, steps)
    if done:
        return [1.0] * (len(steps) + 1)
    return [1.0] * valid + [2 * valid / (needed + 1) - 1] * (len(steps) + 1 - valid)


@pytest.mark.parametrize(
    ("fields", "response", "rewards"),
    [
        (EVE, "8 - 3 = 5 . 5 + 4 = 9 . # 9", [1, 1, 1]),
        (EVE, "4 + 8 = 12 . 12 - 3 = 9 . # 9", [1, 1, 1]),
        (EVE, "  8 - 3 = 5 .\n4 + 5 = 9 .  # 9\n", [1, 1, 1]),
        (EVE, "8 - 3 = 5 . 5 + 4 = 8 . # 8", [1, -1 / 3, -1 / 3]),
        (EVE, "8 - 3 = 5 . 5 + 4 = 9 . # 8", [1, 1, 1 / 3]),
        (EVE, "8 - 3 = 5 . 5 + 4 = 9 .", [1, 1, 1 / 3]),
        (EVE, "8 - 3 = 5 . 5 + 4 = 9 # 9", [1, -1 / 3, -1 / 3]),  # no full stop
        (EVE, "8 - 3 = 5 . 5 + 4 = 9 . # 9 .", [1, 1, 1 / 3]),
        (EVE, "8 - 3 = 5 . # 9", [1, -1 / 3]),
        (EVE, "# 9", [-1]),
        (EVE, "", [-1]),
        (EVE, "3 - 8 = 5 . 5 + 4 = 9 . # 9", [-1, -1, -1]),  # a loss is not taken from
        (EVE, "8 + 3 = 11 . # 9", [-1, -1]),  # a loss is not a gain
        (EVE, "8 - 4 = 4 . # 9", [-1, -1]),  # a gain is not a loss
        (EVE, "8 - 3 = 5 . 8 + 4 = 12 . # 9", [1, -1 / 3, -1 / 3]),  # 8 is used up
        (BOB, "3 * 4 = 12 . 2 + 12 = 14 . 14 - 5 = 9 . # 9", [1, 1, 1, 1]),
        (BOB, "4 * 3 = 12 . 12 - 5 = 7 . 7 + 2 = 9 . # 9", [1, 1, 1, 1]),
        (BOB, "2 + 3 = 5 . # 9", [-1, -1]),  # bags are not things
        (BOB, "3 * 4 = 12 . 12 - 5 = 7 . # 9", [1, 1, 0]),
        # 3 is a gain and a loss, and 5 - 2 makes another 3: every reading stays open.
        ({"gains": (3, 5), "losses": (2, 3), "bags": ()},
         "5 - 2 = 3 . 3 - 3 = 0 . 3 + 0 = 3 . # 3", [1, 1, 1, 1]),
        ({"gains": (3, 5), "losses": (2, 3), "bags": ()},
         "3 + 2 = 5 . 5 + 3 = 8 . 8 - 5 = 3 . # 3", [1, 1, 1, 1]),
        ({"gains": (1, 1), "losses": (1, 1), "bags": ()},
         "1 + 1 = 2 . 1 + 1 = 2 . 2 - 2 = 0 . # 0", [1, 1, 1, 1]),
        ({"gains": (1, 1), "losses": (1, 1), "bags": ()},
         "1 + 1 = 2 . 2 - 1 = 1 . 1 - 1 = 0 . # 0", [1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_documented_cases(fields, response, rewards):
    assert check_steps(story(fields), response) == pytest.approx(rewards)
    assert searched_rewards(fields, response) == pytest.approx(rewards)


def test_every_demonstration_is_valid(queries):
    for query in queries:
        steps = query.solution.count(" . ")
        assert check_steps(query, query.solution) == [1.0] * (steps + 1)


def test_mutated_demonstrations_are_graded_as_the_search_grades_them(queries):
    rng = np.random.default_rng(0)
    words = [*map(str, range(21)), "+", "-", "*", "=", ".", "#", "How"]
    seen = set()
    for query in queries:
        response = query.solution.split()
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(len(response))
            edit = rng.integers(4)
            if edit < 2:
                response[at] = words[rng.integers(len(words))]
            elif edit == 2:
                other = rng.integers(len(response))
                response[at], response[other] = response[other], response[at]
            else:
                del response[at:]
                response = response or ["#"]
        rewards = check_steps(query, " ".join(response))
        assert rewards == pytest.approx(searched_rewards(query.fields, " ".join(response)))
        seen.add(min(rewards))
    assert len(seen) == 11  # every grade there is


def test_random_true_equations_are_graded_as_the_search_grades_them(queries):
    """Steps of right arithmetic on numbers that are about: what they use is what matters."""
    rng = np.random.default_rng(1)
    valid = 0
    for query in queries:
        numbers = [int(number) for number in re.findall(r"\d+", query.prompt)]
        steps = []
        for _ in range(rng.integers(1, 5)):
            left, right = (int(number) for number in rng.choice(numbers, 2))
            operator = "+-*"[rng.integers(3)]
            result = {"+": left + right, "-": left - right, "*": left * right}[operator]
            if result < 0:
                continue
            numbers.append(result)
            steps.append(f"{left} {operator} {right} = {result} .")
        response = " ".join([*steps, f"# {numbers[-1]}"])
        rewards = check_steps(query, response)
        assert rewards == pytest.approx(searched_rewards(query.fields, response))
        valid += rewards[0] == 1
    assert valid > 300


def test_rewards_stay_in_range_and_only_full_solutions_reach_one(queries):
    for query in queries[:500]:
        steps = query.solution.split(" . ")
        for count in range(len(steps)):
            partial = " . ".join([*steps[:count], steps[-1]])
            reward = min(check_steps(query, partial))
            assert (reward == 1) == (count == len(steps) - 1)
            if reward != 1:
                assert reward == pytest.approx(2 * count / len(steps) - 1)


def test_numbers_beyond_all_bounds_are_invalid_steps():
    assert check_steps(story(EVE), f"8 - 3 = {'9' * 5000} . # {'9' * 5000}") == [-1, -1]
