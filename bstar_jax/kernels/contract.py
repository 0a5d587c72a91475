"""What every sampling kernel agrees on: the result, the rows' settings, the draw rule.

How a row draws is a function of the true vocabulary and of whether its top-k is off:

*   top-k on, or V <= DENSE_VOCAB: Gumbel-max over the kept columns;
*   top-k off and V larger: Gumbel-max over blocks of BLOCK columns by their log-mass, then over
    the columns of the block that won. The two draws are independent, so the token has the
    distribution of a Gumbel-max over all columns, for V / BLOCK + BLOCK draws instead of V.

Axes of this room: B rows, V vocabulary, I noise indices, N blocks, M tiles, C columns of a tile
or a block, W window, R rows of one turn of the exact path, S shards of the vocabulary.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

BLOCK = 256
"""Columns of a block. A part of the draw rule: to change it changes every token drawn."""

DENSE_VOCAB = 1024
"""Largest vocabulary, in columns, whose rows without top-k draw over all columns at once."""

COLUMN_STREAM, BLOCK_STREAM, CDF_STREAM = 0, 1, 2
"""High counter words: what a draw is for, so that no two draws of a row share noise."""

MIN_TEMPERATURE = 1e-30
"""Below it a temperature cannot be told from greedy in f32, and its inverse would overflow."""


class Sample(NamedTuple):
    """A token for every row, and what is known about it.

    Attributes:
        token_B: The column drawn, in [0, V).
        logprob_B: Its log-probability in nats at temperature 1 over the full vocabulary, whatever
            the truncation; NaN where the row holds a NaN or +inf, or no finite logit.
        status_B: 0 where the quick path proved its result, 1 where the exact path was needed,
            which is slower and as right. Up to DENSE_VOCAB columns there is one path: all are 0.
    """

    token_B: Int[Array, " B"]
    logprob_B: Float[Array, " B"]
    status_B: Int[Array, " B"]


class Rows(NamedTuple):
    """How each row draws; None where a truncation is off for every row.

    Attributes:
        keys_B2: Threefry keys, the position already folded in.
        temperature_B: 0 and below is greedy.
        top_k_B: Columns kept; 0 and below, or V and above, keeps all.
        top_p_B: Share of the mass kept, in (0, 1]; 1 keeps all.
        min_p_B: Smallest probability kept, as a share of the largest, in [0, 1]; 0 keeps all.
    """

    keys_B2: UInt32[Array, "B 2"]
    temperature_B: Float[Array, " B"]
    top_k_B: Int[Array, " B"] | None
    top_p_B: Float[Array, " B"] | None
    min_p_B: Float[Array, " B"] | None

    @property
    def is_greedy_B(self) -> Bool[Array, " B"]:
        """Whether the row takes the first of its largest logits."""
        return ~(self.temperature_B > 0)

    @property
    def inverse_B(self) -> Float[Array, " B"]:
        """1 / T, computed once a row so that every kernel multiplies by the same number.

        Example: T = 0.5 -> 2; T = 0 -> 1e30, at which only the largest logits have mass.
        """
        return 1.0 / jnp.maximum(self.temperature_B, MIN_TEMPERATURE)

    def has_top_k_B(self, vocab: int) -> Bool[Array, " B"]:
        """Whether the row's top-k leaves anything out."""
        if self.top_k_B is None:
            return jnp.zeros(self.temperature_B.shape, bool)
        return (self.top_k_B > 0) & (self.top_k_B < vocab)

    @property
    def may_cut_mass(self) -> bool:
        """Whether any row can have top-p or min-p: False spares the compiled program both."""
        return self.top_p_B is not None or self.min_p_B is not None

    def has_mass_cut_B(self) -> Bool[Array, " B"]:
        """Whether the row's top-p or min-p leaves anything out."""
        is_cut_B = jnp.zeros(self.temperature_B.shape, bool)
        if self.top_p_B is not None:
            is_cut_B |= self.top_p_B < 1
        if self.min_p_B is not None:
            is_cut_B |= self.min_p_B > 0
        return is_cut_B & ~self.is_greedy_B


def suits_kernels(rows: Rows, vocab: int, noise_kind: str) -> bool:
    """Whether the Pallas kernels draw such rows: no top-p, no min-p, and V above DENSE_VOCAB."""
    has_mass_cut = rows.top_p_B is not None or rows.min_p_B is not None
    return vocab > DENSE_VOCAB and noise_kind == "gumbel" and not has_mass_cut
