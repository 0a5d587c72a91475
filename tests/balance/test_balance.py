"""The balance score, selection and choice against plain Python on texts (law 6)."""

import dataclasses
import hashlib
import json
import re
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bstar_jax import balance
from bstar_jax.balance import surface
from bstar_jax.config import BalanceConfig

RULES = list(balance.RULES)
KEY = 7


@dataclasses.dataclass(frozen=True)
class Responses:
    """Random responses: everything but the cut depends on (query, text), as in a run."""

    text: np.ndarray
    is_correct: np.ndarray
    process_reward: np.ndarray
    is_eligible: np.ndarray

    @classmethod
    def random(cls, seed, shape, num_texts=7):
        """Few texts and few process rewards, so that repeats and equal rewards abound."""
        rng = np.random.default_rng(seed)
        *_, queries, _ = shape
        text = rng.integers(0, num_texts, shape)
        of_text = np.arange(queries)[:, None], text
        is_correct = (rng.random((queries, num_texts)) < rng.random((queries, 1)))[of_text]
        process = rng.choice([-1, -0.3, 0, 0.1, 0.3, 1], (queries, num_texts))
        readable = rng.random((queries, num_texts)) < 0.8
        finished = rng.random(shape) < 0.9
        return cls(
            np.char.add("text ", text.astype(str)),
            is_correct,
            process.astype(np.float32)[of_text],
            readable[of_text] & finished,
        )

    def take(self, index) -> "Responses":
        values = (getattr(self, field.name)[index] for field in dataclasses.fields(self))
        return Responses(*values)

    def graded(self) -> balance.GradedResponses:
        is_first, tie_rank = np.zeros(self.text.shape, bool), np.zeros(self.text.shape, np.int32)
        for row in np.ndindex(self.text.shape[:-1]):
            texts = self.text[row].tolist()
            is_first[row] = [texts.index(text) == n for n, text in enumerate(texts)]
            ranks = {text: rank for rank, text in enumerate(sorted(set(texts), key=_sha))}
            tie_rank[row] = [ranks[text] for text in texts]
        return balance.GradedResponses(
            self.is_correct, self.process_reward, self.is_eligible, is_first, tie_rank
        )


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _select_query(query: Responses, threshold, weight, cap, rules) -> list[int]:
    """Selection as the words say it, on texts and floats rounded to six digits."""
    texts = query.text.tolist()
    reward = np.round(query.is_correct + weight * query.process_reward.astype(np.float64), 6)
    kept = [n for n in range(len(texts)) if query.is_eligible[n]]
    if not balance.RULES[rules].repeats_use_cap:
        kept = [n for n in kept if texts.index(texts[n]) == n]
    kept = [n for n in kept if reward[n] > round(threshold, 6)]
    kept = sorted(kept, key=lambda n: (-reward[n], _sha(texts[n]), n))[: cap or None]
    return [n for n in kept if texts.index(texts[n]) == n]


def _score_query(query: Responses, selected: list[int], target) -> Fraction:
    correct = sum(bool(query.is_correct[n]) for n in selected)
    return Fraction(min(correct, target) * correct, target * max(len(selected), 1))


def _objective(responses: Responses, target, rules, **cell) -> float:
    queries = [responses.take(q) for q in range(len(responses.text))]
    selected = [_select_query(query, rules=rules, **cell) for query in queries]
    scores = [_score_query(*pair, target) for pair in zip(queries, selected, strict=True)]
    covered_only = balance.RULES[rules].averages_covered_queries
    num_queries = max(sum(map(bool, selected)), 1) if covered_only else len(scores)
    return float(round(sum(scores) / num_queries, 6))


GRID = balance.Grid((0.7, 1.0), (0, 40, 8), (-1.0, 0.0, 0.3, 1.06, 1.3), (0.2, 1.0))
SHAPE = (2, 3, 9, 12)  # T, K, Q, N


def _surface(responses, grid=GRID, *, seed=KEY, target=3, cap=0, rules="paper", **more):
    more = {"num_resamples": 200} | more
    key = jax.random.key(seed)
    return balance.balance_surface(
        grid, responses.graded(), key, target_correct=target, cap=cap, rules=rules, **more
    )


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed, target, cap", [(0, 3, 0), (1, 1, 2), (2, 12, 5), (3, 4, 1)])
def test_surface_equals_the_score_of_plain_python(seed, target, cap, rules):
    responses = Responses.random(seed, SHAPE)
    got = _surface(responses, target=target, cap=cap, rules=rules)
    expected_TKHW = np.zeros(GRID.shape)
    for t, k, h, w in np.ndindex(GRID.shape):
        cell = {"threshold": GRID.thresholds[h], "weight": GRID.process_weights[w], "cap": cap}
        expected_TKHW[t, k, h, w] = _objective(responses.take((t, k)), target, rules, **cell)
    np.testing.assert_array_equal(got.score_TKHW, expected_TKHW)
    best = np.unravel_index(np.argmax(expected_TKHW), GRID.shape)  # the first of equals
    assert got.index == tuple(best)
    assert got.choice == balance.Choice(
        GRID.temperatures[best[0]],
        GRID.top_ks[best[1]],
        GRID.thresholds[best[2]],
        GRID.process_weights[best[3]],
    )


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    cap=st.integers(0, 13),
    threshold=st.sampled_from([-1.0, 0.0, 0.1, 0.9, 1.0, 1.3]),
)
def test_training_selects_what_the_score_counts(rules, seed, cap, threshold):
    responses = Responses.random(seed, (6, 12))
    arguments = {"threshold": threshold, "cap": cap, "rules": rules}
    is_selected_QN = np.asarray(balance.select(responses.graded(), process_weight=1.0, **arguments))
    for q in range(6):
        expected = _select_query(responses.take(q), weight=1.0, **arguments)
        assert sorted(expected) == np.flatnonzero(is_selected_QN[q]).tolist()
    got = balance.objective(responses.is_correct, is_selected_QN, target_correct=3, rules=rules)
    assert got == _objective(responses, 3, rules, threshold=threshold, weight=1.0, cap=cap)
    score_Q = balance.balance_score(responses.is_correct, is_selected_QN, target_correct=3)
    expected_Q = [
        _score_query(responses.take(q), np.flatnonzero(is_selected_QN[q]).tolist(), 3)
        for q in range(6)
    ]
    np.testing.assert_allclose(score_Q, np.array(expected_Q, float), rtol=1e-6)


def test_balance_score_of_the_examples():
    is_correct_QN = np.arange(16)[None] < np.array([[16], [8], [0], [16]])
    is_selected_QN = np.arange(16)[None] < np.array([[4], [16], [3], [0]])
    score_Q = balance.balance_score(is_correct_QN, is_selected_QN, target_correct=8)
    assert score_Q.tolist() == [0.5, 0.5, 0.0, 0.0]
    one = is_correct_QN[:1], np.ones((1, 16), bool)
    assert balance.objective(*one, target_correct=8) == 1.0
    half = (np.ones((2, 4), bool), np.array([[True] * 4, [False] * 4]))
    assert balance.objective(*half, target_correct=8) == 0.25
    assert balance.objective(*half, target_correct=8, rules="reference") == 0.5


def test_select_of_the_example():
    graded = Responses(
        np.array([["a", "a", "b", "c"]]),
        np.array([[True, True, True, False]]),
        np.array([[0.2, 0.2, -0.1, 0.1]], np.float32),
        np.ones((1, 4), bool),
    ).graded()
    arguments = {"threshold": 0.5, "process_weight": 1.0, "cap": 2}
    paper_QN = balance.select(graded, **arguments)
    assert paper_QN.tolist() == [[True, False, True, False]]
    reference_QN = balance.select(graded, rules="reference", **arguments)
    assert reference_QN.tolist() == [[True, False, False, False]]


@pytest.mark.parametrize("rules", RULES)
def test_order_of_queries_and_unselected_responses_change_nothing(rules):
    responses = Responses.random(5, SHAPE)
    expected = _surface(responses, cap=4, rules=rules)
    order = np.random.default_rng(0).permutation(SHAPE[2])
    permuted = _surface(responses.take((slice(None), slice(None), order)), cap=4, rules=rules)
    np.testing.assert_array_equal(permuted.score_TKHW, expected.score_TKHW)
    assert permuted.index == expected.index

    extra = Responses.random(6, SHAPE)  # new texts, none of them a candidate
    unselected = dataclasses.replace(
        extra,
        text=np.char.add("new ", extra.text),
        is_eligible=np.zeros(SHAPE, bool),
    )
    joined = Responses(
        *(
            np.concatenate([getattr(part, field.name) for part in (responses, unselected)], axis=-1)
            for field in dataclasses.fields(Responses)
        )
    )
    added = _surface(joined, cap=4, rules=rules)
    np.testing.assert_array_equal(added.score_TKHW, expected.score_TKHW)
    np.testing.assert_array_equal(added.low_TKHW, expected.low_TKHW)


def test_rewards_are_those_of_a_script_that_reads_the_stored_columns():
    rng = np.random.default_rng(0)
    process = np.concatenate(
        [rng.uniform(-1, 1, 10_000), np.arange(-128, 129) / 128, np.arange(-100, 101) / 100]
    ).astype(np.float32)[None]
    is_correct = rng.random(process.shape) < 0.5
    for weight in (0.0, 0.2, 1.0, 1 / 3):
        micro = balance.rewards(is_correct, process, weight)
        stored = np.round(is_correct + weight * process.astype(np.float64), 6)
        assert micro.dtype == np.int32
        np.testing.assert_array_equal(micro / balance.MICRO, stored)
    with pytest.raises(ValueError, match="nan is not a number in .* give 0 where"):
        balance.rewards(is_correct, process * np.nan, 1.0)


def test_a_reward_equal_to_the_threshold_is_not_kept():
    """0.1 + 0.2 > 0.3 in float64, and float32 0.3 > 0.3; as counts of 1e-6 they are equal."""
    ones = np.ones((1, 1), bool)
    process = np.array([[0.3]], np.float32)
    graded = balance.GradedResponses(~ones, process, ones, ones, np.zeros((1, 1), np.int32))
    for threshold, is_kept in [(0.3, False), (0.1 + 0.2, False), (0.299999, True)]:
        selected = balance.select(graded, threshold=threshold, process_weight=1.0)
        assert bool(selected[0, 0]) is is_kept


@pytest.mark.parametrize("num_queries", [128, 3, 7])
def test_objective_rounds_exact_fractions(num_queries):
    """Halves of 1e-6 (1/128 = 0.0078125) and thirds, whose digits never end."""
    for scored in range(num_queries + 1):
        is_correct_QN = np.tile([True, False, False], (num_queries, 1))
        is_correct_QN[:, 1:] = num_queries == 128
        is_selected_QN = np.zeros((num_queries, 3), bool)
        is_selected_QN[:scored] = True
        got = balance.objective(is_correct_QN, is_selected_QN, target_correct=1)
        score = Fraction(1) if num_queries == 128 else Fraction(1, 3)
        assert got == float(round(score * scored / num_queries, 6))


@pytest.mark.parametrize("rules", RULES)
def test_bootstrap_equals_a_loop_over_the_same_resamples(rules):
    responses = Responses.random(8, SHAPE)
    got = _surface(responses, cap=4, rules=rules)
    counts_RQ = np.asarray(balance.bootstrap_counts(jax.random.key(KEY), 200, SHAPE[2]))
    assert (counts_RQ.sum(axis=1) == SHAPE[2]).all() and (counts_RQ >= 0).all()
    mean_TKHWR = np.zeros((*GRID.shape, 200))
    for t, k, h, w in np.ndindex(GRID.shape):
        cell = {"threshold": GRID.thresholds[h], "weight": GRID.process_weights[w], "cap": 4}
        queries = [responses.take((t, k, q)) for q in range(SHAPE[2])]
        selected = [_select_query(query, rules=rules, **cell) for query in queries]
        score_Q = [float(_score_query(*pair, 3)) for pair in zip(queries, selected, strict=True)]
        covered_only = balance.RULES[rules].averages_covered_queries
        counted_Q = [bool(each) or not covered_only for each in selected]
        mean_TKHWR[t, k, h, w] = counts_RQ @ score_Q / np.maximum(counts_RQ @ counted_Q, 1)
    low_TKHW, high_TKHW = np.percentile(mean_TKHWR, [2.5, 97.5], axis=-1)
    np.testing.assert_allclose(got.low_TKHW, low_TKHW, atol=1.1e-6)
    np.testing.assert_allclose(got.high_TKHW, high_TKHW, atol=1.1e-6)
    rounded_TKHWR = np.round(mean_TKHWR, 6)
    is_best_R = rounded_TKHWR[got.index] >= rounded_TKHWR.max(axis=(0, 1, 2, 3))
    assert got.probability_best == is_best_R.mean()
    assert 0 < got.probability_best < 1


def test_bootstrap_draws_every_query_alike():
    counts_RQ = np.asarray(balance.bootstrap_counts(jax.random.key(0), 4000, 20))
    np.testing.assert_allclose(counts_RQ.mean(axis=0), 1.0, atol=5 / np.sqrt(4000))
    np.testing.assert_allclose(counts_RQ.var(axis=0), 0.95, atol=0.15)  # binomial(20, 1/20)


@pytest.mark.slow
@pytest.mark.parametrize("rules, slabs", [("paper", 5), ("reference", 1)])  # of 12: rest 2, none
def test_blocks_change_nothing(rules, slabs):
    responses = Responses.random(9, SHAPE)
    whole = _surface(responses, rules=rules)
    slab_bytes = 4 * len(GRID.thresholds) * 3 * 200
    blocks = _surface(responses, rules=rules, max_bytes=slabs * slab_bytes)
    assert blocks.to_json() == whole.to_json()
    with pytest.raises(ValueError, match="need an array of more than 11999 bytes"):
        _surface(responses, rules=rules, max_bytes=slab_bytes - 1)


def _largest_array(program, *arguments) -> int:
    """Bytes of the largest array that a compiled program holds in memory."""
    size = {"pred": 1, "s32": 4, "u32": 4, "f32": 4}
    largest, is_fused = 0, False
    for line in program.lower(*arguments).compile().as_text().splitlines():
        if line.endswith("{"):
            is_fused = "fused" in line.split("(")[0]  # what is inside never reaches memory
        elif not is_fused:
            for kind, dims in re.findall(r"\b(pred|s32|u32|f32)\[([\d,]*)\]", line):
                count = np.prod([int(dim) for dim in dims.split(",") if dim], dtype=np.int64)
                largest = max(largest, size[kind] * int(count))
    return largest


@pytest.mark.slow
def test_no_array_of_a_large_grid_exceeds_256_mib():
    (num_t, num_k, num_h, num_w), limit = (8, 4, 201, 5), 256 * 2**20
    num_queries, num_samples, resamples = 600, 64, 1000
    grid = balance.Grid(*(tuple(range(n)) for n in (num_t, num_k, num_h, num_w)))
    block = surface.slabs_per_block(grid, num_queries, resamples, limit)
    assert 1 < block < num_t * num_k * num_w

    def of(shape, kind=np.int32):
        return jax.ShapeDtypeStruct(shape, kind)

    shape = (num_t, num_k, num_queries, num_samples)
    masks = [of(shape, bool)] * 2
    search = surface.GridSearch(
        graded=balance.GradedResponses(of(shape, bool), of(shape, np.float32), *masks, of(shape)),
        reward_TKWQN=of((num_t, num_k, num_w, num_queries, num_samples)),
        threshold_H=of((num_h,)),
        cap=of(()),
        target_correct=of(()),
        rules="reference",
    )
    counts_RQ, choice = of((resamples, num_queries)), (of(()), of(()))
    sums = _largest_array(surface.digit_sums, search, block)
    bootstrap = _largest_array(surface.bootstrap, search, counts_RQ, choice, block)
    assert limit / 4 < sums <= limit and limit / 4 < bootstrap <= limit


def test_programs_compile_once_a_grid_shape():
    programs = (surface.digit_sums, surface.bootstrap, balance.bootstrap_counts)
    for program in programs:
        program.clear_cache()
    for seed in range(3):
        grid = balance.Grid(
            (0.5 + seed, 2.0), (seed, 50, 60), (-1.0 * seed, 0.0, 0.25, 1.0, 1.5), (0.1 * seed, 1.0)
        )
        responses = Responses.random(seed, SHAPE)
        _surface(responses, grid, seed=seed, target=1 + seed, cap=seed)
    assert [program._cache_size() for program in programs] == [1, 1, 1]


def test_nothing_moves_between_host_and_device_unasked():
    graded, key = Responses.random(0, SHAPE).graded(), jax.random.key(0)
    row = jax.tree.map(lambda x_TKQN: x_TKQN[0, 0], graded)
    with jax.transfer_guard("disallow"):
        balance.balance_surface(GRID, graded, key, target_correct=3, num_resamples=200)
        is_selected_QN = balance.select(row, threshold=0.5, process_weight=1.0)
        balance.objective(row.is_correct, is_selected_QN, target_correct=3)
        filters = {"process_weight": 1.0, "target_correct": 3, "target_total": 20}
        balance.choose_filter(row, (0.0, 1.0), **filters)


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
def test_a_single_cell_is_a_fixed_choice_with_its_score(rules):
    grid = balance.Grid((1.0,), (0,), (0.5,), (1.0,))
    responses = Responses.random(3, (1, 1, 10, 8))
    got = _surface(responses, grid, target=2, rules=rules)
    assert got.choice == balance.Choice(1.0, 0, 0.5, 1.0)
    cell = {"threshold": 0.5, "weight": 1.0, "cap": 0}
    assert got.score_TKHW.item() == _objective(responses.take((0, 0)), 2, rules, **cell)
    assert got.low_TKHW.item() <= got.score_TKHW.item() <= got.high_TKHW.item()
    assert got.probability_best == 1.0


@pytest.mark.parametrize("rules", RULES)
def test_where_nothing_is_selected_every_score_is_zero(rules):
    responses = Responses.random(3, SHAPE)
    empty = dataclasses.replace(responses, is_eligible=np.zeros(SHAPE, bool))
    got = _surface(empty, rules=rules)
    assert not got.score_TKHW.any() and not got.high_TKHW.any()
    assert got.index == (0, 0, 0, 0) and got.probability_best == 1.0


def test_json_is_the_content_of_balance_json():
    got = _surface(Responses.random(4, SHAPE))
    content = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert content["axes"] == {
        "temperature": [0.7, 1.0],
        "top_k": [0, 40, 8],
        "threshold": [-1.0, 0.0, 0.3, 1.06, 1.3],
        "process_weight": [0.2, 1.0],
    }
    for name, value_TKHW in [
        ("score", got.score_TKHW),
        ("low", got.low_TKHW),
        ("high", got.high_TKHW),
    ]:
        assert np.array_equal(content[name], value_TKHW) and value_TKHW.shape == GRID.shape
    chosen = content["chosen"]
    assert [chosen[name] for name in content["axes"]] == list(dataclasses.astuple(got.choice))
    assert chosen["balance_score"] == np.max(content["score"])
    assert chosen["balance_low"] <= chosen["balance_score"] <= chosen["balance_high"]
    assert content["probability_best"] == got.probability_best
    assert (content["rules"], content["queries"], content["samples"]) == ("paper", 9, 12)


def _choose_filter(responses, thresholds, target, total, max_cap):
    best = None
    for threshold in thresholds:
        for cap in range(1, max_cap + 1):
            cell = {"threshold": threshold, "weight": 1.0, "cap": cap}
            queries = [responses.take(q) for q in range(len(responses.text))]
            if sum(len(_select_query(q, rules="reference", **cell)) for q in queries) >= total:
                break
        score = _objective(responses, target, "reference", **cell)
        if best is None or score > best[0]:
            best = (score, threshold, cap)
    return best[1:]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "target, total, max_cap", [(2, 20, 64), (3, 1, 64), (1, 45, 3), (4, 999, 64)]
)
def test_reference_chooses_threshold_and_cap_again(seed, target, total, max_cap):
    responses = Responses.random(seed, (15, 12))
    thresholds = (-1.0, -0.3, 0.0, 0.1, 0.9, 1.0, 1.2)
    got = balance.choose_filter(
        responses.graded(), thresholds, process_weight=1.0, target_correct=target,
        target_total=total, max_cap=max_cap,
    )  # fmt: skip
    assert got == _choose_filter(responses, thresholds, target, total, max_cap)


def test_reference_cap_of_the_example():
    text = np.tile(np.array(["a", "b", "c", "d"]), (3, 1))
    ones = np.ones((3, 4), bool)
    graded = Responses(text, ones, np.zeros((3, 4), np.float32), ones).graded()
    arguments = {"process_weight": 1.0, "target_correct": 2}
    assert balance.choose_filter(graded, (0.5,), target_total=5, **arguments) == (0.5, 2)
    is_selected_QN = balance.select(
        graded, threshold=0.5, process_weight=1.0, cap=2, rules="reference"
    )
    assert is_selected_QN.sum() == 6


def test_the_setting_offers_every_record_of_rules_and_the_paper_first():
    choices = {field.name: field.metadata["choices"] for field in dataclasses.fields(BalanceConfig)}
    assert list(choices["rules"]) == RULES and RULES[0] == BalanceConfig().rules == "paper"


def test_bad_settings_stop_with_the_value_and_the_rule():
    responses = Responses.random(0, SHAPE)
    with pytest.raises(ValueError, match="target_correct=0 must be at least 1"):
        _surface(responses, target=0)
    with pytest.raises(ValueError, match="target_correct=0 must be at least 1"):
        balance.balance_score(np.ones((1, 1), bool), np.ones((1, 1), bool), target_correct=0)
    with pytest.raises(ValueError, match="target_correct=90000 times 12 responses"):
        _surface(responses, target=90_000)
    with pytest.raises(ValueError, match="cap=-1 must be at least 0"):
        _surface(responses, cap=-1)
    with pytest.raises(ValueError, match=r"rules='papers' is not known; write one of \('paper'"):
        _surface(responses, rules="papers")
    with pytest.raises(ValueError, match="num_resamples=0 must be at least 1"):
        _surface(responses, num_resamples=0)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 9, 12\), the grid wants \[2, 3, Q, N\]"):
        _surface(responses.take(slice(0, 1)))
    with pytest.raises(ValueError, match=r"every axis of a grid needs a value.*\(1, 0, 1, 1\)"):
        balance.Grid((1.0,), (), (0.0,), (1.0,))
    graded = responses.take((0, 0)).graded()
    with pytest.raises(ValueError, match="is_eligible must be boolean, got int64"):
        wrong = dataclasses.replace(graded, is_eligible=graded.is_eligible.astype(np.int64))
        balance.select(wrong, threshold=0.0, process_weight=1.0)
    with pytest.raises(ValueError, match=r"arrays must have one shape \[Q, N\] and not be empty"):
        balance.select(dataclasses.replace(graded, tie_rank=graded.tie_rank[:1]), threshold=0.0,
                       process_weight=1.0)  # fmt: skip
    with pytest.raises(ValueError, match="target_total=0 and max_cap=64 must be at least 1"):
        balance.choose_filter(graded, (0.0,), process_weight=1.0, target_correct=1, target_total=0)
    with pytest.raises(ValueError, match="must have the same shape"):
        balance.objective(np.ones((2, 3), bool), np.ones((3, 2), bool), target_correct=1)
