"""The generated stories: splits that share no numbers, and demonstrations that hold."""

import collections
import re

import numpy as np
import pytest

from bstar_jax import tasks
from bstar_jax.config import UserError
from bstar_jax.records import SPLITS
from bstar_jax.tasks import arithmetic

SIZES = {
    "sft_examples": 1000,
    "train_queries": 4000,
    "calibration_queries": 256,
    "heldout_queries": 256,
}


def load(seed=0, **sizes):
    return tasks.load("arithmetic", seed=seed, **{**SIZES, **sizes})


@pytest.fixture(scope="module")
def task():
    return load()


def numbers(query):
    """All numbers of a story as its text has them, in growing order."""
    return tuple(sorted(int(number) for number in re.findall(r"\d+", query.prompt)))


def tell(question):
    """Reads a story's answer out of its text, sentence by sentence."""
    total = 0
    for sentence in question.removesuffix(" How many now?").split(" ."):
        values = [int(number) for number in re.findall(r"\d+", sentence)]
        sign = -1 if re.search("loses|gives away|eats", sentence) else 1
        total += sign * int(np.prod(values)) if values else 0
    return total


def test_splits_have_the_sizes_asked_for(task):
    assert {name: len(queries) for name, queries in task.splits.items()} == {
        "sft": 1000,
        "train": 4000,
        "calibration": 256,
        "heldout": 256,
    }


def test_splits_share_no_multiset_of_numbers_even_between_seeds(task):
    owner = {}
    for some in (task, load(seed=1), load(seed=2)):
        for name, queries in some.splits.items():
            for query in queries:
                assert owner.setdefault(numbers(query), name) == name


@pytest.mark.parametrize("seed", range(5))
def test_held_out_queries_span_more_than_a_hundred_multisets(seed):
    heldout = load(seed, sft_examples=0, train_queries=1, calibration_queries=0).splits["heldout"]
    assert len({numbers(query) for query in heldout}) > 100


def test_every_split_owns_its_share_of_all_multisets():
    rng = np.random.default_rng(7)
    drawn = (arithmetic._draw_story(rng) for _ in range(60_000))
    multisets = {story.quantities for story in drawn if story}
    owned = collections.Counter(arithmetic.split_of(multiset) for multiset in multisets)
    for name in SPLITS:
        assert owned[name] / len(multisets) == pytest.approx(arithmetic.SHARES[name], abs=0.04)


def test_same_seed_same_task_and_other_seed_other_queries(task):
    assert load() == task
    assert load(seed=1).splits["heldout"] != task.splits["heldout"]


def test_a_smaller_split_is_the_beginning_of_a_larger_one(task):
    small = load(sft_examples=10, train_queries=20, calibration_queries=0, heldout_queries=7)
    for name in SPLITS:
        assert small.splits[name] == task.splits[name][: len(small.splits[name])]


def test_ids_and_prompts_are_unique_in_a_split(task):
    for name, queries in task.splits.items():
        assert [query.query_id for query in queries] == [f"{name}/{i}" for i in range(len(queries))]
        assert len({query.prompt for query in queries}) == len(queries)
        assert {query.split for query in queries} == {name}


def test_references_are_what_the_stories_tell(task):
    for queries in task.splits.values():
        for query in queries:
            assert tell(query.prompt) == int(query.reference)
            assert tell(query.prompt) >= 0


def test_fields_hold_the_quantities_of_the_text(task):
    for query in task.splits["train"]:
        gains, losses, bags = (query.fields[name] for name in ("gains", "losses", "bags"))
        assert tuple(sorted([*gains, *losses, *sum(bags, ())])) == numbers(query)
        assert sum(gains) + sum(k * b for k, b in bags) - sum(losses) == int(query.reference)


def test_demonstrations_compute_the_answer_with_numbers_up_to_twenty(task):
    for queries in task.splits.values():
        for query in queries:
            steps, answer = query.solution.split(" # ")
            assert answer == query.reference
            for step in steps.removesuffix(" .").split(" . "):
                left, result = step.split(" = ")
                assert eval(left) == int(result) <= arithmetic.LARGEST
            assert step.endswith(f"= {answer}")


def test_every_word_is_in_the_vocabulary_and_lengths_are_bounded(task):
    words = set(task.vocabulary)
    assert len(words) == len(task.vocabulary) <= 52
    for queries in task.splits.values():
        for query in queries:
            for text in (query.prompt, query.solution, task.hint(query)):
                assert words.issuperset(text.split(" "))
            assert len(query.prompt.split()) <= 21
            assert len(query.solution.split()) <= 26


def test_legal_moves_are_the_documented_ones():
    moves = arithmetic.legal_moves(arithmetic.Quantities((4, 8), (3,), ()))
    assert {move[:4] for move in moves} == {(4, "+", 8, 12), (4, "-", 3, 1), (8, "-", 3, 5)}
    moves = arithmetic.legal_moves(arithmetic.Quantities((2,), (3, 5), ((3, 4),)))
    assert {move[:4] for move in moves} == {(3, "*", 4, 12), (3, "+", 5, 8)}
    assert arithmetic.legal_moves(arithmetic.Quantities((9,), (), ())) == ()


def test_moves_keep_what_the_quantities_are_worth_and_end_in_one_gain(task):
    def worth(quantities):
        return (
            sum(quantities.gains) - sum(quantities.losses) + sum(k * b for k, b in quantities.bags)
        )

    for query in task.splits["heldout"]:
        unseen = [
            arithmetic.Quantities(*(query.fields[name] for name in ("gains", "losses", "bags")))
        ]
        while unseen:
            quantities = unseen.pop()
            assert worth(quantities) == int(query.reference)
            moves = arithmetic.legal_moves(quantities)
            if not moves:
                assert quantities == arithmetic.Quantities((int(query.reference),), (), ())
            unseen.extend({move.after for move in moves})


def test_first_moves_of_demonstrations_are_uniform_over_moves_and_operand_orders():
    rng = np.random.default_rng(3)
    quantities = arithmetic.Quantities((4, 8), (3,), ())
    draws = 6000
    firsts = collections.Counter(
        arithmetic._demonstrate(rng, quantities).split(" . ")[0] for _ in range(draws)
    )
    expected = {"4 - 3 = 1": 1 / 3, "8 - 3 = 5": 1 / 3, "4 + 8 = 12": 1 / 6, "8 + 4 = 12": 1 / 6}
    assert firsts.keys() == expected.keys()
    chi_square = sum((firsts[k] - draws * p) ** 2 / (draws * p) for k, p in expected.items())
    assert chi_square < 16.3  # 0.999 quantile, 3 degrees of freedom


def test_hint_tells_the_answer(task):
    query = task.splits["train"][0]
    assert task.hint(query) == f"{query.prompt} # {query.reference} ."


def test_more_queries_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"1000001 train queries are asked for.*at most 1000000"):
        load(train_queries=1_000_001)
