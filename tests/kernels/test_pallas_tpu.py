"""The TPU kernel: its tokens, interpreted on this machine; its program, compiled for TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import kernels
from bstar_jax.kernels import contract, pallas_tpu, reference
from tests import kernels_cases as cases
from tests import tpu_compiler


@functools.partial(jax.jit, static_argnames=("vocab", "kmax"))
def interpreted(logits_BV, rows, *, vocab, kmax=64):
    return pallas_tpu.sample(logits_BV, rows, vocab=vocab, kmax=kmax, interpret=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "padding", "dtype", "has_top_k"),
    [
        (4196, 64, jnp.float32, True),
        (4352, 0, jnp.bfloat16, True),
        (1100, 0, jnp.float32, True),
        # More than 128 blocks.
        (33_000, 0, jnp.float32, False),
    ],
)
def test_kernel_draws_the_tokens_of_the_reference(vocab, padding, dtype, has_top_k):
    rng = np.random.default_rng(vocab)
    rows = 52  # not a multiple of the eight rows that the kernel takes at once
    logits_BV = jnp.asarray(cases.hard_logits(rng, rows, vocab)).astype(dtype)
    keys_B2 = cases.row_keys(vocab, rows)
    temperature_B, top_k_B, _, _ = cases.settings(rng, rows, vocab)
    top_k_B = top_k_B if has_top_k else jnp.zeros_like(top_k_B)
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, padding)), constant_values=9.0)
    settings = contract.Rows(keys_B2, temperature_B, top_k_B if has_top_k else None, None, None)
    result = interpreted(padded_BV, settings, vocab=vocab)
    one_B = jnp.ones(rows)
    expected = jax.jit(reference.sample)(
        logits_BV, keys_B2, temperature_B, top_k_B, one_B, 0 * one_B
    )
    cases.assert_same_tokens(result, expected, logits_BV, keys_B2, temperature_B, top_k_B)
    cases.assert_near_logprobs(result.logprob_B, expected.logprob_B, vocab)
    # Up to 2,048 columns all are candidates.
    expects_any = has_top_k and vocab > 2048
    cases.assert_few_are_exact(result, temperature_B, top_k_B, vocab, expects_any=expects_any)


@pytest.mark.optimized
@pytest.mark.slow
def test_kernel_tokens_have_the_distribution_claimed_in_a_mixed_batch():
    def draw(logits_BV, *rows):
        settings = contract.Rows(*rows, None, None)
        return interpreted(logits_BV, settings, vocab=logits_BV.shape[1]).token_B

    # Interpreted, each step of the grid copies all rows.
    cases.assert_mixed_batch_distribution(draw, draws=24_000, size=400)


@pytest.mark.parametrize(
    ("vocab", "changes"),
    [(2000, {"top_p_B": jnp.ones(2)}), (2000, {"noise": "icdf"}), (500, {})],
)
def test_what_the_kernel_does_not_draw_is_refused_by_name_and_drawn_by_auto(vocab, changes):
    arguments = jnp.zeros((2, vocab)), cases.row_keys(0, 2), jnp.ones(2)
    with pytest.raises(ValueError, match="choose impl='auto'"):
        kernels.sample(*arguments, impl="pallas_tpu", **changes)
    by_xla = kernels.sample(*arguments, impl="xla", **changes)
    np.testing.assert_array_equal(kernels.sample(*arguments, **changes).token_B, by_xla.token_B)


@pytest.mark.slow
@tpu_compiler.needed
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2", "v5p:2x2x1"])
def test_kernel_compiles_for_tpus_that_are_not_here(topology):
    programs = tpu_compiler.programs("tests.kernels_tpu_compile", topology)
    assert [program["impl"] for program in programs] == ["pallas_tpu"] * 4 + ["auto"]
    for program in programs:
        assert program["kernels"] == 1, program
        assert program["sorts"] == program["gathers"] == 0, program
        # Nothing as large as a row of logits: they are read where they lie.
        assert program["temporary_bytes"] < 1 << 20, program
