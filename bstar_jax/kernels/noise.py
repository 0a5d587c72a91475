"""Counter-based noise: every number is a function of (row key, stream, index) alone.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), the generator behind `jax.random`. One call gives two words; index i takes word
(i // 128) % 2 of counter 128 * (i // 256) + i % 128, so that on hardware with 128 lanes two
neighbouring tiles share a call.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

_LANES = 128
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry2x32(
    key_words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
    counter_words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Encrypts a two-word counter under a two-word key, 20 rounds.

    Example: key (0, 0), counter (0, 0) -> (0x6b200159, 0x99ba4efe).
    """
    key_0, key_1 = key_words
    schedule = (key_0, key_1, key_0 ^ key_1 ^ key_0.dtype.type(_PARITY))
    word_0, word_1 = counter_words[0] + key_0, counter_words[1] + key_1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            word_0 = word_0 + word_1
            word_1 = word_0 ^ _rotate_left(word_1, rotation)
        word_0 = word_0 + schedule[(group + 1) % 3]
        word_1 = word_1 + schedule[(group + 2) % 3] + word_1.dtype.type(group + 1)
    return word_0, word_1


def _rotate_left(word, bits: int):
    left = lax.shift_left(word, jnp.full_like(word, bits))
    return left | lax.shift_right_logical(word, jnp.full_like(word, 32 - bits))


def bits_at(
    row_keys_B2: UInt32[Array, "B 2"], index_BI: Int[Array, "B I"], stream: int
) -> UInt32[Array, "B I"]:
    """Returns 32 random bits for each index, wherever it stands in the array."""
    return bits_of(_spread(row_keys_B2, index_BI.shape), index_BI, stream)


def bits_of(
    key_words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
    index: Int[Array, "..."],
    stream: int,
) -> UInt32[Array, "..."]:
    """Returns 32 random bits for each index under one key, or under a key of each index's own."""
    # In bits, as kernels have no cheap division: _LANES * (index // 256) + index % _LANES.
    counter = ((index >> 1) & -_LANES) + (index & (_LANES - 1))
    counter = counter.astype(jnp.uint32)
    word_0, word_1 = threefry2x32(key_words, (jnp.full_like(counter, stream), counter))
    return jnp.where(index & _LANES == 0, word_0, word_1)


def bits_span(
    row_keys_B2: UInt32[Array, "B 2"], first_B: Int[Array, " B"], count: int, stream: int
) -> UInt32[Array, "B I"]:
    """Returns the bits of `count` neighbouring indices from `first_B`, a multiple of 256.

    The same numbers as `bits_at`, from half the calls: both words of each are used.
    """
    # Up to one tile of indices takes first words only.
    pairs = count if count <= _LANES else -(-count // (2 * _LANES)) * _LANES
    first_BP = (first_B // 2).astype(jnp.uint32)[:, None]
    counter_BP = first_BP + jnp.arange(pairs, dtype=jnp.uint32)[None, :]
    keys = _spread(row_keys_B2, counter_BP.shape)
    words = threefry2x32(keys, (jnp.full_like(counter_BP, stream), counter_BP))
    if count <= _LANES:
        return words[0]
    tiles = [word.reshape(word.shape[0], -1, 1, _LANES) for word in words]
    return jnp.concatenate(tiles, axis=2).reshape(counter_BP.shape[0], 2 * pairs)[:, :count]


def _spread(row_keys_B2, shape):
    """Repeats the words of every row's key along the row."""
    words = [jnp.broadcast_to(row_keys_B2[:, i, None], shape) for i in (0, 1)]
    return words[0], words[1]


def uniform(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Maps bits to (bits + 1/2) / 2^32, at most 1 - 2^-24; small values keep all 32 bits."""
    # Two exact halves and one rounding: the same float on hardware without unsigned conversion.
    high = lax.shift_right_logical(bits, jnp.full_like(bits, 16)).astype(jnp.int32)
    low = (bits & bits.dtype.type(0xFFFF)).astype(jnp.int32)
    whole = high.astype(jnp.float32) * 65536.0 + low.astype(jnp.float32)
    return jnp.minimum((whole + 0.5) * 2.0**-32, 1.0 - 2.0**-24)


def gumbel(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Maps bits to standard Gumbel noise -log(-log(1 - u)), in [-2.82, 22.9].

    The winning side, small u, has all 32 bits: the rarest token is drawn as often as it should.
    """
    return -jnp.log(-jnp.log1p(-uniform(bits)))
