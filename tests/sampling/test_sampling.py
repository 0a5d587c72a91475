"""A response depends on its key and its prompt alone, and its log-probability is the model's."""

import dataclasses
import hashlib
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import model
from bstar_jax.balance import Choice
from bstar_jax.config import GenerateConfig, ModelConfig, UserError
from bstar_jax.records import SCHEMA, Query, Rollouts
from bstar_jax.sampling import Draw, Keys, Sampler, decode, generate
from bstar_jax.sampling.keys import PHASES, at_token, id_words
from bstar_jax.sampling.stops import cut
from bstar_jax.sampling.weights import rollout_config, rollout_params
from tests import builders, flights

KEYS = Keys(seed=5, iteration=2, phase="generate")
# One program for most of this file: units of 4 queries, 4 responses each.
SETTINGS = GenerateConfig(max_prompt_tokens=8, max_tokens=12, batch=16)
GRID = (Draw(0.7, 0, 1), Draw(1.0, 0, 2), Draw(1.3, 5, 1))


def run(queries, *, draws=GRID, settings=SETTINGS, keys=KEYS, mesh=None, units=slice(None)):
    """Rollouts of all units, in the order of the queries."""
    config, params = builders.MODEL, builders.params()
    if mesh is not None:
        params = builders.for_sampling(config, mesh, params)
    sampler = Sampler(config, builders.WORDS, settings, mesh)
    planned = sampler.plan(queries, draws)[units]
    parts = [rollouts for _, rollouts in sampler.run(params, planned, draws, keys)]
    return Rollouts.concatenate(parts)


def drawn(rollouts, *columns):
    """What each response is, by which response it is."""
    names = ("query_id", "temperature", "top_k", "sample_index")
    keys = zip(*map(rollouts.column, names), strict=True)
    columns = columns or ("response", "num_tokens", "finish_reason", "logprob")
    values = zip(*map(rollouts.column, columns), strict=True)
    return dict(zip(keys, values, strict=True))


def assert_same_tokens(ours, theirs):
    """Another program rounds otherwise: at most 1 token in 10,000 differs first, logprobs nearly.

    The tests here draw fewer than 10,000 tokens, so none may.
    """
    ours, theirs = drawn(ours), drawn(theirs)
    assert ours.keys() == theirs.keys()
    for row, (response, num_tokens, finish_reason, logprob) in ours.items():
        assert theirs[row][:3] == (response, num_tokens, finish_reason), row
        assert theirs[row][3] == pytest.approx(logprob, abs=1e-4 * num_tokens), row


@pytest.fixture(scope="module")
def queries():
    return builders.queries(8)


@pytest.fixture(scope="module")
def rollouts(queries):
    return run(queries)


# Law 1: what a row draws depends on its key alone.


@pytest.mark.slow
def test_neighbours_and_order_change_no_byte(queries, rollouts):
    shuffled = [queries[place] for place in np.random.default_rng(0).permutation(8)]
    assert drawn(run(shuffled)) == drawn(rollouts)


def test_order_of_the_cells_changes_no_byte(queries, rollouts):
    assert drawn(run(queries, draws=GRID[::-1])) == drawn(rollouts)


def test_filler_rows_change_no_byte(queries, rollouts):
    sampler = Sampler(builders.MODEL, builders.WORDS, SETTINGS)
    assert [unit.size for unit in sampler.plan(queries[:7], GRID)] == [4, 4]
    short = drawn(run(queries[:7]))
    assert len(short) == 7 * 4
    assert short == {row: value for row, value in drawn(rollouts).items() if row in short}


def test_a_unit_sampled_alone_has_the_same_bytes(queries, rollouts):
    alone = drawn(run(queries, units=slice(1, None)))
    assert {row[0] for row in alone} == {query.query_id for query in queries[4:]}
    assert alone == {row: value for row, value in drawn(rollouts).items() if row in alone}


@pytest.mark.slow
def test_another_cut_into_units_draws_the_same(queries, rollouts):
    settings = dataclasses.replace(SETTINGS, batch=1000)
    assert len(Sampler(builders.MODEL, builders.WORDS, settings).plan(queries, GRID)) == 1
    assert_same_tokens(run(queries, settings=settings), rollouts)


@pytest.mark.slow
def test_longer_buffers_draw_the_same_and_a_shorter_limit_cuts(queries, rollouts):
    settings = dataclasses.replace(SETTINGS, max_prompt_tokens=11, max_tokens=20)
    longer = drawn(run(queries, settings=settings))
    cut = 0
    for row, (response, num_tokens, finish_reason, logprob) in drawn(rollouts).items():
        if finish_reason == "stop":
            assert longer[row][:3] == (response, num_tokens, "stop")
            assert longer[row][3] == pytest.approx(logprob, abs=1e-3)
        else:
            assert longer[row][0].startswith(response) and longer[row][1] > num_tokens == 12
            cut += 1
    assert cut


@pytest.mark.slow
def test_a_mesh_of_eight_devices_draws_as_one(queries, rollouts):
    assert_same_tokens(run(queries, mesh=builders.mesh(2, 2, 2)), rollouts)


def test_cells_share_their_noise(queries):
    vocab = builders.MODEL.vocab_size
    both = run(queries, draws=[Draw(1.0, 0, 2), Draw(1.0, vocab, 2)])
    off = both.filter([top_k == 0 for top_k in both.column("top_k")])
    all_kept = both.filter([top_k == vocab for top_k in both.column("top_k")])
    assert off.column("response") == all_kept.column("response")


def test_later_sample_indices_are_those_of_a_longer_draw(queries):
    first = drawn(run(queries, draws=[Draw(1.0, 0, 4)]), "response")
    later = drawn(run(queries, draws=[Draw(1.0, 0, 4, first=2)]), "response")
    assert {row[3] for row in later} == {2, 3, 4, 5}
    shared = first.keys() & later.keys()
    assert len(shared) == 8 * 2
    assert all(first[row] == later[row] for row in shared)


def test_every_part_of_the_key_matters(queries):
    texts = {
        name: run(queries, draws=[Draw(1.0, 0, 4)], keys=keys).column("response")
        for name, keys in {
            "base": KEYS,
            "seed": dataclasses.replace(KEYS, seed=6),
            "iteration": dataclasses.replace(KEYS, iteration=3),
            "phase": dataclasses.replace(KEYS, phase="monitor"),
        }.items()
    }
    for one, other in itertools.combinations(texts.values(), 2):
        assert np.mean([a == b for a, b in zip(one, other, strict=True)]) < 0.2
    renamed = [dataclasses.replace(query, query_id=query.query_id + "x") for query in queries]
    assert run(renamed, draws=[Draw(1.0, 0, 4)]).column("response") != texts["base"]


def test_keys_are_the_documented_chain():
    ids, index_UR = ["train/0", "é"], np.array([[0, 1, 7], [3, 2, 70000]])
    rows = np.asarray(Keys(11, 4, "monitor").rows(ids, index_UR))
    for u, r in itertools.product(range(2), range(3)):
        digest = hashlib.sha256(ids[u].encode()).digest()
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(11), 4), 3)
        for word in (digest[:4], digest[4:8]):
            key = jax.random.fold_in(key, np.uint32(int.from_bytes(word, "big")))
        key = jax.random.fold_in(key, int(index_UR[u, r]))
        np.testing.assert_array_equal(rows[u, r], jax.random.key_data(key))
        token = at_token(jnp.asarray(rows[u, r])[None], jnp.array([9]))[0]
        np.testing.assert_array_equal(token, jax.random.key_data(jax.random.fold_in(key, 9)))
    assert PHASES == {"calibrate": 1, "generate": 2, "monitor": 3, "rationalize": 4, "prm": 5}


def test_no_two_responses_share_a_key():
    ids = [f"train/{number}" for number in range(50)]
    index_UR = np.broadcast_to(np.arange(8), (50, 8))
    keys = [
        np.asarray(Keys(0, iteration, phase).rows(ids, index_UR)).reshape(-1, 2)
        for iteration, phase in itertools.product((0, 1, 2), PHASES)
    ]
    tokens = [
        np.asarray(at_token(jnp.asarray(keys[0]), jnp.full(len(keys[0]), index)))
        for index in range(3)
    ]
    everything = np.concatenate(keys + tokens)
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_ids_become_two_words():
    digest = hashlib.sha256(b"abc").hexdigest()
    assert [f"{word:08x}" for word in id_words(["abc"])[0]] == [digest[:8], digest[8:16]]


# Responses that are begun already.


@pytest.mark.slow
def test_a_begun_response_is_continued_as_it_would_have_gone_on(queries):
    """Greedy: what follows the first tokens of a response is the rest of it."""
    greedy = (Draw(0.0, 0, 1),)
    whole = run(queries, draws=greedy)
    words = [response.split() for response in whole.column("response")]
    begun = [
        dataclasses.replace(query, prefix=" ".join(text[: place % 4]))
        for place, (query, text) in enumerate(zip(queries, words, strict=True))
    ]
    continued = run(begun, draws=greedy)
    assert continued.column("response") == whole.column("response")
    assert continued.column("finish_reason") == whole.column("finish_reason")
    given = [len(builders.WORDS.encode(query.prefix)) for query in begun]
    assert max(given) == 3
    counts = zip(whole.column("num_tokens"), continued.column("num_tokens"), given, strict=True)
    assert all(drawn + count == total for total, drawn, count in counts)
    assert continued.column("prompt") == [query.prompt for query in queries]


@pytest.mark.slow
def test_a_stop_string_may_begin_in_the_prefix(queries):
    (greedy,) = draws = (Draw(0.0, 0, 1),)
    whole = run(queries, draws=draws)
    pairs = zip(queries, whole.column("response"), strict=True)
    query, words = next((query, text.split()) for query, text in pairs if len(text.split()) > 4)
    stops = (f"{words[1][-1]} {words[2]}",)
    begun = dataclasses.replace(query, prefix=" ".join(words[:2]))
    settings = dataclasses.replace(SETTINGS, stop=stops)
    continued = run([begun], draws=(greedy,), settings=settings)
    assert continued.column("response") == [cut(" ".join(words), stops)]
    assert continued.column("num_tokens") == [1] and continued.column("finish_reason") == ["stop"]


def test_a_prefix_that_leaves_no_token_is_refused(queries):
    full = dataclasses.replace(queries[0], prefix=" ".join(["8"] * SETTINGS.max_tokens))
    with pytest.raises(UserError, match="has 12 tokens, but a response has generate.max_tokens=12"):
        run([full])


# Law 3: log-probabilities are those of a plain forward pass of the same weights.


def plain_logprobs(config, params, prompts, tokens_URL):
    """Log-probabilities [U, R, L, V] that the model gives before each response token."""
    length = tokens_URL.shape[2]
    texts = [
        np.pad([*prompt, *tokens_L], (0, 8 - len(prompt)))  # what follows cannot be read
        for prompt, tokens_RL in zip(prompts, tokens_URL, strict=True)
        for tokens_L in tokens_RL
    ]
    logits_BLV = jax.jit(model.forward, static_argnums=0)(config, params, np.array(texts))
    table_BLV = np.asarray(jax.nn.log_softmax(logits_BLV, axis=-1))
    table_URLV = table_BLV.reshape(*tokens_URL.shape[:2], 8 + length, -1)
    starts = [len(prompt) - 1 for prompt in prompts]
    return [table_URLV[u, :, start : start + length] for u, start in enumerate(starts)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        builders.MODEL,
        # More than 1,024 columns: rows without top-k draw by blocks.
        ModelConfig(
            vocab_size=1500, width=16, layers=2, heads=4, kv_heads=1, head_width=6,
            feed_forward=24, tied=False,
        ),
        dataclasses.replace(builders.MODEL, window=4),
        builders.GEMMA,
        builders.QWEN,
        builders.OLMO,
    ],
    ids=["tied", "untied", "windows", "Gemma 3", "Qwen 3", "OLMo 3"],
)  # fmt: skip
@pytest.mark.parametrize("slots", [100, 6])
def test_logprobs_are_those_of_a_plain_forward_pass(config, slots):
    params = builders.params(config)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(2, 50, length).tolist() for length in (1, 4, 7, 8)]
    temperatures, top_ks = (0.0, 0.6, 1.0, 1.0, 1.7), (0, 0, 0, 3, 20)
    draws = list(zip(temperatures, top_ks, strict=True))
    got, _ = flights.fly(config, params, prompts, draws, slots=slots)
    table_URLV = plain_logprobs(config, params, prompts, got.tokens_DWL)
    for u, r in itertools.product(range(4), range(5)):
        count = int(got.num_tokens_DW[u, r])
        tokens = got.tokens_DWL[u, r, :count].tolist()
        table_LV = table_URLV[u][r, :count]
        expected = table_LV[np.arange(count), tokens].sum()
        assert abs(float(got.logprob_DW[u, r]) - expected) <= 1e-4 * count
        if temperatures[r] == 0:
            assert tokens == table_LV.argmax(axis=1).tolist()
        if top_ks[r]:
            rank = (table_LV > table_LV[np.arange(count), tokens][:, None]).sum(axis=1)
            assert (rank < top_ks[r]).all()
        assert 1 not in tokens[:-1]
        assert bool(got.stopped_DW[u, r]) == (tokens[-1] == 1)
        assert count == 12 or tokens[-1] == 1


@pytest.mark.slow
def test_prompts_of_one_token_in_a_buffer_of_one(queries):
    ones = [dataclasses.replace(query, prompt=query.prompt.split()[0]) for query in queries]
    settings = dataclasses.replace(SETTINGS, max_prompt_tokens=1)
    assert_same_tokens(run(ones, settings=settings), run(ones))


# Law 5: temperatures and top-k are data.


def test_a_sweep_of_temperatures_and_top_k_compiles_nothing(queries, rollouts, caplog):
    programs = decode.decode._cache_size()
    sweep = itertools.product(np.linspace(0.0, 1.5, 16), (0, 1, 7, 40))
    with caplog.at_level(logging.WARNING, logger="jax._src"), jax.log_compiles():
        for temperature, top_k in sweep:
            run(queries[:4], draws=[Draw(float(temperature), top_k, 4)])
    assert decode.decode._cache_size() == programs
    compiled = [record.message for record in caplog.records if "ompil" in record.message]
    assert not compiled


def test_compilations_are_seen_by_the_count_above(caplog):
    with caplog.at_level(logging.WARNING, logger="jax._src"), jax.log_compiles():
        jax.jit(lambda x: x * 3 + 1)(jnp.arange(7))
    assert any("ompil" in record.message for record in caplog.records)


# How responses end, and what is written about them.


def test_finish_reason_tokens_and_text_agree(rollouts):
    columns = ("response", "num_tokens", "finish_reason", "logprob")
    reasons = set()
    for response, num_tokens, reason, logprob in zip(*map(rollouts.column, columns), strict=True):
        # Padding is a token that may be drawn and has no text.
        words = len(response.split())
        assert words <= num_tokens - (reason == "stop")
        assert 1 <= num_tokens <= 12 and (reason == "stop" or num_tokens == 12)
        assert "<end>" not in response and logprob < 0
        reasons.add(reason)
    assert reasons == {"stop", "length"}


def test_a_stop_string_ends_a_response_where_its_text_is_complete(queries, rollouts):
    stops = ("s h", "many", "never said")
    settings = dataclasses.replace(SETTINGS, stop=stops)
    stopped = drawn(run(queries, settings=settings))
    found = 0
    for row, (response, num_tokens, reason, logprob) in drawn(rollouts).items():
        text, count, why, sum_of = stopped[row]
        assert text == cut(response, stops) and not any(stop in text for stop in stops)
        if text == response:
            assert (count, why, sum_of) == (num_tokens, reason, logprob)
            continue
        found += 1
        assert why == "stop" and logprob <= sum_of < 0
        # The words up to the one that completes the stop string, as padding has no text.
        assert count <= num_tokens and count >= len(text.split())
        assert any(stop in response for stop in stops)
    assert found > 3


def test_no_stop_string_is_an_empty_one(queries, rollouts):
    settings = dataclasses.replace(SETTINGS, stop=("",))
    assert drawn(run(queries, settings=settings)) == drawn(rollouts)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_rollout_weights_draw_what_their_own_model_would(queries, weights):
    config = rollout_config(builders.MODEL, weights)
    params = rollout_params(builders.MODEL, builders.params(), None, weights=weights)
    sampler = Sampler(config, builders.WORDS, SETTINGS)
    draws = [Draw(0.0, 0, 1), Draw(1.0, 0, 3)]
    parts = sampler.run(params, sampler.plan(queries, draws), draws, KEYS)
    longest = SETTINGS.max_prompt_tokens + SETTINGS.max_tokens

    @jax.jit
    def logprobs(tokens_L):
        return jax.nn.log_softmax(model.forward(config, params, tokens_L[None])[0])

    for _, part in parts:
        columns = ("prompt", "response", "num_tokens", "finish_reason", "logprob")
        for prompt, response, count, reason, logprob in zip(
            *map(part.column, columns), strict=True
        ):
            tokens = builders.WORDS.encode(response) + [builders.WORDS.end_id] * (reason == "stop")
            if len(tokens) != count:
                continue  # padding was drawn, which has no text
            text = [*builders.WORDS.encode(prompt), *tokens]
            padding = [builders.WORDS.pad_id] * (longest - len(text))
            table_LV = np.asarray(logprobs(jnp.asarray(text + padding)))
            places = np.arange(len(text) - count - 1, len(text) - 1)
            expected = float(table_LV[places, tokens].sum())
            # bf16 keeps 8 bits: products in another order move a log-probability by hundredths.
            assert logprob == pytest.approx(expected, abs=0.1 * count)


@pytest.mark.slow
def test_a_limit_of_one_token_stops_only_at_the_end_of_text(queries):
    settings = dataclasses.replace(SETTINGS, max_tokens=1)
    found = set()
    for iteration in range(8):
        keys = dataclasses.replace(KEYS, iteration=iteration)
        rollouts = run(queries, draws=[Draw(1.5, 0, 4)], settings=settings, keys=keys)
        assert set(rollouts.column("num_tokens")) == {1}
        found |= set(
            zip(rollouts.column("finish_reason"), rollouts.column("response"), strict=True)
        )
    assert ("stop", "") in found
    assert all(reason == "length" for reason, response in found if response)


@pytest.mark.slow
def test_a_tiny_nucleus_is_greedy(queries):
    settings = dataclasses.replace(SETTINGS, top_p=1e-6)
    narrow = run(queries, draws=[Draw(1.0, 0, 4)], settings=settings)
    greedy = drawn(run(queries, draws=[Draw(0.0, 0, 4)]), "response")
    assert sorted(narrow.column("response")) == sorted(value for (value,) in greedy.values())


def test_a_prompt_too_long_is_refused_by_name():
    query = Query("train/seven", "train", " ".join(["3"] * 9), reference="3")
    with pytest.raises(UserError, match=r"'train/seven' has 9 tokens.*max_prompt_tokens=8"):
        run([query])


def test_an_empty_prompt_is_refused_by_name():
    with pytest.raises(UserError, match="'train/none' has an empty prompt"):
        run([Query("train/none", "train", "", reference="3")])


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9, 100])
def test_units_are_alike_and_hold_every_query_once(count):
    queries = builders.queries(count)
    units = Sampler(builders.MODEL, builders.WORDS, SETTINGS).plan(queries, GRID)
    assert [query for unit in units for query in unit.queries] == queries
    assert [unit.index for unit in units] == list(range(len(units)))
    assert len({unit.size for unit in units}) <= 1
    assert all(0 < len(unit.queries) <= unit.size <= 4 for unit in units)


def test_units_on_a_mesh_divide_among_its_rows():
    sampler = Sampler(builders.MODEL, builders.WORDS, SETTINGS, builders.mesh(2, 2, 2))
    assert {unit.size for unit in sampler.plan(builders.queries(5), GRID)} == {4}


def test_generate_returns_sorted_rows_that_nobody_graded(queries, rollouts):
    choices = [Choice(draw.temperature, draw.top_k, 0.0, 1.0) for draw in GRID[::2]]
    got = generate(
        builders.MODEL,
        builders.params(),
        queries,
        choice=choices,
        keys=KEYS,
        max_tokens=12,
        tokenizer=builders.WORDS,
        responses=2,
        settings=dataclasses.replace(SETTINGS, max_tokens=99),
    )
    assert got.table.schema == SCHEMA
    assert len(got) == 8 * 2 * 2
    rows = list(zip(got.column("temperature"), got.column("sample_index"), strict=True))
    low, high = np.float32(0.7), np.float32(1.3)
    assert rows == [(low, 0), (low, 1), (high, 0), (high, 1)] * 8
    assert got.column("query_id") == [query.query_id for query in queries for _ in range(4)]
    assert got.column("prompt") == [query.prompt for query in queries for _ in range(4)]
    for name in ("answer", "correct", "reason", "reward", "selected", "process_reward"):
        assert got.column(name) == [None] * 32
    shared = drawn(got).keys() & drawn(rollouts).keys()
    assert len(shared) == 8 * 2
    assert all(drawn(got)[row] == drawn(rollouts)[row] for row in shared)
