"""Sampling with the vocabulary spread over devices: the same tokens, and no logits on the move."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bstar_jax import kernels, sharding
from bstar_jax.kernels import contract
from tests import kernels_cases as cases

BY_ROW = PartitionSpec(("data", "fsdp"))
BY_COLUMN = PartitionSpec(("data", "fsdp"), "tensor")


def mesh_of(*shape):
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, sharding.MESH_AXES, (AxisType.Auto,) * 3, devices=devices)


def sample_on(mesh, logits_BV, *rows, vocab=None, **options):
    """Samples with logits padded as parameters are on a mesh, by what would win everywhere."""
    vocab = logits_BV.shape[1] if vocab is None else vocab
    padding = -vocab % (contract.BLOCK * mesh.shape["tensor"])
    logits_BV = jnp.pad(logits_BV, ((0, 0), (0, padding)), constant_values=99.0)
    with jax.set_mesh(mesh):
        is_even = len(logits_BV) % sharding.row_shards(mesh) == 0
        spread = BY_COLUMN if is_even else PartitionSpec(None, "tensor")
        logits_BV = jax.device_put(logits_BV, NamedSharding(mesh, spread))
        rows = jax.device_put(rows, NamedSharding(mesh, BY_ROW if is_even else PartitionSpec()))
        return kernels.sample(logits_BV, *rows, valid_vocab=vocab, **options)


# Tokens.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "vocab", "dtype", "truncations"),
    [
        ((1, 1, 2), 5000, jnp.float32, "all"),
        ((1, 2, 4), 5000, jnp.float32, "none"),
        ((1, 1, 8), 5000, jnp.float32, "all"),
        ((2, 1, 4), 20000, jnp.bfloat16, "top_k"),
        ((1, 1, 8), 20000, jnp.bfloat16, "all"),
        ((1, 1, 2), 700, jnp.float32, "all"),
        ((1, 1, 8), 700, jnp.float32, "top_k"),
    ],
)
def test_shards_draw_the_tokens_of_one_device(mesh_shape, vocab, dtype, truncations):
    rng = np.random.default_rng(vocab)
    rows = 64
    logits_BV = jnp.asarray(cases.hard_logits(rng, rows, vocab)).astype(dtype)
    keys_B2 = cases.row_keys(vocab, rows)
    temperature_B, top_k_B, top_p_B, min_p_B = cases.settings(rng, rows, vocab)
    cuts = {"none": (), "top_k": (top_k_B,), "all": (top_k_B, top_p_B, min_p_B)}[truncations]
    arguments = (logits_BV, keys_B2, temperature_B, *cuts)
    alone = kernels.sample(*arguments, impl="xla")
    spread = sample_on(mesh_of(*mesh_shape), *arguments)
    is_off_B = jnp.zeros(rows, jnp.int32) if truncations == "none" else top_k_B
    differing = cases.assert_same_tokens(spread, alone, *arguments[:3], is_off_B)
    assert differing <= 1
    is_same_B = np.asarray(spread.token_B == alone.token_B)
    cases.assert_near_logprobs(spread.logprob_B[is_same_B], alone.logprob_B[is_same_B], vocab)


@pytest.mark.slow
def test_rows_that_no_mesh_axis_divides_and_top_k_beyond_the_window_are_drawn_alike():
    rng = np.random.default_rng(6)
    logits_BV = jnp.asarray(2 * rng.standard_normal((7, 3000)), jnp.float32)
    temperature_B = jnp.asarray([1.0, 0.7, 0.0, 1.0, 1.0, 1.0, 1.0])
    top_k_B = jnp.asarray([0, 30, 0, 1, 64, 600, 2999], jnp.int32)
    rows = (cases.row_keys(2, 7), temperature_B, top_k_B)
    alone = kernels.sample(logits_BV, *rows, impl="xla")
    spread = sample_on(mesh_of(2, 1, 4), logits_BV, *rows)
    np.testing.assert_array_equal(spread.token_B, alone.token_B)
    np.testing.assert_array_equal(spread.status_B, [0, 0, 0, 0, 0, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [700, 3000])
def test_greedy_ties_and_nan_are_as_documented(vocab):
    logits_BV = np.zeros((6, vocab), np.float32)
    logits_BV[0, 600::3] = 3.0  # the first maximum is not in the first shard
    logits_BV[1] = np.where(np.arange(vocab) < 650, -0.0, 0.0)
    logits_BV[2, 25] = np.nan
    logits_BV[3] = -np.inf
    logits_BV[4] = np.nan
    logits_BV[5] = -np.inf
    logits_BV[5, vocab - 1] = -2.0
    temperature_B = jnp.asarray([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    for top_k in (0, 2):
        rows = (cases.row_keys(0, 6), temperature_B, jnp.full(6, top_k, jnp.int32))
        result = sample_on(mesh_of(1, 1, 4), jnp.asarray(logits_BV), *rows)
        np.testing.assert_array_equal(result.token_B, [600, 0, 0, 0, 0, vocab - 1])
        np.testing.assert_array_equal(np.isnan(result.logprob_B), [0, 0, 1, 1, 1, 0])
        assert result.logprob_B[5] == 0


# Distribution.


@pytest.mark.slow
@pytest.mark.optimized
def test_four_shards_have_the_distribution_claimed():
    vocab, turns = 1100, 4
    kinds = [(0.8, 0, 1.0, 0.0), (0.7, 30, 1.0, 0.0), (0.7, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.05)]
    logits_V = jnp.asarray(1.5 * np.random.default_rng(5).standard_normal(vocab), jnp.float32)
    mesh, draws = mesh_of(1, 2, 4), 4000
    kind_B = np.arange(draws) % len(kinds)
    settings = [
        jnp.asarray(column[kind_B], kind)
        for column, kind in zip(
            np.asarray(kinds).T, (jnp.float32, jnp.int32, jnp.float32, jnp.float32), strict=True
        )
    ]
    logits_BV = jnp.broadcast_to(logits_V[None, :], (draws, vocab))
    token_TB = np.stack(
        [
            sample_on(mesh, logits_BV, cases.row_keys(turn, draws), *settings).token_B
            for turn in range(turns)
        ]
    )
    for kind, cuts in enumerate(kinds):
        probability_V = cases.probability_by_numpy(logits_V, *cuts)
        cases.assert_distribution(token_TB[:, kind_B == kind].ravel(), probability_V)


# The compiled program.

_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast)"
    r"(-start)?\("
)


def collectives(text):
    """Of a compiled program: the lines of all collectives, and of those outside its loops."""
    lines_of, entry, name = {}, None, None
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) .*{$", line):
            name = header[2]
            entry = name if header[1] else entry
            lines_of[name] = []
        elif name:
            lines_of[name].append(line.split("metadata=")[0])
    outside = [entry]
    for name in outside:
        called = " ".join(line for line in lines_of[name] if " while(" not in line)
        called = set(re.findall(r"%([\w.\-]+)", called)) & set(lines_of)
        outside += sorted(called - set(outside))
    found = {name: list(filter(_COLLECTIVE.search, lines)) for name, lines in lines_of.items()}
    every = list(itertools.chain.from_iterable(found.values()))
    return every, [line for name in outside for line in found[name]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "cuts", "count"),
    [
        ((1, 1, 8), ("top_k",), 2),
        ((2, 2, 2), ("top_k",), 2),
        ((2, 2, 2), (), 2),
        ((2, 2, 2), ("top_k", "top_p"), 3),
    ],
)
def test_no_collective_is_as_wide_as_the_vocabulary(mesh_shape, cuts, count):
    rows, vocab, padded, kmax = 16, 32000, 32768, 64
    mesh = mesh_of(*mesh_shape)

    def place(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    arguments = [
        place((rows, padded), jnp.float32, BY_COLUMN),
        place((rows, 2), jnp.uint32, BY_ROW),
        place((rows,), jnp.float32, BY_ROW),
        place((rows,), jnp.int32, BY_ROW),
        place((rows,), jnp.float32, BY_ROW),
    ][: 3 + len(cuts)]
    with jax.set_mesh(mesh):
        draw = functools.partial(kernels.sample, valid_vocab=vocab, kmax=kmax)
        text = jax.jit(lambda *given: draw(*given)).lower(*arguments).compile().as_text()
    every, outside = collectives(text)
    assert len(outside) == count, outside
    largest = kmax + kmax // 8 + 2
    for line in every:
        for shape in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", line):
            sizes = [int(size) for size in shape.split(",")]
            assert max(sizes) <= largest, line
