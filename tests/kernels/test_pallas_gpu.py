"""The GPU kernel: its tokens, interpreted on this machine; its program, lowered to Triton."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from bstar_jax import kernels, sharding
from bstar_jax.kernels import contract, pallas_gpu, reference
from tests import kernels_cases as cases


@functools.partial(jax.jit, static_argnames=("vocab", "kmax"))
def interpreted(logits_BV, rows, *, vocab, kmax=64):
    return pallas_gpu.sample(logits_BV, rows, vocab=vocab, kmax=kmax, interpret=True)


def by_reference(logits_BV, rows):
    off_B = jnp.zeros(logits_BV.shape[0])
    top_k_B = jnp.zeros_like(off_B, jnp.int32) if rows.top_k_B is None else rows.top_k_B
    settings = (rows.keys_B2, rows.temperature_B, top_k_B, 1 + off_B, off_B)
    return jax.jit(reference.sample)(logits_BV, *settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "padding", "dtype", "has_top_k"),
    [
        (4196, 60, jnp.float32, True),  # no multiple of a block of 256 columns
        (8193, 0, jnp.bfloat16, False),  # one column more than two slabs of 4,096
        (8192, 0, jnp.bfloat16, True),
        (1100, 0, jnp.float32, True),
        # More than 128 blocks, and than 256: both words of their noise, and its second counter.
        (70_001, 0, jnp.float32, False),
    ],
)
def test_kernel_draws_the_tokens_of_the_reference(vocab, padding, dtype, has_top_k):
    rng = np.random.default_rng(vocab)
    rows = 52
    logits_BV = jnp.asarray(cases.hard_logits(rng, rows, vocab)).astype(dtype)
    temperature_B, top_k_B, _, _ = cases.settings(rng, rows, vocab)
    settings = contract.Rows(
        cases.row_keys(vocab, rows), temperature_B, top_k_B if has_top_k else None, None, None
    )
    top_k_B = top_k_B if has_top_k else jnp.zeros_like(top_k_B)
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, padding)), constant_values=9.0)
    result = interpreted(padded_BV, settings, vocab=vocab)
    expected = by_reference(logits_BV, settings)
    cases.assert_same_tokens(result, expected, logits_BV, settings.keys_B2, temperature_B, top_k_B)
    cases.assert_near_logprobs(result.logprob_B, expected.logprob_B, vocab)
    # Up to 4,096 columns all are candidates.
    expects_any = has_top_k and vocab > 4096
    cases.assert_few_are_exact(result, temperature_B, top_k_B, vocab, expects_any=expects_any)


@pytest.mark.slow
@pytest.mark.parametrize("kmax", [1, 200])
def test_top_k_beyond_what_the_kernel_is_sized_for_draws_the_same_tokens(kmax):
    rng = np.random.default_rng(kmax)
    logits_BV = jnp.asarray(rng.standard_normal((16, 9000)), jnp.float32)
    top_k_B = jnp.asarray([1, 7, 24, 64, 200, 1024, 1025, 6000] * 2, jnp.int32)
    settings = contract.Rows(cases.row_keys(kmax, 16), jnp.ones(16), top_k_B, None, None)
    result = interpreted(logits_BV, settings, vocab=9000, kmax=kmax)
    expected = by_reference(logits_BV, settings)
    cases.assert_same_tokens(
        result, expected, logits_BV, settings.keys_B2, settings.temperature_B, top_k_B
    )
    status_B = np.asarray(result.status_B)
    assert not status_B[np.asarray(top_k_B) <= 7].any()
    assert status_B[np.asarray(top_k_B) == 6000].all()


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [0, 2])
def test_greedy_takes_the_first_maximum_and_nan_is_never_drawn(top_k):
    vocab = 5000
    logits_BV = np.zeros((9, vocab), np.float32)
    logits_BV[:2, 20::7] = 3.0
    logits_BV[2] = np.where(np.arange(vocab) < 30, -0.0, 0.0)
    logits_BV[3, [25, 4999]] = np.nan, 1.0
    logits_BV[4] = np.nan
    logits_BV[5] = -np.inf
    logits_BV[6:] = np.nan
    logits_BV[6, 4500] = -4.0
    logits_BV[7, [4200, 4999]] = -np.inf, 2.0
    logits_BV[8] = np.finfo(np.float32).min
    temperature_B = jnp.asarray([0, -1, 0, 0, 0, 1, 1, 1, 0], jnp.float32)
    top_k_B = jnp.full(9, top_k, jnp.int32)
    settings = contract.Rows(cases.row_keys(0, 9), temperature_B, top_k_B, None, None)
    result = interpreted(jnp.asarray(logits_BV), settings, vocab=vocab)
    np.testing.assert_array_equal(result.token_B, [20, 20, 0, 4999, 0, 0, 4500, 4999, 0])
    np.testing.assert_array_equal(jnp.isnan(result.logprob_B), [0, 0, 0, 1, 1, 1, 1, 1, 0])


@pytest.mark.optimized
@pytest.mark.slow
def test_kernel_tokens_have_the_distribution_claimed_in_a_mixed_batch():
    def draw(logits_BV, *rows):
        settings = contract.Rows(*rows, None, None)
        return interpreted(logits_BV, settings, vocab=logits_BV.shape[1]).token_B

    cases.assert_mixed_batch_distribution(draw, draws=24_000, size=4000)


def lowered_for_a_gpu(vocab, dtype, has_top_k, impl, width=None):
    """Returns the program that a GPU, which need not be here, would be given to compile."""
    shape = jax.ShapeDtypeStruct
    arguments = [
        shape((64, width or vocab), dtype),
        shape((64, 2), jnp.uint32),
        shape((64,), jnp.float32),
        *[shape((64,), jnp.int32)] * has_top_k,
    ]
    gpu = jax.sharding.AbstractDevice("NVIDIA H200", None, "gpu")
    mesh = jax.sharding.AbstractMesh(
        (1, 1, 1), sharding.MESH_AXES, (AxisType.Auto,) * 3, abstract_device=gpu
    )
    with jax.sharding.use_abstract_mesh(mesh):
        draw = functools.partial(kernels.sample, impl=impl, valid_vocab=vocab)
        program = jax.jit(draw).trace(*arguments)
        return program.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("vocab", "width"), [(32_768, None), (32_001, 32_256), (151_936, None)])
@pytest.mark.parametrize("has_top_k", [True, False])
def test_kernel_lowers_to_one_triton_program_and_no_sort(vocab, width, dtype, has_top_k):
    text = lowered_for_a_gpu(vocab, dtype, has_top_k, "pallas_gpu", width)
    assert text.count("xla.gpu.triton") == 1
    # All of the draw is in the kernel, which reads the logits where they lie.
    others = ("sort", "chlo.top_k", "stablehlo.gather", "stablehlo.while", "stablehlo.pad")
    assert not [name for name in others if name in text]


def test_kernel_lowers_where_no_row_is_aligned():
    assert "xla.gpu.triton" in lowered_for_a_gpu(32_001, jnp.bfloat16, True, "pallas_gpu")


def test_auto_leaves_gpus_to_xla():
    text = lowered_for_a_gpu(32_768, jnp.float32, True, "auto")
    assert "triton" not in text and "tpu_custom_call" not in text


@pytest.mark.parametrize(
    ("vocab", "changes"),
    [(2000, {"top_p_B": jnp.ones(2)}), (2000, {"noise": "icdf"}), (500, {})],
)
def test_what_the_kernel_does_not_draw_is_refused_by_name(vocab, changes):
    arguments = jnp.zeros((2, vocab)), cases.row_keys(0, 2), jnp.ones(2)
    with pytest.raises(ValueError, match="impl is 'pallas_gpu'.*choose impl='auto'"):
        kernels.sample(*arguments, impl="pallas_gpu", **changes)
