"""Sampling kernels: one function, one contract, one place that chooses the implementation.

Axes of this room, instead of the project's: B rows, V vocabulary, W columns of a window, N blocks
of columns, M tiles, T tiles of a block, C columns of a tile or block, I noise indices, P pairs of
noise indices, R rows of one turn of the exact path, S shards of the vocabulary (in `attention`
queries of a key-value head: tokens of all its attention heads), L tokens, A attention heads,
G key-value heads, E head width.
"""

import functools

import jax
import jax.numpy as jnp
from beartype import beartype
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, UInt32, jaxtyped

from bstar_jax import sharding
from bstar_jax.kernels import contract, pallas_gpu, pallas_tpu, sharded, xla
from bstar_jax.kernels.contract import Sample

__all__ = ["Sample", "sample"]

_KERNELS = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}
_IMPLEMENTATIONS = ("auto", "xla", *_KERNELS)
_NOISE_KINDS = ("gumbel", "icdf")
_LOGIT_TYPES = (jnp.float32, jnp.bfloat16)


@jaxtyped(typechecker=beartype)
def sample(
    logits_BV: Float[Array, "B V"],
    row_keys_B2: UInt32[Array, "B 2"],
    temperature_B: Float[Array, " B"],
    top_k_B: Int[Array, " B"] | None = None,
    top_p_B: Float[Array, " B"] | None = None,
    min_p_B: Float[Array, " B"] | None = None,
    *,
    valid_vocab: int | None = None,
    kmax: int = 64,
    impl: str = "auto",
    noise: str = "gumbel",
) -> Sample:
    """Draws one token a row, each row at its own temperature and truncation.

    The distribution of row b is softmax(x / T) over the columns that all truncations keep, taken
    in the order top-k, temperature, top-p, min-p:

        top-k    x >= the k-th largest logit
        top-p    the mass strictly above x is less than top_p of what top-k kept
        min-p    exp((x - max x) / T) >= min_p

    Columns of equal logit stay or go together. The token is the argmax of x / T + g with Gumbel
    noise g; in rows without top-k and with more than 1,024 columns, first of blocks of 256 columns
    by log-mass, then of the columns of the block (see `contract`). Noise is a function of the
    row's key and the column alone, so batch, order, padding, `kmax` and `impl` change no token,
    rounding aside: implementations may differ where two scores are a few ulp apart.

    Under a mesh every device draws its own rows. Where `tensor` spreads the columns, as it does a
    vocabulary padded to a multiple of 256 x tensor, it draws from its own columns, by XLA code
    whatever `impl` says, and the logits stay where they are; other widths, and noise "icdf", gather
    them first.

    Example: logits [[0., 2., 1.]], temperature [0.] -> token [1], log-probability [-0.4076].
    Logits [[0., 2., 1.]], temperature [1.], top_k [2] -> token 1 with probability 0.731, else 2.

    NaN logits are never drawn and make the row's log-probability NaN; -inf ones are never drawn
    unless the row has no other (then token 0, log-probability NaN).

    Args:
        logits_BV: float32 or bfloat16 logits.
        row_keys_B2: Raw threefry keys, one a row, the position of the token folded in: rows that
            share a key share their noise.
        temperature_B: 0 and below is greedy: the first of the largest logits.
        top_k_B: Columns kept; 0 and below, or V and above, keeps all. None: off for every row.
        top_p_B: Share of the mass kept, in (0, 1]. None: off for every row.
        min_p_B: Smallest probability kept as a share of the largest, in [0, 1]. None: off.
        valid_vocab: The true vocabulary V; columns from it on are padding. None: all columns.
        kmax: The largest top-k that the quick path is sized for. Larger ones are slower.
        impl: "xla", "pallas_tpu", "pallas_gpu", or "auto": the TPU kernel where the mesh in
            force, or else the default backend, is of TPUs and the kernel supports the case; XLA
            otherwise. The GPU kernel is chosen only by name, until it is measured to win.
        noise: "gumbel", or "icdf", which draws rows without top-k by inverse CDF instead: the same
            distribution from two uniforms a row, other tokens.

    Returns:
        Tokens in [0, V), their log-probabilities at temperature 1 without truncation, and which
        rows needed the slower exact path.

    Raises:
        ValueError: If `valid_vocab`, `kmax`, `impl`, `noise` or the logits' type is out of range,
            or the kernel that `impl` names does not support the case.
    """
    width = logits_BV.shape[1]
    vocab = width if valid_vocab is None else valid_vocab
    if not 1 <= vocab <= width:
        raise ValueError(f"valid_vocab is {vocab}; it must lie in 1..{width}, the logits' columns")
    if kmax < 1:
        raise ValueError(f"kmax is {kmax}; it must be at least 1 (64 suits top-k up to 64)")
    if noise not in _NOISE_KINDS:
        raise ValueError(f"noise is {noise!r}; choose one of {_NOISE_KINDS}")
    if logits_BV.dtype not in _LOGIT_TYPES:
        raise ValueError(f"logits are {logits_BV.dtype}; cast them to float32 or bfloat16")
    if top_k_B is not None:
        top_k_B = top_k_B.astype(jnp.int32)
    rows = contract.Rows(row_keys_B2, temperature_B.astype(jnp.float32), top_k_B, top_p_B, min_p_B)
    impl = _choose(impl, rows, vocab, noise)
    return _sample(logits_BV, rows, vocab=vocab, kmax=kmax, impl=impl, noise_kind=noise)


def _choose(impl: str, rows: contract.Rows, vocab: int, noise: str) -> str:
    """The one place that chooses an implementation."""
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; choose one of {_IMPLEMENTATIONS}")
    if impl == "auto":
        is_for_tpu = _platform() == "tpu" and contract.suits_kernels(rows, vocab, noise)
        return "pallas_tpu" if is_for_tpu else "xla"
    if impl in _KERNELS and not contract.suits_kernels(rows, vocab, noise):
        raise ValueError(
            f"impl is {impl!r}, which draws neither with top-p, min-p or noise='icdf' nor from "
            f"{contract.DENSE_VOCAB} columns or fewer; choose impl='auto'"
        )
    return impl


def _platform() -> str:
    """The platform a program is traced for: that of the mesh in force, which need not be here."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.abstract_device is None:
        return jax.default_backend()
    return mesh.abstract_device.platform


@functools.partial(jax.jit, static_argnames=("vocab", "kmax", "impl", "noise_kind"))
def _sample(logits_BV, rows, *, vocab, kmax, impl, noise_kind) -> Sample:
    on_xla = functools.partial(xla.sample, vocab=vocab, kmax=kmax, noise_kind=noise_kind)
    draw = on_xla
    if impl in _KERNELS:
        draw = functools.partial(_KERNELS[impl].sample, vocab=vocab, kmax=kmax)

    # Under a mesh every device draws its own rows: a kernel is not partitioned by the compiler, and
    # no row should wait for the exact path of another device's row.
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return draw(logits_BV, rows)
    batch, columns = sharding.spec(("batch", "vocab"), sharding.SAMPLING)
    is_spread = logits_BV.shape[0] % sharding.row_shards(mesh) == 0
    by_row = PartitionSpec(batch if is_spread else None)
    if sharded.supports(logits_BV.shape[1], mesh.shape[columns], noise_kind):
        draw = functools.partial(sharded.sample, vocab=vocab, kmax=kmax, axis=columns)
        in_specs = (PartitionSpec(*by_row, columns), by_row)
    elif is_spread:
        in_specs = (by_row, by_row)
    else:
        return on_xla(logits_BV, rows)
    return jax.shard_map(draw, in_specs=in_specs, out_specs=by_row, check_vma=False)(
        logits_BV, rows
    )
