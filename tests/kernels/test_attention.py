"""Attention over whole sequences is the formula, whichever library computes it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax.kernels import attention
from bstar_jax.kernels.attention import Case
from tests import tpu_compiler
from tests.rounding import assert_near

pytestmark = pytest.mark.numerical

SPLASH = functools.partial(attention.by_splash, interpret=True)


def segments(rows, length, packed=True):
    """Several texts and padding, a full row, a row of padding; or one text a row."""
    segments_BL = np.zeros((rows, length), np.int32)
    if packed:
        segments_BL[0, : length // 3] = 1
        segments_BL[0, length // 3 : length // 2] = 2
        segments_BL[0, length // 2 : -3] = 3
    else:
        segments_BL[0, : length // 2] = 1
    segments_BL[1] = 1
    return jnp.asarray(segments_BL)


def inputs(length, dtype=jnp.float32, heads=4, groups=2, width=8, seed=0):
    rng = np.random.default_rng(seed)

    def normal(count):
        return jnp.asarray(rng.standard_normal((3, length, count, width)), dtype)

    return normal(heads), normal(groups), normal(groups)


def by_hand(query_BLAE, key_BLGE, value_BLGE, segments_BL, window=0, cap=0.0):
    """Token by token and head by head, in f64."""
    query, key, value = (np.asarray(a, np.float64) for a in (query_BLAE, key_BLGE, value_BLGE))
    segments_BL = np.asarray(segments_BL)
    mixed = np.zeros_like(query)
    share = query.shape[2] // key.shape[2]
    for b, at, head in np.ndindex(query.shape[:3]):
        mine = segments_BL[b, at]
        first = max(at + 1 - window, 0) if window else 0
        mates = [k for k in range(first, at) if mine > 0 and segments_BL[b, k] == mine]
        reads = [*mates, at]
        scores = key[b, reads, head // share] @ query[b, at, head] / np.sqrt(query.shape[3])
        scores = cap * np.tanh(scores / cap) if cap else scores
        mass = np.exp(scores - scores.max())
        mixed[b, at, head] = mass / mass.sum() @ value[b, reads, head // share]
    return mixed


def gradients(run, parts, segments_BL):
    weights = jnp.asarray(np.random.default_rng(9).standard_normal(parts[0].shape), jnp.float32)

    def total(*parts):
        return (run(*parts, segments_BL) * weights).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*parts)


def depth(length, width=8):
    """Terms added up: a score's, the softmax's, the mix's."""
    return width + 2 * length


# The formula.


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (3, 1), (2, 2)])
def test_xla_is_the_formula_token_by_token(heads, groups):
    parts, segments_BL = inputs(13, heads=heads, groups=groups), segments(3, 13)
    got = jax.jit(attention.attend_segments)(*parts, segments_BL)
    assert_near(got, by_hand(*parts, segments_BL), depth(13))


@pytest.mark.parametrize(
    ("window", "rows"),
    [
        (0, ["x....", "xx...", "xxx..", "...x.", "....x"]),
        (2, ["x....", "xx...", ".xx..", "...x.", "....x"]),
        (5, ["x....", "xx...", "xxx..", "...x.", "....x"]),
    ],
)
def test_the_mask_is_what_its_docstring_draws(window, rows):
    mask_BLL = attention.causal_mask(jnp.asarray([[1, 1, 1, 2, 0]]), window)
    np.testing.assert_array_equal(mask_BLL[0], [[mark == "x" for mark in row] for row in rows])


LIMITS = pytest.mark.parametrize(
    "limits", [{"window": 3}, {"cap": 0.7}, {"window": 5, "cap": 0.7}], ids=str
)


@LIMITS
def test_windows_and_caps_are_the_formula_token_by_token(limits):
    parts, segments_BL = inputs(13), segments(3, 13)
    run = jax.jit(functools.partial(attention.attend_segments, **limits))
    assert_near(run(*parts, segments_BL), by_hand(*parts, segments_BL, **limits), depth(13))


@LIMITS
def test_splash_has_windows_and_caps(limits):
    parts, segments_BL = inputs(140), segments(3, 140)
    limits = {name: 20 * value if name == "window" else value for name, value in limits.items()}
    got = jax.jit(functools.partial(SPLASH, **limits))(*parts, segments_BL)
    expected = jax.jit(functools.partial(attention.by_xla, **limits))(*parts, segments_BL)
    assert_near(got, expected, depth(140))


@pytest.mark.parametrize("packed", [True, False])
def test_the_request_to_cudnn_has_the_window(packed):
    parts, segments_BL = inputs(14), segments(3, 14, packed)
    asked = functools.partial(attention.by_cudnn, packed=packed, window=4, library="xla")
    got = jax.jit(asked)(*parts, segments_BL)
    assert_near(got, by_hand(*parts, segments_BL, window=4), depth(14))


# Splash.


@pytest.mark.parametrize(
    ("length", "dtype"),
    [
        (140, jnp.float32),
        (256, jnp.bfloat16),
        pytest.param(600, jnp.float32, marks=pytest.mark.slow),  # five blocks of 128
    ],
)
def test_splash_equals_xla(length, dtype):
    parts, segments_BL = inputs(length, dtype), segments(3, length)
    got = jax.jit(SPLASH)(*parts, segments_BL)
    expected = jax.jit(attention.by_xla)(*parts, segments_BL)
    assert got.dtype == dtype
    # Sums are in f32 whatever the dtype; what goes into the two products and comes out is rounded.
    depth_of_dtype = depth(length) if dtype == jnp.float32 else 3
    assert_near(got, expected, depth_of_dtype, dtype=dtype)


@pytest.mark.slow
def test_splash_has_the_gradients_of_xla():
    parts, segments_BL = inputs(140, width=16), segments(3, 140)
    got = gradients(SPLASH, parts, segments_BL)
    expected = gradients(attention.by_xla, parts, segments_BL)
    for ours, theirs in zip(got, expected, strict=True):
        assert_near(ours, theirs, 2 * depth(140, width=16))


# cuDNN: what it is asked for, and that the request is made.


@pytest.mark.parametrize("packed", [True, False])
def test_the_request_to_cudnn_describes_the_same_attention(packed):
    parts, segments_BL = inputs(14), segments(3, 14, packed)
    asked = functools.partial(attention.by_cudnn, packed=packed, library="xla")
    got = jax.jit(asked)(*parts, segments_BL)
    assert_near(got, by_hand(*parts, segments_BL), depth(14))
    expected = gradients(attention.by_xla, parts, segments_BL)
    for ours, theirs in zip(gradients(asked, parts, segments_BL), expected, strict=True):
        assert_near(ours, theirs, 2 * depth(14))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("window", [0, 16])
def test_cudnn_is_called_for_gpus_that_are_not_here(monkeypatch, window, packed, dtype):
    # Lowering asks for the version of cuDNN, which is not installed where there is no GPU.
    version = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(version, lambda: 91000)
    parts, segments_BL = inputs(64, dtype), segments(3, 64, packed)
    run = functools.partial(attention.attend_segments, packed=packed, window=window, impl="cudnn")

    def forward_and_backward(*parts):
        mixed, back = jax.vjp(lambda *parts: run(*parts, segments_BL), *parts)
        return back(mixed)

    traced = jax.jit(forward_and_backward).trace(*parts)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    called = set(re.findall(r"@__cudnn\$(\w+)", text))
    name = "fmhaScaleBiasSoftmax" if packed else "fmhaSoftmax"
    assert called == {name, name + "Backward"}
    # One text a row is said by its length: nothing is as large as the scores.
    assert ("64x64x" in text) == packed


# The choice.

LONG = Case("tpu", "bfloat16", 2048, 128)
GPU = Case("cuda", "bfloat16", 2048, 128)


@pytest.mark.parametrize(
    ("case", "impl"),
    [
        (LONG, "splash"),
        (Case("tpu", "float32", 256, 96, packed=False), "splash"),
        (Case("tpu", "float32", 255, 96), "xla"),  # one block would hold it
        (Case("tpu", "float16", 2048, 128), "xla"),
        (Case("tpu", "bfloat16", 2048, 128, divides=False), "xla"),
        (GPU, "cudnn"),
        (Case("cuda", "float16", 6, 8), "cudnn"),
        (Case("cuda", "bfloat16", 7, 64, packed=False), "cudnn"),
        (Case("cuda", "bfloat16", 7, 64, packed=True), "xla"),
        (Case("cuda", "float32", 2048, 128), "xla"),
        (Case("cuda", "bfloat16", 2048, 100), "xla"),
        (Case("cuda", "bfloat16", 2048, 256), "xla"),
        (Case("cuda", "bfloat16", 2048, 128, divides=False), "xla"),
        (Case("gpu", "bfloat16", 2048, 128), "xla"),  # not NVIDIA's, or before Ampere
        (Case("cpu", "bfloat16", 2048, 128), "xla"),
    ],
    ids=str,
)
def test_auto_takes_a_kernel_where_there_is_one_for_the_case(case, impl):
    assert attention.choose("auto", case) == impl
    assert attention.choose("xla", case) == "xla"


@pytest.mark.parametrize(
    ("impl", "case", "message"),
    [
        ("flash", LONG, "impl is 'flash'; choose one of"),
        (
            "splash",
            Case("tpu", "float16", 256, 128),
            "'splash', which takes .* not float16; choose",
        ),
        ("cudnn", Case("cuda", "float32", 256, 128), "'cudnn', which takes .* not float32; choose"),
        ("cudnn", Case("cuda", "bfloat16", 256, 12), "heads of 8, 16 ... 128 channels, not 12"),
        ("cudnn", Case("cuda", "bfloat16", 255, 64), "packed rows of even length, not 255"),
        ("splash", Case("tpu", "float32", 256, 64, divides=False), "the mesh in force divides"),
    ],
)
def test_what_an_implementation_cannot_do_is_refused_with_the_reason(impl, case, message):
    with pytest.raises(ValueError, match=message):
        attention.choose(impl, case)


def test_wrong_shapes_are_refused_by_name():
    query, key, value = inputs(6)
    with pytest.raises(TypeError, match="segments_BL"):
        attention.attend_segments(query, key, value, jnp.ones((3, 5), jnp.int32))


# TPUs that are not here.


@pytest.mark.slow
@tpu_compiler.needed
def test_splash_compiles_for_tpus_that_are_not_here():
    programs = tpu_compiler.programs("tests.attention_tpu_compile", "v5e:2x2")
    *alone, long, short = programs
    assert len(alone) == 4
    for program in [*alone, long]:
        # Backward: the forward kernel, one for queries, one for keys and values.
        assert program["kernels"] == (3 if program["backward"] else 1), program
        assert program["gathers"] == 0, program
    assert (long["where"], long["backward"]) == ("mesh", True)
    assert short["kernels"] == short["gathers"] == 0, short
