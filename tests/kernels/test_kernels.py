"""The sampling contract: kept sets, tokens, distribution, independence of everything else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import kernels, sharding
from bstar_jax.kernels import contract, exact, noise, reference
from tests import kernels_cases as cases

reference_sample = jax.jit(reference.sample, static_argnames="noise_kind")


def off(rows):
    return jnp.zeros(rows, jnp.int32), jnp.ones(rows), jnp.zeros(rows)


# Noise.


def test_threefry_is_the_generator_of_jax_random():
    key_2 = jnp.asarray([0x13198A2E, 0x03707344], jnp.uint32)
    counter_I = jnp.arange(1000, dtype=jnp.uint32)
    keys = [jnp.full_like(counter_I, word) for word in key_2]
    word_0, word_1 = noise.threefry2x32(keys, (jnp.zeros_like(counter_I), counter_I))
    with jax.threefry_partitionable(True):
        expected_I = jax.random.bits(jax.random.wrap_key_data(key_2), (1000,), jnp.uint32)
    np.testing.assert_array_equal(word_0 ^ word_1, expected_I)


@pytest.mark.slow
def test_a_span_of_noise_is_the_noise_of_its_indices():
    keys_B2 = cases.row_keys(0, 3)
    first_B = jnp.asarray([0, 256, 512 * 7], jnp.int32)
    index_BI = first_B[:, None] + jnp.arange(700)[None, :]
    np.testing.assert_array_equal(
        noise.bits_span(keys_B2, first_B, 700, 1), noise.bits_at(keys_B2, index_BI, 1)
    )


def test_rows_columns_and_streams_share_no_noise():
    index_BI = jnp.broadcast_to(jnp.arange(4096)[None, :], (4, 4096))
    keys_B2 = jnp.asarray([[0, 0], [0, 1], [1, 0], [1, 1]], jnp.uint32)
    streams = (contract.COLUMN_STREAM, contract.BLOCK_STREAM, contract.CDF_STREAM)
    bits = jnp.stack([noise.bits_at(keys_B2, index_BI, stream) for stream in streams])
    # 49,152 draws of 2^32 meet by chance 0.28 times.
    assert bits.size - np.unique(bits).size <= 3


def test_uniform_stays_inside_the_open_interval_and_keeps_small_values_apart():
    bits = jnp.asarray([0, 1, 2, 3, 2**31, 2**32 - 2, 2**32 - 1], jnp.uint32)
    uniform = noise.uniform(bits)
    assert (jnp.diff(uniform[:5]) > 0).all() and uniform[0] > 0 and uniform[-1] < 1
    np.testing.assert_array_equal(uniform[:2] * 2.0**32, [0.5, 1.5])
    assert jnp.isfinite(noise.gumbel(bits)).all()


# Kept sets.


threshold = jax.jit(exact.threshold, static_argnames="vocab")
plain_kept = jax.jit(jax.vmap(reference.kept))


@pytest.mark.parametrize("vocab", [64, 1000])
def test_kept_set_is_that_of_sorting(vocab):
    top_ks = np.asarray([*cases.TOP_KS, vocab - 1, vocab, vocab + 5])
    logits_BV = cases.hard_logits(np.random.default_rng(vocab), 16, vocab)
    logits_BV = np.repeat(logits_BV, top_ks.size, axis=0)
    top_k_B = np.tile(top_ks, 16)
    ones_B = jnp.ones(top_k_B.size)
    rows = contract.Rows(None, ones_B, jnp.asarray(top_k_B), None, None)
    clean_BV = jnp.where(jnp.isnan(logits_BV), -jnp.inf, logits_BV)
    kept_BV = clean_BV >= threshold(clean_BV, rows, vocab=vocab)[:, None]
    plain_BV = plain_kept(clean_BV, ones_B, rows.top_k_B, ones_B, 0 * ones_B)
    expected_BV = [
        cases.kept_by_numpy(logits_V, 1.0, top_k, 1.0, 0.0)
        for logits_V, top_k in zip(logits_BV, top_k_B, strict=True)
    ]
    np.testing.assert_array_equal(kept_BV, expected_BV)
    np.testing.assert_array_equal(plain_BV, expected_BV)


def test_nucleus_and_min_p_keep_what_sorting_keeps():
    rng = np.random.default_rng(5)
    logits_BV = (3 * rng.standard_normal((64, 300))).astype(np.float32)
    logits_BV[:16] = np.round(logits_BV[:16])
    temperature_B, top_k_B, top_p_B, min_p_B = cases.settings(rng, 64, 300)
    temperature_B = jnp.maximum(temperature_B, 0.3)
    rows = contract.Rows(None, temperature_B, top_k_B, top_p_B, min_p_B)
    kept_BV = logits_BV >= threshold(logits_BV, rows, vocab=300)[:, None]
    plain_BV = plain_kept(logits_BV, *rows[1:])
    columns = [np.asarray(column_B, np.float64) for column_B in rows[1:]]
    columns[1] = columns[1].astype(int)
    expected_BV = [cases.kept_by_numpy(*row) for row in zip(logits_BV, *columns, strict=True)]
    np.testing.assert_array_equal(kept_BV, expected_BV)
    np.testing.assert_array_equal(plain_BV, expected_BV)


# Tokens: every setting against the reference.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "dtype", "noise_kind", "truncations"),
    [
        (37, jnp.float32, "gumbel", "all"),
        (1024, jnp.bfloat16, "gumbel", "top_k"),
        (5000, jnp.float32, "gumbel", "none"),
        (5000, jnp.float32, "gumbel", "all"),
        (8192, jnp.bfloat16, "gumbel", "top_k"),
        (5000, jnp.float32, "icdf", "all"),
    ],
)
def test_xla_draws_the_tokens_of_the_reference(vocab, dtype, noise_kind, truncations):
    rng = np.random.default_rng(vocab)
    rows = 64
    logits_BV = jnp.asarray(cases.hard_logits(rng, rows, vocab)).astype(dtype)
    keys_B2 = cases.row_keys(vocab, rows)
    temperature_B, top_k_B, top_p_B, min_p_B = cases.settings(rng, rows, vocab)
    cuts = {"none": (), "top_k": (top_k_B,), "all": (top_k_B, top_p_B, min_p_B)}[truncations]
    result = kernels.sample(logits_BV, keys_B2, temperature_B, *cuts, impl="xla", noise=noise_kind)
    cuts = (*cuts, *off(rows)[len(cuts) :])
    expected = reference_sample(logits_BV, keys_B2, temperature_B, *cuts, noise_kind=noise_kind)
    if noise_kind == "icdf":
        np.testing.assert_array_equal(result.token_B, expected.token_B)
    else:
        cases.assert_same_tokens(result, expected, logits_BV, keys_B2, temperature_B, cuts[0])
    cases.assert_near_logprobs(result.logprob_B, expected.logprob_B, vocab)


@pytest.mark.slow
def test_top_k_beyond_the_window_takes_the_exact_path_and_no_other_does():
    rng = np.random.default_rng(3)
    logits_BV = jnp.asarray(rng.standard_normal((12, 6000)), jnp.float32)
    top_k_B = jnp.asarray([1, 20, 64, 65, 100, 6001] * 2, jnp.int32)
    keys_B2, temperature_B = cases.row_keys(0, 12), jnp.ones(12)
    result = kernels.sample(logits_BV, keys_B2, temperature_B, top_k_B)
    np.testing.assert_array_equal(result.status_B, [0, 0, 0, 0, 1, 0] * 2)
    wide = kernels.sample(logits_BV, keys_B2, temperature_B, top_k_B, kmax=100)
    np.testing.assert_array_equal(wide.status_B, 0)
    np.testing.assert_array_equal(wide.token_B, result.token_B)


@pytest.mark.slow
def test_top_p_and_min_p_without_top_k_are_proven_inside_the_window():
    rng = np.random.default_rng(12)
    rows, vocab = 192, 5000
    logits_BV = jnp.asarray(3 * rng.standard_normal((rows, vocab)), jnp.float32)
    keys_B2 = cases.row_keys(12, rows)
    temperature_B = jnp.asarray(rng.uniform(0.2, 1.5, rows), jnp.float32)
    top_p_B = jnp.asarray(rng.choice([0.1, 0.5, 0.9, 1.0], rows), jnp.float32)
    min_p_B = jnp.asarray(rng.choice([0.0, 0.01, 0.1], rows), jnp.float32)
    for cuts in ((top_p_B, None), (None, min_p_B), (top_p_B, min_p_B)):
        result = kernels.sample(logits_BV, keys_B2, temperature_B, None, *cuts)
        top_k_B, *given = (
            off_B if cut_B is None else cut_B
            for cut_B, off_B in zip((None, *cuts), off(rows), strict=True)
        )
        expected = reference_sample(logits_BV, keys_B2, temperature_B, top_k_B, *given)
        differing = cases.assert_same_tokens(
            result, expected, logits_BV, keys_B2, temperature_B, top_k_B
        )
        assert differing <= 1
        # Few columns are kept where it is cold; where it is hot more than a window holds.
        assert (result.status_B[temperature_B < 0.6] == 0).all()
        assert (result.status_B == 0).sum() > 0
    wide = kernels.sample(logits_BV, keys_B2, temperature_B, None, top_p_B, min_p_B, kmax=1)
    assert wide.status_B.sum() > result.status_B.sum()
    np.testing.assert_array_equal(wide.token_B, result.token_B)


@pytest.mark.slow
def test_a_top_p_too_near_the_edge_to_tell_takes_the_exact_path():
    logits_V = np.full(2000, -np.inf, np.float32)
    logits_V[[7, 500, 1900]] = np.log([0.5, 0.3, 0.2])
    top_p_B = jnp.asarray([0.79, 0.8, 0.81, 0.5], jnp.float32)
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V)[None, :], (4, 2000))
    result = kernels.sample(logits_BV, cases.row_keys(0, 4), jnp.ones(4), None, top_p_B)
    np.testing.assert_array_equal(result.status_B, [0, 1, 0, 1])


# Laws.


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [100, 3000])
def test_a_row_draws_alike_in_any_company(vocab):
    rng = np.random.default_rng(8)
    logits_BV = jnp.asarray(3 * rng.standard_normal((32, vocab)), jnp.float32)
    keys_B2 = cases.row_keys(1, 32)
    temperature_B, top_k_B, _, _ = cases.settings(rng, 32, vocab)
    token_B = kernels.sample(logits_BV, keys_B2, temperature_B, top_k_B).token_B

    order = rng.permutation(32)
    permuted = kernels.sample(*(a[order] for a in (logits_BV, keys_B2, temperature_B, top_k_B)))
    np.testing.assert_array_equal(permuted.token_B, token_B[order])
    few = kernels.sample(*(a[:5] for a in (logits_BV, keys_B2, temperature_B, top_k_B)))
    np.testing.assert_array_equal(few.token_B, token_B[:5])
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, 72)), constant_values=9.0)
    padded = kernels.sample(padded_BV, keys_B2, temperature_B, top_k_B, valid_vocab=vocab)
    np.testing.assert_array_equal(padded.token_B, token_B)
    if vocab > contract.DENSE_VOCAB:
        sized = kernels.sample(logits_BV, keys_B2, temperature_B, top_k_B, kmax=1)
        np.testing.assert_array_equal(sized.token_B, token_B)


@pytest.mark.slow
def test_a_mesh_changes_no_token_and_moves_no_logits():
    rng = np.random.default_rng(9)
    arguments = [jnp.asarray(rng.standard_normal((32, 3000)), jnp.float32), cases.row_keys(1, 32)]
    arguments += cases.settings(rng, 32, 3000)[:2]
    alone = kernels.sample(*arguments)
    mesh = jax.make_mesh((4, 2, 1), sharding.MESH_AXES, (jax.sharding.AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        program = jax.jit(lambda *rows: kernels.sample(*rows))
        arguments = sharding.put_rows(mesh, arguments)
        spread = program(*arguments)
        text = program.lower(*arguments).compile().as_text()
    np.testing.assert_array_equal(spread.token_B, alone.token_B)
    assert not spread.token_B.sharding.is_fully_replicated
    assert "all-gather" not in text and "all-reduce" not in text


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(
    ("implementation", "vocab", "noise_kind", "cuts"),
    [
        ("reference", 1100, "gumbel", {}),
        ("reference", 1100, "gumbel", {"top_k": 30, "top_p": 0.8}),
        ("xla", 64, "gumbel", {}),
        ("xla", 64, "gumbel", {"top_k": 10}),
        ("xla", 1100, "gumbel", {}),
        ("xla", 1100, "icdf", {}),
        ("xla", 1100, "gumbel", {"top_k": 30}),
        ("xla", 1100, "gumbel", {"top_p": 0.8}),
        ("xla", 1100, "gumbel", {"top_k": 30, "top_p": 0.8}),
        ("xla", 1100, "gumbel", {"min_p": 0.05}),
    ],
)
def test_tokens_have_the_distribution_claimed(implementation, vocab, noise_kind, cuts):
    draws, temperature = 40_000 if implementation == "xla" else 10_000, 0.7
    rng = np.random.default_rng(vocab)
    logits_V = jnp.asarray(1.5 * rng.standard_normal(vocab), jnp.float32)
    # Sequential keys: the worst that a caller can pass.
    keys_B2 = jnp.stack([jnp.full(draws, 7), jnp.arange(draws)], axis=1).astype(jnp.uint32)
    values = {"top_k": 0, "top_p": 1.0, "min_p": 0.0} | cuts
    columns = [jnp.full(draws, value) for value in (temperature, *values.values())]
    if implementation == "xla":
        columns[1:] = [
            c if name in cuts else None for c, name in zip(columns[1:], values, strict=True)
        ]
        draw = functools.partial(kernels.sample, impl="xla", noise=noise_kind)
    else:
        draw = functools.partial(reference_sample, noise_kind=noise_kind)
    tokens = []
    for start in range(0, draws, 5000):
        part = [None if c is None else c[start : start + 5000] for c in columns]
        logits_BV = jnp.broadcast_to(logits_V[None, :], (5000, vocab))
        tokens.append(draw(logits_BV, keys_B2[start : start + 5000], *part).token_B)
    probability_V = cases.probability_by_numpy(logits_V, temperature, **cuts)
    cases.assert_distribution(np.concatenate(tokens), probability_V)


def test_a_mixed_batch_gives_each_row_its_own_distribution():
    def draw(*arguments):
        return kernels.sample(*arguments).token_B

    cases.assert_mixed_batch_distribution(draw, draws=30_000, size=5000)


@pytest.mark.slow
def test_log_probability_is_untempered_and_untruncated():
    rng = np.random.default_rng(4)
    logits_BV = jnp.asarray(4 * rng.standard_normal((16, 4000)), jnp.float32)
    temperature_B, top_k_B, top_p_B, min_p_B = cases.settings(rng, 16, 4000)
    result = kernels.sample(
        logits_BV, cases.row_keys(4, 16), temperature_B, top_k_B, top_p_B, min_p_B, valid_vocab=3900
    )
    x_BV = np.asarray(logits_BV[:, :3900], np.float64)
    log_total_B = np.log(np.exp(x_BV).sum(axis=1))
    expected_B = x_BV[np.arange(16), result.token_B] - log_total_B
    cases.assert_near_logprobs(result.logprob_B, expected_B, 3900)


@pytest.mark.parametrize("vocab", [50, 2000])
def test_greedy_takes_the_first_maximum_whatever_the_rest(vocab):
    logits_BV = np.zeros((6, vocab), np.float32)
    logits_BV[:, 20::7] = 3.0
    logits_BV[4] = np.where(np.arange(vocab) < 30, -0.0, 0.0)
    logits_BV[5, 25] = np.nan
    temperature_B = jnp.asarray([0.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    top_k_B = jnp.asarray([0, 0, 1, 3, 2, 0], jnp.int32)
    result = kernels.sample(jnp.asarray(logits_BV), cases.row_keys(0, 6), temperature_B, top_k_B)
    np.testing.assert_array_equal(result.token_B, [20, 20, 20, 20, 0, 20])


@pytest.mark.parametrize("vocab", [50, 2000])
def test_nan_is_never_drawn_and_shows_in_the_log_probability(vocab):
    logits_BV = np.full((6, vocab), np.nan, np.float32)
    logits_BV[0:2, 5] = 1.0, -4.0
    logits_BV[2:4] = -np.inf
    for top_k in (0, 2):
        top_k_B = jnp.full(6, top_k, jnp.int32)
        result = kernels.sample(jnp.asarray(logits_BV), cases.row_keys(0, 6), jnp.ones(6), top_k_B)
        np.testing.assert_array_equal(result.token_B, [5, 5, 0, 0, 0, 0])
        assert jnp.isnan(result.logprob_B).all()


def test_a_sweep_of_temperatures_and_top_ks_compiles_once():
    logits_BV = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2000)), jnp.float32)
    programs = set()
    for temperature in (0.0, 0.5, 0.85, 1.2):
        for top_k in (-1, 1, 20, 64, 300, 2000):
            top_k_B = jnp.full(6, top_k, jnp.int32)
            kernels.sample(logits_BV, cases.row_keys(0, 6), jnp.full(6, temperature), top_k_B)
            programs.add(kernels._sample._cache_size())
    assert len(programs) == 1


@pytest.mark.slow
def test_xla_selects_with_top_k_and_never_sorts():
    arguments = (
        jax.ShapeDtypeStruct((8, 32768), jnp.float32),
        jax.ShapeDtypeStruct((8, 2), jnp.uint32),
        jax.ShapeDtypeStruct((8,), jnp.float32),
        jax.ShapeDtypeStruct((8,), jnp.int32),
    )
    text = jax.jit(functools.partial(kernels.sample, impl="xla")).lower(*arguments).compile()
    text = text.as_text()
    assert "TopK" in text
    assert " sort(" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid_vocab": 0}, r"valid_vocab is 0; it must lie in 1\.\.50"),
        ({"valid_vocab": 51}, r"valid_vocab is 51; it must lie in 1\.\.50"),
        ({"kmax": 0}, "kmax is 0; it must be at least 1"),
        ({"impl": "triton"}, "impl is 'triton'"),
        ({"noise": "normal"}, "noise is 'normal'; choose one of"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        kernels.sample(jnp.zeros((2, 50)), cases.row_keys(0, 2), jnp.ones(2), **changes)


def test_half_precision_other_than_bfloat16_is_refused():
    with pytest.raises(ValueError, match="logits are float16; cast them"):
        kernels.sample(jnp.zeros((2, 50), jnp.float16), cases.row_keys(0, 2), jnp.ones(2))
