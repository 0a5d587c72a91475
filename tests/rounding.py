"""How far apart two right answers may lie: derived from the arithmetic, not fitted to a machine.

Every rounding moves a number by at most u = eps / 2 of its size. A value that `depth` roundings
lead to, each of a random sign, strays by about sqrt(depth) u, and hardly ever by four times that
(Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41,
2019). A processor chooses the order of the sums, the length of its vectors and whether a product
and a sum are rounded once or twice, but not how many terms there are. So two programs that
compute the same may differ by

    2 * u * min(depth, 4 sqrt(depth)) * size = eps * min(depth, 4 sqrt(depth)) * size

where `size` is that of the largest terms that are added up, and `depth` the number of terms on the
longest way from an input to the value. A test states the depth of what it compares.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bstar_jax.config import ModelConfig


def most_apart(depth: int, size: float = 1.0, dtype="float32") -> float:
    """The most by which two right values of this depth and size may differ.

    Example: logits of size 3 after sums of 400 terms: 80 * 2^-23 * 3 = 2.9e-5.
    """
    return float(jnp.finfo(dtype).eps) * min(depth, 4 * math.sqrt(depth)) * size


def depth_of_forward(config: ModelConfig, length: int) -> int:
    """Terms that are added up one after the other on the way from a token to its logit.

    A layer adds up the width for its two norms, its projections and its gates, a head's width for
    the scores, the length twice (the softmax and the mix), the heads, and the feed-forward.
    """
    width, head_width = config.width, config.width_per_head
    attention = 2 * width + head_width + 2 * length + config.heads * head_width
    feed_forward = 2 * width + config.feed_forward
    return config.layers * (attention + feed_forward) + 2 * width


def depth_of_gradient(config: ModelConfig, rows: int, length: int) -> int:
    """The same for a gradient: there, back, and the sum over all tokens of the batch."""
    return 2 * depth_of_forward(config, length) + config.vocab_size + rows * length


def assert_near(got, expected, depth, *, size=None, dtype="float32", message=""):
    """Asserts that two arrays are the same but for rounding, element by element.

    Args:
      got: An array.
      expected: The array that it ought to be.
      depth: Terms that are added up on the longest way to an element.
      size: Of the largest terms; the largest element of `expected` by default.
      dtype: In which the sums are rounded.
      message: Names what is compared.
    """
    got, expected = (np.asarray(each, np.float64) for each in (got, expected))
    size = np.abs(expected).max(initial=0, where=np.isfinite(expected)) if size is None else size
    atol = most_apart(depth, size, dtype)
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol, err_msg=message)


def assert_tensors_near(got, expected, depth, *, dtype="float32"):
    """Asserts ||a - b|| <= most_apart ||b|| for every tensor of two trees."""
    most = most_apart(depth, 1.0, dtype)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(part, np.float64) for part in (a, b))
        assert np.linalg.norm(a - b) <= most * np.linalg.norm(b), jax.tree_util.keystr(path)
