"""The tolerances of the suite: no order of a sum goes beyond them, and a mistake does."""

import numpy as np
import pytest

from tests import builders
from tests.rounding import assert_near, assert_tensors_near, depth_of_forward, most_apart

pytestmark = pytest.mark.numerical


def sums(terms_N, rng):
    """The sum in other orders and by lanes, as processors and compilers choose."""
    yield np.cumsum(terms_N, dtype=terms_N.dtype)[-1]
    yield np.cumsum(terms_N[::-1], dtype=terms_N.dtype)[-1]
    yield np.cumsum(rng.permutation(terms_N), dtype=terms_N.dtype)[-1]
    for lanes in (4, 8, 16):
        by_lane = np.cumsum(terms_N.reshape(-1, lanes), axis=0, dtype=terms_N.dtype)[-1]
        yield np.cumsum(by_lane, dtype=terms_N.dtype)[-1]


@pytest.mark.parametrize("count", [16, 400, 4096])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_order_of_a_sum_goes_beyond(dtype, count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        terms_N = rng.standard_normal(count).astype(dtype)
        size = np.abs(np.cumsum(terms_N.astype(np.float64))).max()
        exact = terms_N.astype(np.float64).sum()
        for found in sums(terms_N, rng):
            assert abs(found - exact) <= most_apart(count, size, dtype)


def test_the_bound_is_that_of_its_example_and_short_sums_have_no_square_root():
    assert most_apart(400, 3) == pytest.approx(80 * 2**-23 * 3)
    assert most_apart(9, 2, "bfloat16") == 9 * 2**-7 * 2


def test_what_is_no_rounding_is_seen():
    depth = depth_of_forward(builders.MODEL, 32)
    right = np.linspace(-2, 2, 64)
    assert_near(right + 1e-6, right, depth)
    assert_tensors_near({"a": right * (1 + 1e-6)}, {"a": right}, depth)
    for wrong in (right + 1e-4, np.where(right > 1.9, np.nan, right), right[::-1]):
        with pytest.raises(AssertionError):
            assert_near(wrong, right, depth)
        with pytest.raises(AssertionError, match="'a'"):
            assert_tensors_near({"a": wrong}, {"a": right}, depth)
