"""Attention over whole sequences: one function, one contract, one place that chooses.

    token reads      its own text, up to itself; padding reads itself alone
    "xla"            the formula, as the compiler likes it: everywhere, every shape
    "cudnn"          flash attention of cuDNN, through `jax.nn.dot_product_attention`
    "splash"         the blockwise kernel for TPUs that comes with JAX

The kernels never write the scores [B, A, L, L] to memory; "xla" does.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from beartype import beartype
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_lib
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Bool, Float, Int, jaxtyped

from bstar_jax import sharding

_IMPLEMENTATIONS = ("auto", "xla", "cudnn", "splash")

SPLASH_BLOCKS = (512, 384, 256, 128)
"""Tokens of a block, the largest that divides the length, which is padded to the last of them."""

SPLASH_LENGTH = 2 * SPLASH_BLOCKS[-1]
"""Least length at which "auto" takes splash: below it there is no block that it could leave out."""


@jaxtyped(typechecker=beartype)
def attend_segments(
    query_BLAE: Float[Array, "B L A E"],
    key_BLGE: Float[Array, "B L G E"],
    value_BLGE: Float[Array, "B L G E"],
    segments_BL: Int[Array, "B L"],
    *,
    packed: bool = True,
    window: int = 0,
    cap: float = 0.0,
    impl: str = "auto",
) -> Float[Array, "B L A E"]:
    """Mixes the values of the tokens that each token may read, by softmax of scaled scores.

        mixed_l = sum_k softmax_k(score_lk) value_k,   k as in `causal_mask`
        score_lk = query_l . key_k / sqrt(E), or of that s, cap tanh(s / cap)

    Head a reads key-value head a // (A / G). Scores and their softmax are f32. Implementations
    differ by rounding; cuDNN may sum its gradients in another order from run to run.

    Example: one head of width 1, queries and keys [0., 0.], values [1., 3.], both tokens of
    segment 1 -> [1., 2.]; of segments 1 and 2 -> [1., 3.].

    Args:
      query_BLAE: Queries, their positions turned in.
      key_BLGE: Keys, their positions turned in.
      value_BLGE: Values.
      segments_BL: Which text a token belongs to, from 1; 0 is padding.
      packed: Whether rows may hold several texts. False says that every row is one text of
        segment 1 from the first column on, then padding: cuDNN then needs no mask.
      window: Tokens that one reads, itself included; 0 is all up to itself.
      cap: What no score reaches; 0 is none.
      impl: "xla", "cudnn", "splash", or "auto": what the devices of the mesh in force, or else
        of the default backend, have a kernel for, where it supports the case; XLA otherwise.

    Raises:
      ValueError: If `impl` is unknown, or does not support the case: which one, and why.
    """
    mesh = jax.sharding.get_abstract_mesh()
    is_spread = not (mesh.empty or mesh.manual_axes or mesh.size == 1)
    divides = not is_spread or _divides(mesh, query_BLAE.shape, key_BLGE.shape)
    _, length, _, width = query_BLAE.shape
    case = Case(
        _target(), query_BLAE.dtype.name, length, width, packed, divides, window > 0, cap > 0
    )
    impl = choose(impl, case)
    limits = {"window": window, "cap": cap}
    if impl == "xla":
        return by_xla(query_BLAE, key_BLGE, value_BLGE, segments_BL, window, cap)
    if impl == "splash":
        run = functools.partial(by_splash, **limits)
    else:
        run = functools.partial(by_cudnn, packed=packed, window=window)
    if is_spread:
        # A kernel is not partitioned by the compiler: each device has its rows and heads.
        place = functools.partial(sharding.spec, table=sharding.SAMPLING)
        query = place(("batch", "length", "heads", "head_width"))
        key = place(("batch", "length", "kv_heads", "head_width"))
        places = query, key, key, place(("batch", "length"))
        run = jax.shard_map(run, in_specs=places, out_specs=query, check_vma=False)
    return run(query_BLAE, key_BLGE, value_BLGE, segments_BL)


def causal_mask(segments_BL: Int[Array, "B L"], window: int = 0) -> Bool[Array, "B L L"]:
    """Token l reads tokens k <= l of its own segment, with a window those with l - k < window.

    segments 1 1 1 2 0      reads   x . . . .    and with a window of 2   x . . . .
                                    x x . . .                             x x . . .
                                    x x x . .                             . x x . .
                                    . . . x .                             . . . x .
                                    . . . . x    (0 is padding: it reads itself alone)
    """
    length = segments_BL.shape[1]
    below = jnp.tril(jnp.ones((length, length), bool))
    if window:
        below &= ~jnp.tril(below, -window)
    below = below[None]
    same = segments_BL[:, :, None] == segments_BL[:, None, :]
    real = (segments_BL > 0)[:, :, None]
    return (below & same & real) | jnp.eye(length, dtype=bool)[None]


# Which implementation.


@dataclasses.dataclass(frozen=True)
class Case:
    """What the choice depends on.

    Attributes:
      target: "tpu", "cuda" (NVIDIA's from Ampere on), or another platform's name.
      dtype: Of queries, keys and values.
      length: L.
      width: E.
      packed: Whether rows may hold several texts.
      divides: Whether the mesh in force cuts rows and heads evenly.
      windowed: Whether a token reads only so many before it.
      capped: Whether scores are capped.
    """

    target: str
    dtype: str
    length: int
    width: int
    packed: bool = True
    divides: bool = True
    windowed: bool = False
    capped: bool = False


def choose(impl: str, case: Case) -> str:
    """The one place that chooses an implementation.

    Example: "auto" on TPUs, 2,048 tokens of float32, heads 128 wide -> "splash".

    Raises:
      ValueError: If `impl` is unknown, or named and does not support the case.
    """
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; choose one of {_IMPLEMENTATIONS}")
    if impl == "auto":
        if case.target == "tpu" and case.length >= SPLASH_LENGTH and not _lacks("splash", case):
            return "splash"
        if case.target == "cuda" and not _lacks("cudnn", case):
            return "cudnn"
        return "xla"
    lacking = _lacks(impl, case)
    if lacking:
        raise ValueError(f"impl is {impl!r}, which {lacking}; choose impl='auto'")
    return impl


def _lacks(impl: str, case: Case) -> str:
    """Why an implementation cannot take the case; "" where it can."""
    if impl == "xla":
        return ""
    if not case.divides:
        return "needs rows and heads that the mesh in force divides"
    if impl == "splash":
        types = ("float32", "bfloat16")
        return "" if case.dtype in types else f"takes {types}, not {case.dtype}"
    types = ("bfloat16", "float16")
    if case.dtype not in types:
        return f"takes {types}, not {case.dtype}"
    if case.width % 8 or case.width > 128:
        return f"takes heads of 8, 16 ... 128 channels, not {case.width}"
    if case.packed and case.length % 2:
        return f"takes packed rows of even length, not {case.length}"
    if case.capped:
        return "takes no capped scores"
    return ""


def _target() -> str:
    """What a program is traced for, see `Case`; the mesh in force need not be here."""
    here = jax.local_devices()[0]
    mesh = jax.sharding.get_abstract_mesh()
    device = here if mesh.empty or mesh.abstract_device is None else mesh.abstract_device
    if not device.device_kind.startswith("NVIDIA"):
        return device.platform
    # A mesh knows the name of its devices only. Those that are elsewhere are taken as recent.
    is_here = device.device_kind == here.device_kind
    capability = float(here.compute_capability) if is_here else 8.0
    return "cuda" if capability >= 8.0 else device.platform


def _divides(mesh, query_shape, key_shape) -> bool:
    heads = query_shape[2] % mesh.shape["tensor"] + key_shape[2] % mesh.shape["tensor"]
    return query_shape[0] % sharding.row_shards(mesh) == 0 and heads == 0


# The implementations.


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def by_xla(query_BLAE, key_BLGE, value_BLGE, segments_BL, window: int = 0, cap: float = 0.0):
    """The formula; every score is computed, and those of what is not read become -inf.

    The backward pass computes the scores again from the logarithm of their mass. All products are
    of rows with columns, so that on CPUs no score is moved to be transposed: the heads of a group
    stand above one another, S = A / G x L rows.
    """
    return _xla_forward(query_BLAE, key_BLGE, value_BLGE, segments_BL, window, cap)[0]


_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _stacked(x_BLAE, groups: int):
    """[B, L, A, E] as [B, G, S, E]."""
    batch, length, heads, width = x_BLAE.shape
    x = x_BLAE.reshape(batch, length, groups, heads // groups, width)
    return x.transpose(0, 2, 3, 1, 4).reshape(batch, groups, -1, width)


def _unstacked(x_BGSE, length: int):
    """The inverse of `_stacked`."""
    batch, groups, rows, width = x_BGSE.shape
    x = x_BGSE.reshape(batch, groups, rows // length, length, width)
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, -1, width)


def _xla_scores(query_BGSE, key_BLGE, segments_BL, window, cap):
    """Scores [B, G, S, L], capped but not masked, and the mask that broadcasts to them."""
    scores_BGSL = capped(_product(query_BGSE, key_BLGE.transpose(0, 2, 3, 1)), cap)
    times = scores_BGSL.shape[2] // scores_BGSL.shape[3]
    return scores_BGSL, jnp.tile(causal_mask(segments_BL, window), (1, times, 1))[:, None]


def _xla_forward(query_BLAE, key_BLGE, value_BLGE, segments_BL, window, cap):
    _, length, _, width = query_BLAE.shape
    query_BGSE = _stacked(query_BLAE * width**-0.5, key_BLGE.shape[2])
    scores_BGSL, reads = _xla_scores(query_BGSE, key_BLGE, segments_BL, window, cap)
    scores_BGSL = jnp.where(reads, scores_BGSL, -jnp.inf)
    largest_BGS1 = jnp.max(scores_BGSL, axis=-1, keepdims=True)
    weights_BGSL = jnp.exp(scores_BGSL - largest_BGS1)
    mass_BGS1 = jnp.sum(weights_BGSL, axis=-1, keepdims=True)
    mixed_BGSE = _product(weights_BGSL.astype(value_BLGE.dtype), value_BLGE.transpose(0, 2, 1, 3))
    mixed_BLAE = _unstacked((mixed_BGSE / mass_BGS1).astype(query_BLAE.dtype), length)
    # Named, so that what keeps them need not attend again.
    mixed_BLAE = checkpoint_name(mixed_BLAE, "attention")
    log_mass_BGS1 = checkpoint_name(largest_BGS1 + jnp.log(mass_BGS1), "attention")
    kept = query_BLAE, key_BLGE, value_BLGE, segments_BL, mixed_BLAE, log_mass_BGS1
    return mixed_BLAE, kept


def _xla_backward(window, cap, kept, change_BLAE):
    query_BLAE, key_BLGE, value_BLGE, segments_BL, mixed_BLAE, log_mass_BGS1 = kept
    _, length, groups, width = key_BLGE.shape
    stack = functools.partial(_stacked, groups=groups)
    query_BGSE, change_BGSE = stack(query_BLAE * width**-0.5), stack(change_BLAE)
    scores_BGSL, reads = _xla_scores(query_BGSE, key_BLGE, segments_BL, window, cap)
    weights_BGSL = jnp.where(reads, jnp.exp(scores_BGSL - log_mass_BGS1), 0.0)
    wide = change_BGSE.astype(jnp.float32) * stack(mixed_BLAE).astype(jnp.float32)
    by_weights_BGSL = _product(change_BGSE, value_BLGE.transpose(0, 2, 3, 1))
    by_scores_BGSL = weights_BGSL * (by_weights_BGSL - jnp.sum(wide, axis=-1, keepdims=True))
    if cap:
        by_scores_BGSL *= 1.0 - (scores_BGSL / cap) ** 2
    by_scores_BGSL = by_scores_BGSL.astype(query_BLAE.dtype)
    by_query_BGSE = _product(by_scores_BGSL, key_BLGE.transpose(0, 2, 1, 3)) * width**-0.5

    def by_columns(rows_BGSE, scores_BGSL):
        turned_BGES = jax.lax.optimization_barrier(rows_BGSE.swapaxes(2, 3))
        return _product(turned_BGES, scores_BGSL).transpose(0, 3, 1, 2).astype(key_BLGE.dtype)

    return (
        _unstacked(by_query_BGSE, length).astype(query_BLAE.dtype),
        by_columns(query_BGSE, by_scores_BGSL),
        by_columns(change_BGSE, weights_BGSL.astype(change_BGSE.dtype)),
        None,
    )


by_xla.defvjp(_xla_forward, _xla_backward)


def capped(scores: jax.Array, cap: float) -> jax.Array:
    """Scores s as cap * tanh(s / cap); as they are where cap is 0. Source: arXiv:2408.00118."""
    return cap * jnp.tanh(scores / cap) if cap else scores


def by_cudnn(
    query_BLAE, key_BLGE, value_BLGE, segments_BL, packed: bool, window: int = 0, library="cudnn"
):
    """cuDNN's flash attention: by the rows' lengths, or packed by a mask [B, 1, L, L].

    With library="xla" the same call runs everywhere, so that a test can compare its results.
    """
    attend: Any = jax.nn.dot_product_attention
    flash = functools.partial(
        attend,
        query_BLAE,
        key_BLGE,
        value_BLGE,
        is_causal=True,
        implementation=library,
    )
    if packed:
        return flash(mask=causal_mask(segments_BL, window)[:, None])
    is_text_BL = segments_BL > 0
    # A row without text has one token that reads itself, like all padding.
    lengths_B = jnp.maximum(is_text_BL.sum(axis=1, dtype=jnp.int32), 1)
    mixed_BLAE = flash(
        query_seq_lengths=lengths_B,
        key_value_seq_lengths=lengths_B,
        local_window_size=(window - 1, 0) if window else None,
    )
    own_BLAE = jnp.repeat(value_BLGE, query_BLAE.shape[2] // value_BLGE.shape[2], axis=2)
    return jnp.where(is_text_BL[..., None, None], mixed_BLAE, own_BLAE)


def by_splash(
    query_BLAE,
    key_BLGE,
    value_BLGE,
    segments_BL,
    window: int = 0,
    cap: float = 0.0,
    interpret=False,
):
    """The TPU's kernel: blocks that nothing reads are left out, segments are compared inside."""
    _, length, heads, width = query_BLAE.shape
    missing = -length % SPLASH_BLOCKS[-1]
    padded = length + missing
    block = next(block for block in SPLASH_BLOCKS if padded % block == 0)
    names = ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")
    sizes: Any = {f"block_{name}": block for name in names}
    shape = (padded, padded)
    mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    kernel: Any = splash_lib.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash_lib.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap or None,
        interpret=interpret,
    )

    def by_head(part_BLAE):
        room = [(0, 0), (0, missing), (0, 0), (0, 0)]
        return jnp.pad(part_BLAE, room).transpose(0, 2, 1, 3)

    segments_BL = jnp.pad(segments_BL, [(0, 0), (0, missing)]).astype(jnp.int32)
    # Padding tokens are segments of their own, each another.
    alone_1L = -1 - jnp.arange(padded, dtype=jnp.int32)[None]
    segments_BL = jnp.where(segments_BL > 0, segments_BL, alone_1L)
    mixed_BALE = jax.vmap(kernel)(
        by_head(query_BLAE * width**-0.5),
        by_head(key_BLGE),
        by_head(value_BLGE),
        splash_lib.SegmentIds(segments_BL, segments_BL),
    )
    return mixed_BALE.transpose(0, 2, 1, 3)[:, :length]
