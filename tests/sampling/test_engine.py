"""Slots, refill, room and shards change when a response is drawn, never what is drawn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import model
from bstar_jax.sampling import decode, engine
from bstar_jax.sampling import slots as refill
from bstar_jax.sampling.engine import deal, layout
from bstar_jax.sampling.prefill import bucket
from tests import builders, flights

DRAWS = [(1.0, 0)] * 5 + [(0.7, 3), (0.0, 0), (1.4, 0)]
LIMIT = 12


def limits(count, seed=1):
    return np.random.default_rng(seed).integers(1, LIMIT + 1, (count, len(DRAWS)))


def fly(prompts, draws=DRAWS, *, end_id=-1, mesh=None, **settings):
    params = builders.params()
    if mesh:
        params = builders.for_sampling(builders.MODEL, mesh, params)
    return flights.fly(builders.MODEL, params, prompts, draws, end_id=end_id, mesh=mesh, **settings)


def rows_of(responses):
    """{(query, response): (tokens, log-probability, stopped)}."""
    return {
        place: (
            tuple(responses.tokens_DWL[place][:count].tolist()),
            float(responses.logprob_DW[place]),
            bool(responses.stopped_DW[place]),
        )
        for place, count in np.ndenumerate(responses.num_tokens_DW)
    }


def assert_same_tokens(ours, theirs):
    """Other programs round otherwise; below 10,000 tokens none may differ."""
    ours, theirs = rows_of(ours), rows_of(theirs)
    assert ours.keys() == theirs.keys()
    for place, (tokens, logprob, stopped) in ours.items():
        assert theirs[place][0] == tokens and theirs[place][2] == stopped, place
        assert theirs[place][1] == pytest.approx(logprob, abs=1e-4 * len(tokens)), place


@pytest.fixture(scope="module")
def prompts():
    return flights.prompts(9)


@pytest.fixture(scope="module")
def at_once(prompts):
    """A slot for every row: nothing is refilled."""
    responses, flight = fly(prompts, limit=limits(9))
    assert flight.layout.sides == 1
    return responses


# Law 1.


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 16, 30, 71])
def test_any_number_of_slots_draws_the_same(prompts, at_once, slots):
    responses, flight = fly(prompts, limit=limits(9), slots=slots)
    assert flight.layout.sides == 2
    assert flight.layout.lanes * flight.layout.slots <= slots
    assert_same_tokens(responses, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("per_lane", [2, 4, 8])
@pytest.mark.parametrize("lanes", [1, 3])
def test_any_layout_draws_the_same(prompts, at_once, monkeypatch, lanes, per_lane):
    fixed = engine.Layout(lanes, per_lane, 2)
    monkeypatch.setattr(engine, "layout", lambda *_: fixed)
    responses, flight = fly(prompts, limit=limits(9), slots=1)
    assert flight.layout == fixed
    assert_same_tokens(responses, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_the_length_of_a_call_changes_no_byte(prompts, monkeypatch, steps):
    expected, _ = fly(prompts, limit=limits(9), slots=6)
    monkeypatch.setattr(engine, "STEPS_A_CALL", steps)
    responses, _ = fly(prompts, limit=limits(9), slots=6)
    assert rows_of(responses) == rows_of(expected)


def test_another_order_of_the_queries_changes_no_byte(prompts):
    """Neighbours and slots differ, the program does not."""
    order = np.random.default_rng(2).permutation(9)
    keys_QN2 = flights.keys_of(9, len(DRAWS))
    expected, _ = fly(prompts, limit=limits(9), slots=6)
    shuffled = [prompts[place] for place in order]
    responses, _ = fly(shuffled, limit=limits(9)[order], slots=6, keys=keys_QN2[order])
    expected = jax.tree.map(lambda part: part[order], expected)
    assert rows_of(responses) == rows_of(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 1, 1), (1, 2, 2), (4, 1, 1), (2, 2, 2), (8, 1, 1)]
)
def test_any_mesh_draws_the_same(prompts, at_once, shape):
    responses, flight = fly(prompts, limit=limits(9), slots=16, mesh=builders.mesh(*shape))
    assert flight.layout.sides == 2
    assert_same_tokens(responses, at_once)


@pytest.mark.slow
def test_fillers_draw_nothing_and_change_nothing(prompts, at_once):
    responses, _ = fly(prompts, limit=limits(9), slots=7, size=14)
    assert_same_tokens(responses, at_once)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), pytest.param((1, 1, 2), marks=pytest.mark.slow)])
def test_columns_without_a_token_are_not_drawn_but_count_in_log_probabilities(prompts, shape):
    mesh = builders.mesh(*shape) if shape != (1, 1, 1) else None
    responses, _ = fly(prompts[:3], num_tokens=20, mesh=mesh)
    assert 15 < responses.tokens_DWL.max() < 20 < builders.MODEL.vocab_size
    rows = np.argwhere(responses.num_tokens_DW).tolist()
    texts = [[*prompts[query], *responses.tokens_DWL[query, at]] for query, at in rows]
    longest = max(map(len, texts))
    padded_BL = jnp.array([text + [0] * (longest - len(text)) for text in texts], jnp.int32)
    logits_BLV = jax.jit(model.forward, static_argnums=0)(
        builders.MODEL, builders.params(), padded_BL
    )
    plain_BLV = np.asarray(jax.nn.log_softmax(logits_BLV))
    for row, (query, at) in enumerate(rows):
        places = np.arange(len(texts[row]) - LIMIT, len(texts[row]))
        plain = plain_BLV[row, places - 1, padded_BL[row, places]].sum()
        assert responses.logprob_DW[query, at] == pytest.approx(plain, abs=1e-3)


def test_an_end_of_text_frees_its_slot(prompts):
    expected, _ = fly(prompts, end_id=7)
    responses, _ = fly(prompts, end_id=7, slots=6)
    assert_same_tokens(responses, expected)
    ends = expected.stopped_DW
    assert ends.any() and not ends.all()
    for place in np.argwhere(ends):
        count = expected.num_tokens_DW[tuple(place)]
        tokens = expected.tokens_DWL[tuple(place)][:count]
        assert tokens[-1] == 7 and 7 not in tokens[:-1]


@pytest.mark.slow
def test_a_cache_that_grows_draws_the_same(prompts, monkeypatch):
    expected, _ = fly(prompts, max_tokens=40, slots=6)
    grown = []
    grow = decode.grow
    monkeypatch.setattr(engine, "FIRST_COLUMNS", 5)
    monkeypatch.setattr(
        engine.decode, "grow", lambda state, columns: grown.append(columns) or grow(state, columns)
    )
    responses, _ = fly(prompts, max_tokens=40, slots=6)
    assert grown == [10, 20, 39]
    assert_same_tokens(responses, expected)


# Refill, step by step against a plain account of what it promises.


def lengths_run(lengths_QN, lanes, slots, sides):
    """Runs the bookkeeping on responses of given lengths: rows by step, and the steps."""
    queries, samples = lengths_QN.shape
    real = jnp.int32(queries)
    each, lane = refill.start(lanes, slots, sides, real, lengths_QN.shape)
    fetch = jax.jit(functools.partial(refill.fetch, num_samples=samples))
    begin = jax.jit(functools.partial(refill.begin, num_samples=samples))
    history = []
    while len(history) < 10_000:
        if sides == 2:
            lane, (at, side, query) = fetch(each, lane, real)
            held = int(lane.query_UK[int(at), int(side)])
            assert held == int(query) or held == -1
        each, lane = begin(each, lane)
        row_UR = np.asarray(each.row_UR)
        live_UR = row_UR >= 0
        if not live_UR.any():
            assert (np.asarray(lane.begun_Q) == samples).all()
            return history
        # A slot's prompt is that of its row.
        prompt_UR = np.take_along_axis(np.asarray(lane.query_UK), np.asarray(each.side_UR), axis=1)
        assert (prompt_UR == row_UR // samples)[live_UR].all()
        history.append(row_UR.copy())
        age_UR = np.asarray(each.age_UR) + live_UR
        ended_UR = live_UR & (age_UR >= lengths_QN.reshape(-1)[np.maximum(row_UR, 0)])
        each = dataclasses.replace(
            each, age_UR=jnp.asarray(age_UR), row_UR=jnp.asarray(np.where(ended_UR, -1, row_UR))
        )
    raise AssertionError("the slots never came to an end")


@pytest.mark.parametrize("seed", range(6))
def test_every_response_is_drawn_once_and_whole(seed):
    rng = np.random.default_rng(seed)
    queries, samples = int(rng.integers(1, 12)), int(rng.integers(1, 9))
    lengths_QN = rng.geometric(0.2, (queries, samples))
    history = lengths_run(lengths_QN, int(rng.integers(1, 5)), int(rng.integers(1, 5)), 2)
    rows, counts = np.unique(np.concatenate([row.ravel() for row in history]), return_counts=True)
    drawn = dict(zip(rows.tolist(), counts.tolist(), strict=True))
    drawn.pop(-1, None)
    assert drawn == dict(enumerate(lengths_QN.ravel().tolist()))


@pytest.mark.slow
def test_slots_stay_in_use_until_the_work_runs_out():
    lengths_QN = np.random.default_rng(0).geometric(1 / 48, (64, 32)).clip(max=256)
    history = lengths_run(lengths_QN, 16, 4, 2)
    busy = np.array([(row >= 0).mean() for row in history])
    begun = np.array([row.max() for row in history])
    last = int(np.argmax(begun == lengths_QN.size - 1))
    assert busy[:last].mean() > 0.97
    assert lengths_QN.sum() / (64 * len(history)) > 0.85


def test_a_lane_without_work_helps_another():
    lengths_QN = np.full((1, 24), 5)
    assert len(lengths_run(lengths_QN, 3, 2, 2)) < len(lengths_run(lengths_QN, 1, 2, 2)) / 2


# Layout and buckets.


def test_layouts():
    assert layout(16, 8, 128) == engine.Layout(16, 8, 1)
    assert layout(64, 32, 64) == engine.Layout(16, 4, 2)
    assert layout(64, 8, 64) == engine.Layout(64, 1, 2)
    assert layout(4, 256, 8) == engine.Layout(1, 8, 2)
    assert layout(20, 32, 512) == engine.Layout(20, 25, 2)
    assert layout(52, 40, 2048) == engine.Layout(52, 39, 2)


@pytest.mark.slow
def test_slots_that_are_no_longer_needed_are_given_up(prompts):
    """Two long responses of a query do not keep all slots busy, nor does the last one both."""
    limit = np.full((9, len(DRAWS)), 2)
    limit[4, 3], limit[4, 6] = 80, 50
    draws = [(1.0, 0)] * len(DRAWS)
    alike = {"limit": limit, "max_tokens": 80}
    responses, flight = fly(prompts, draws, slots=72, **alike)
    assert flight.layout == engine.Layout(9, 8, 1)
    assert flight.slot_steps == 72 * 2 + 18 * 78
    expected, _ = fly(prompts, draws, slots=9, **alike)
    assert_same_tokens(responses, expected)


@pytest.mark.parametrize(("length", "size"), [(1, 64), (64, 64), (65, 128), (257, 300), (300, 300)])
def test_buckets_double(length, size):
    assert bucket(length, 300) == size


@pytest.mark.slow
def test_prompts_of_all_buckets_draw_as_alone(monkeypatch):
    prompts = flights.prompts(7, longest=150, seed=3)
    assert len({bucket(len(prompt), 1000) for prompt in prompts}) > 1
    monkeypatch.setattr("bstar_jax.sampling.engine.TOKENS_A_TURN", 600)
    together, _ = fly(prompts)
    keys_QN2 = flights.keys_of(7, len(DRAWS))
    for place, prompt in enumerate(prompts):
        alone, _ = fly([prompt], keys=keys_QN2[place : place + 1])
        got = jax.tree.map(lambda part, at=place: part[at : at + 1], together)
        assert_same_tokens(got, alone)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (8, 1, 1)], ids=str)
def test_decoding_is_compiled_once_however_often_it_is_called(sizes):
    config = dataclasses.replace(builders.MODEL, kv_heads=4)
    mesh = builders.mesh(*sizes)
    params = builders.for_sampling(config, mesh, builders.params(config))
    before = decode.decode._cache_size()
    prompts = [[2 + place % 3] * (1 + place % 4) for place in range(8)]
    # Of a length that no other test has; more steps than a call takes.
    flights.fly(config, params, prompts, [(1.0, 0)] * 4, slots=16, max_tokens=131, mesh=mesh)
    assert decode.decode._cache_size() == before + 1


@pytest.mark.parametrize(("count", "size", "shards"), [(5, 8, 4), (8, 8, 1), (1, 2, 2)])
def test_queries_are_dealt_once_and_come_back(count, size, shards):
    lengths = np.random.default_rng(0).integers(1, 9, count).tolist()
    order = deal(lengths, size, shards)
    assert order.index_DQ.shape == (shards, size // shards)
    real_DQ = order.index_DQ >= 0
    assert sorted(order.index_DQ[real_DQ]) == list(range(count))
    # Fillers come last in every shard.
    assert (np.diff(real_DQ.astype(int), axis=1) <= 0).all()
    table = np.arange(count * 3).reshape(count, 3)
    np.testing.assert_array_equal(order.scatter(order.gather(table)), table)
