"""Estimators against enumeration: every subset, every order of ties, in exact fractions."""

import itertools
from fractions import Fraction
from math import comb

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bstar_jax import metrics

pytestmark = pytest.mark.numerical

QUERIES, SAMPLES = 12, 6
ENUMERATED = [(1, 1), (3, 1), (3, 2), (4, 3), (6, 2), (6, 6)]  # (K, S) of 6 responses
TOLERANCE = 1e-6


def _mean(values) -> Fraction:
    values = list(values)
    return Fraction(sum(values), len(values))


def _small_case(seed):
    """Few texts, answers and rewards, so that repeats and ties abound; seed 0 has none."""
    rng = np.random.default_rng(seed)
    shape = (QUERIES, SAMPLES)
    text_QN = rng.integers(0, 4, shape) if seed else np.tile(np.arange(SAMPLES), (QUERIES, 1))
    reward_QN = rng.integers(-2, 2, shape) / 2 if seed else rng.permuted(text_QN * 0.1, axis=1)
    is_correct_QN = (text_QN * 7 + rng.integers(0, 3, (QUERIES, 1))) % 3 < 2
    is_correct_QN[0], is_correct_QN[1] = False, True
    return text_QN, is_correct_QN, reward_QN


def _top_all_correct(subset, s) -> Fraction:
    """Over all orders of the subset, sorted stably by reward: is the top right?"""
    orders = itertools.permutations(subset)
    tops = (sorted(order, key=lambda item: -item[0])[:s] for order in orders)
    return _mean(all(is_correct for _, is_correct in top) for top in tops)


@pytest.mark.parametrize("k", range(1, SAMPLES + 1))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response(k):
    _, is_correct_QN, _ = _small_case(1)
    expected_Q = [
        _mean(any(subset) for subset in itertools.combinations(row.tolist(), k))
        for row in is_correct_QN
    ]
    got_Q = metrics.pass_at_k(np.full(QUERIES, SAMPLES), is_correct_QN.sum(axis=1), k)
    np.testing.assert_allclose(got_Q, np.array(expected_Q, float), atol=1e-7)


@pytest.mark.parametrize("k", [1, 2, 16, 31, 32, 33, 63, 64])
def test_pass_at_k_of_64_is_exact_to_float32(k):
    expected_Q = [float(1 - Fraction(comb(64 - c, k), comb(64, k))) for c in range(65)]
    got_Q = metrics.pass_at_k(np.full(65, 64), np.arange(65), k)
    np.testing.assert_allclose(got_Q, expected_Q, atol=1e-7)


def test_pass_at_k_takes_queries_with_different_numbers_of_responses():
    got_Q = metrics.pass_at_k([4, 4, 1000, 10**6], [1, 3, 1, 10**6], 2)
    np.testing.assert_allclose(got_Q, [0.5, 1.0, 0.002, 1.0], atol=1e-7)


@pytest.mark.parametrize("k, s", ENUMERATED)
def test_pass_at_k_s_is_the_share_of_subsets_with_s_distinct_correct_texts(k, s):
    for seed in range(3):
        text_QN, is_correct_QN, _ = _small_case(seed)
        expected_Q = [
            _mean(
                len({text for text, is_correct in subset if is_correct}) >= s
                for subset in itertools.combinations(zip(texts, flags, strict=True), k)
            )
            for texts, flags in zip(text_QN.tolist(), is_correct_QN.tolist(), strict=True)
        ]
        got_Q = metrics.pass_at_k_s(text_QN, is_correct_QN, k, s)
        np.testing.assert_allclose(got_Q, np.array(expected_Q, float), atol=TOLERANCE)


@pytest.mark.parametrize("k, s", [pair for pair in ENUMERATED if pair[0] < SAMPLES] + [(6, 2)])
def test_reward_at_k_s_is_the_share_of_subsets_and_orders_with_a_correct_top(k, s):
    for seed in range(2):
        _, is_correct_QN, reward_QN = _small_case(seed)
        queries = slice(None) if k < SAMPLES else slice(0, 4)  # 720 orders a subset
        expected_Q = [
            _mean(
                _top_all_correct(subset, s)
                for subset in itertools.combinations(zip(rewards, flags, strict=True), k)
            )
            for rewards, flags in zip(
                reward_QN[queries].tolist(), is_correct_QN[queries].tolist(), strict=True
            )
        ]
        got_Q = metrics.reward_at_k_s(reward_QN, is_correct_QN, k, s)[queries]
        np.testing.assert_allclose(got_Q, np.array(expected_Q, float), atol=TOLERANCE)


def _distinct_at_least(multiplicities, n, k, s) -> Fraction:
    """By counting: ways[j, d] to choose j responses of d of the distinct correct texts."""
    ways = {(0, 0): 1}
    for copies in multiplicities:
        more: dict = {}
        for (j, d), count in ways.items():
            for x in range(min(copies, k - j) + 1):
                state = (j + x, min(d + (x > 0), s))
                more[state] = more.get(state, 0) + count * comb(copies, x)
        ways = more
    wrong = n - sum(multiplicities)
    return Fraction(sum(c * comb(wrong, k - j) for (j, d), c in ways.items() if d == s), comb(n, k))


def _top_correct_without_ties(is_correct_by_rank, k, s) -> Fraction:
    """By the place of the S-th drawn response: it and the S-1 before it are correct."""
    n, ways = len(is_correct_by_rank), 0
    for place, is_correct in enumerate(is_correct_by_rank):
        if is_correct:
            ways += comb(sum(is_correct_by_rank[:place]), s - 1) * comb(n - place - 1, k - s)
    return Fraction(ways, comb(n, k))


@pytest.mark.parametrize("k, s", [(32, 4), (8, 4), (64, 4)])
def test_figures_of_64_responses_are_exact_to_1e_6(k, s):
    rng = np.random.default_rng(k)
    n, queries = 64, 24
    text_QN = rng.integers(0, rng.integers(2, 40, (queries, 1)), (queries, n))
    is_correct_QN = (text_QN * 7919 % 11) < rng.integers(0, 11, (queries, 1))
    multiplicities = [
        [int(c) for c in np.unique(texts[flags], return_counts=True)[1]]
        for texts, flags in zip(text_QN, is_correct_QN, strict=True)
    ]
    expected_Q = [float(_distinct_at_least(m, n, k, s)) for m in multiplicities]
    got_Q = metrics.pass_at_k_s(text_QN, is_correct_QN, k, s)
    np.testing.assert_allclose(got_Q, expected_Q, atol=TOLERANCE)

    is_correct_QN = np.arange(n)[None] < rng.integers(0, 20, (queries, 1))
    is_correct_QN |= rng.random((queries, n)) < 0.3
    reward_QN = np.tile(-np.arange(n), (queries, 1))
    expected_Q = [float(_top_correct_without_ties(row.tolist(), k, s)) for row in is_correct_QN]
    got_Q = metrics.reward_at_k_s(reward_QN, is_correct_QN, k, s)
    np.testing.assert_allclose(got_Q, expected_Q, atol=TOLERANCE)


def test_one_tie_of_64_follows_the_hypergeometric_distribution():
    """All rewards equal: the top S of K is a random S-subset of the 64."""
    is_correct_QN = np.arange(64)[None] < np.arange(0, 65, 8)[:, None]
    got_Q = metrics.reward_at_k_s(np.zeros((9, 64)), is_correct_QN, 32, 4)
    expected_Q = [float(Fraction(comb(c, 4), comb(64, 4))) for c in range(0, 65, 8)]
    np.testing.assert_allclose(got_Q, expected_Q, atol=TOLERANCE)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_identities_between_the_figures(seed):
    rng = np.random.default_rng(seed)
    shape, k = (5, 9), 4
    text_QN = rng.integers(0, 6, shape)
    is_correct_QN = text_QN % 3 < rng.integers(0, 4, (5, 1))
    num_samples_Q, num_correct_Q = np.full(5, 9), is_correct_QN.sum(axis=1)
    pass_Q = np.asarray(metrics.pass_at_k(num_samples_Q, num_correct_Q, k))
    pass_1_Q = np.asarray(metrics.pass_at_k(num_samples_Q, num_correct_Q, 1))
    near = {"atol": TOLERANCE}
    np.testing.assert_allclose(pass_1_Q, is_correct_QN.mean(axis=1), **near)
    np.testing.assert_allclose(metrics.pass_at_k_s(text_QN, is_correct_QN, k, 1), pass_Q, **near)
    # Ranked by correctness, best@K is pass@K; with all rewards equal it is pass@1.
    oracle_Q = metrics.reward_at_k_s(is_correct_QN.astype(float), is_correct_QN, k, 1)
    np.testing.assert_allclose(oracle_Q, pass_Q, **near)
    blind_Q = metrics.reward_at_k_s(np.zeros(shape), is_correct_QN, k, 1)
    np.testing.assert_allclose(blind_Q, pass_1_Q, **near)
    # Any ranking lies between the two extremes, and wanting more is never easier.
    reward_QN = rng.integers(0, 4, shape)
    best_Q = np.asarray(metrics.reward_at_k_s(reward_QN, is_correct_QN, k, 1))
    top_Q = np.asarray(metrics.reward_at_k_s(reward_QN, is_correct_QN, k, 3))
    assert (top_Q <= best_Q + TOLERANCE).all() and (best_Q <= pass_Q + TOLERANCE).all()
    order_N = rng.permutation(9)
    again_Q = metrics.reward_at_k_s(reward_QN[:, order_N], is_correct_QN[:, order_N], k, 3)
    np.testing.assert_allclose(again_Q, top_Q, **near)


def test_rewards_are_compared_at_1e_6():
    is_correct_QN = np.array([[True, False]])
    almost_Q = metrics.reward_at_k_s([[0.3, 0.1 + 0.2]], is_correct_QN, 2, 1)
    apart_Q = metrics.reward_at_k_s([[0.300001, 0.3]], is_correct_QN, 2, 1)
    assert almost_Q[0] == 0.5 and apart_Q[0] == 1.0
    assert metrics.to_micro([0.1 + 0.2, np.float32(0.3), -0.5]).tolist() == [
        300000,
        300000,
        -500000,
    ]
    with pytest.raises(ValueError, match="nan is not a number in"):
        metrics.to_micro([0.5, np.nan])
    with pytest.raises(ValueError, match="1000.5 is not a number in"):
        metrics.to_micro(1000.5)


def _vote(answers, flags) -> bool:
    readable = [answer for answer in answers if answer >= 0]
    if not readable:
        return False
    winner = max(readable, key=lambda answer: (readable.count(answer), -readable.index(answer)))
    return flags[answers.index(winner)]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12])
def test_majority_votes_block_by_block(k):
    rng = np.random.default_rng(k)
    answer_QN = rng.integers(-1, 4, (40, 12))
    answer_QN[0] = -1
    is_correct_QN = answer_QN == rng.integers(0, 4, (40, 1))
    expected_Q = [
        np.mean([_vote(a[i : i + k], c[i : i + k]) for i in range(0, 12 - k + 1, k)])
        for a, c in zip(answer_QN.tolist(), is_correct_QN.tolist(), strict=True)
    ]
    got_Q = metrics.majority_at_k(answer_QN, is_correct_QN, k)
    np.testing.assert_allclose(got_Q, expected_Q, atol=1e-7)


def test_a_majority_tie_goes_to_the_answer_seen_first():
    answer_QN = np.array([[-1, 5, 3, 3, 5, -1], [-1, 3, 5, 3, 5, -1]])
    got_Q = metrics.majority_at_k(answer_QN, answer_QN == 5, 6)
    assert got_Q.tolist() == [1.0, 0.0]


def test_diversity_is_the_mean_over_queries_with_an_equation():
    assert metrics.diversity([["1+1=2", "1+1=2"], [], ["2*3=6"]]) == 0.75
    assert metrics.diversity([[], []]) is None


def _summary(**changes):
    text_QN, is_correct_QN, reward_QN = _small_case(2)
    arguments = {
        "text_id_QN": text_QN,
        "answer_id_QN": text_QN,
        "is_correct_QN": is_correct_QN,
        "reward_QN": reward_QN,
        "equations_by_query": [["1+1=2"]] * QUERIES,
        "ks": (4, 1),
        "s": 3,
    }
    return metrics.summarize(**(arguments | changes))


@pytest.mark.slow
def test_summary_has_the_names_of_the_monitor_and_repeats_to_the_last_digit():
    figures = _summary()
    names = ["pass@1", "pass@4", "pass@4-3", "best@4", "reward@4-3", "majority@4", "diversity"]
    assert list(figures) == names
    assert all(type(value) is float for value in figures.values())
    jax.clear_caches()
    assert _summary() == figures
    _, is_correct_QN, reward_QN = _small_case(2)
    assert figures["pass@1"] == pytest.approx(is_correct_QN.mean(), abs=TOLERANCE)
    best_Q = metrics.reward_at_k_s(reward_QN, is_correct_QN, 4, 1)
    assert figures["best@4"] == pytest.approx(float(best_Q.mean()), abs=TOLERANCE)
    assert _summary(equations_by_query=[[]] * QUERIES)["diversity"] is None


def test_summary_of_one_response_and_one_try():
    figures = _summary(
        text_id_QN=[[0]], answer_id_QN=[[0]], is_correct_QN=[[True]], reward_QN=[[1.0]],
        equations_by_query=[[]], ks=(1,), s=1,
    )  # fmt: skip
    assert figures.pop("diversity") is None
    names = ["pass@1", "pass@1-1", "best@1", "reward@1-1", "majority@1"]
    assert figures == dict.fromkeys(names, 1.0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ks": (7,)}, "k=7 responses cannot be drawn from 6"),
        ({"ks": (0, 3)}, "k=0 responses cannot be drawn"),
        ({"ks": ()}, "ks is empty"),
        ({"s": 5}, "s=5 of k=4"),
        ({"reward_QN": np.zeros((QUERIES, SAMPLES - 1))}, r"got shapes .*\(12, 5\)"),
        ({"text_id_QN": np.eye(QUERIES, SAMPLES, dtype=int) - 1}, "query 0 lacks results.* 66 "),
        ({"equations_by_query": []}, "equations of 0 queries, results of 12"),
        ({"reward_QN": np.full((QUERIES, SAMPLES), np.nan)}, "nan is not a number"),
    ],
)
def test_summary_refuses_missing_results_and_impossible_ks(changes, message):
    with pytest.raises(ValueError, match=message):
        _summary(**changes)


def test_estimators_refuse_what_they_cannot_estimate():
    ones = np.ones((2, 4), bool)
    with pytest.raises(ValueError, match="k=3 responses cannot be drawn from 2"):
        metrics.pass_at_k([4, 2], [1, 1], 3)
    with pytest.raises(ValueError, match="num_correct must be in"):
        metrics.pass_at_k([4], [5], 2)
    with pytest.raises(ValueError, match="no query"):
        metrics.pass_at_k(np.zeros(0, int), np.zeros(0, int), 1)
    with pytest.raises(ValueError, match="k=5 responses"):
        metrics.pass_at_k_s(np.zeros((2, 4), int), ones, 5, 1)
    with pytest.raises(ValueError, match="k=5 responses"):
        metrics.reward_at_k_s(np.zeros((2, 4)), ones, 5, 1)
    with pytest.raises(ValueError, match="k=5 responses"):
        metrics.majority_at_k(np.zeros((2, 4), int), ones, 5)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_auc_counts_pairs(rows):
    positives = [score for score, is_positive in rows if is_positive]
    negatives = [score for score, is_positive in rows if not is_positive]
    found = metrics.auc([score for score, _ in rows], [is_positive for _, is_positive in rows])
    if not positives or not negatives:
        assert found is None
        return
    pairs = [(one > two) + (one == two) / 2 for one in positives for two in negatives]
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_auc_of_the_docstring():
    assert metrics.auc([0.1, 0.4, 0.4, 0.8], [False, False, True, True]) == 0.875


def test_calibration_has_a_bin_for_every_tenth():
    bins = metrics.reliability([0.0, 0.05, 0.1, 0.95, 1.0], [0, 1, 0.5, 1, 1])
    assert [each["count"] for each in bins] == [2, 1, 2]
    assert [each["predicted"] for each in bins] == pytest.approx([0.025, 0.1, 0.975])
    assert [each["observed"] for each in bins] == [0.5, 0.5, 1.0]
