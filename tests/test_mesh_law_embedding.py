"""A table that devices hold parts of is read as one that a device holds whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bstar_jax import sharding
from bstar_jax.model.embedding import look_up
from tests import builders
from tests.rounding import assert_near
from tests.test_mesh_law import MESHES

pytestmark = pytest.mark.numerical

ROWS, LENGTH, WORDS, WIDTH = 8, 5, 48, 16


def arrays():
    """A table, tokens with repeats, and what a loss would say of every result."""
    rng = np.random.default_rng(0)
    table_VD = jnp.asarray(rng.standard_normal((WORDS, WIDTH)), jnp.float32)
    tokens_BL = jnp.asarray(rng.integers(0, WORDS, (ROWS, LENGTH)), jnp.int32)
    tokens_BL = tokens_BL.at[:, 0].set(7).at[:, 1].set(WORDS - 1)
    change_BLD = jnp.asarray(rng.standard_normal((ROWS, LENGTH, WIDTH)), jnp.float32)
    return table_VD, tokens_BL, change_BLD


def placed(mesh, is_stored):
    table_VD, tokens_BL, change_BLD = arrays()
    table = sharding.STORAGE if is_stored else sharding.SAMPLING
    (place,) = sharding.shardings(mesh, [0], [("vocab", "width")], table)
    return jax.device_put(table_VD, place), *sharding.put_rows(mesh, (tokens_BL, change_BLD))


@functools.partial(jax.jit, static_argnames=("dtype", "is_stored"))
def read(table_VD, tokens_BL, change_BLD, *, dtype, is_stored):
    """The embeddings, and the table's gradient of their product with `change_BLD`."""

    def total(table_VD):
        found_BLD = look_up(table_VD, tokens_BL, dtype, is_stored=is_stored)
        return jnp.sum(found_BLD.astype(jnp.float32) * change_BLD), found_BLD

    (_, found_BLD), gradient_VD = jax.value_and_grad(total, has_aux=True)(table_VD)
    return found_BLD, gradient_VD


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_rows_are_the_same_bits_and_gradients_the_same_sums(sizes, is_stored, dtype):
    table_VD, tokens_BL, change_BLD = arrays()
    mesh = builders.mesh(*sizes)
    with jax.set_mesh(mesh):
        found_BLD, gradient_VD = read(*placed(mesh, is_stored), dtype=dtype, is_stored=is_stored)
    np.testing.assert_array_equal(found_BLD, table_VD[tokens_BL].astype(dtype))
    # Training adds up in f32 whatever it computes in.
    change_BLD = change_BLD.astype(dtype).astype(jnp.float32)
    expected_VD = np.zeros((WORDS, WIDTH))
    np.add.at(expected_VD, np.asarray(tokens_BL), np.asarray(change_BLD, np.float64))
    assert_near(gradient_VD, expected_VD, ROWS * LENGTH)


@pytest.mark.parametrize("sizes", [None, (1, 1, 1), (8, 1, 1)], ids=str)
def test_a_table_that_lies_whole_is_read_by_a_plain_gather(sizes):
    """Runs on one device keep their bytes."""
    table_VD, tokens_BL, _ = arrays()
    plain = jax.make_jaxpr(lambda table_VD: table_VD[tokens_BL].astype("bfloat16"))(table_VD)
    looked_up = functools.partial(look_up, tokens_BL=tokens_BL, dtype="bfloat16", is_stored=True)
    mesh = builders.mesh(*sizes or (1, 1, 1))
    with jax.set_mesh(mesh) if sizes else jax.named_scope("no mesh"):
        assert str(jax.make_jaxpr(looked_up)(table_VD)) == str(plain)
