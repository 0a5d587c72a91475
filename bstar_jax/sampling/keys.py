"""Which random key a response draws with: a function of what it is, not of where it runs.

A row's key is folded from the seed over iteration, phase, the query's id and the sample
index; the index of the token is folded in while decoding. Temperature and top-k are not in
the key, so the cells of a grid share their noise and are compared in pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

PHASES = {"calibrate": 1, "generate": 2, "monitor": 3, "rationalize": 4, "prm": 5}


@dataclasses.dataclass(frozen=True)
class Keys:
    """Where in a run responses are drawn.

    Attributes:
      seed: The run's.
      iteration: From 0 (warm-up).
      phase: A name in `PHASES`.
    """

    seed: int
    iteration: int
    phase: str

    def rows(self, query_ids: list[str], sample_index_UR: np.ndarray) -> jax.Array:
        """Key data of every response, uint32 [U, R, 2].

        Args:
          query_ids: U ids.
          sample_index_UR: Index of each response among its query's.
        """
        base = jax.random.key(self.seed, impl="threefry2x32")
        base = jax.random.fold_in(jax.random.fold_in(base, self.iteration), PHASES[self.phase])
        return _fold_rows(base, id_words(query_ids), jnp.asarray(sample_index_UR, jnp.uint32))


def id_words(query_ids: list[str]) -> np.ndarray:
    """The first 8 bytes of SHA-256 of each id as two big-endian words, uint32 [U, 2]."""
    digests = [hashlib.sha256(query_id.encode()).digest()[:8] for query_id in query_ids]
    return np.frombuffer(b"".join(digests), dtype=">u4").astype(np.uint32).reshape(-1, 2)


@jax.jit
def _fold_rows(base, words_U2, sample_index_UR):
    def row(words, index):
        key = jax.random.fold_in(jax.random.fold_in(base, words[0]), words[1])
        return jax.random.key_data(jax.random.fold_in(key, index))

    return jax.vmap(jax.vmap(row, (None, 0)))(words_U2, sample_index_UR)


def at_token(key_data_B2: jax.Array, index_B: jax.Array) -> jax.Array:
    """Keys of each row's response token `index_B`, from 0: uint32 [B, 2]."""

    def fold(data, index):
        key = jax.random.wrap_key_data(data, impl="threefry2x32")
        return jax.random.key_data(jax.random.fold_in(key, index))

    return jax.vmap(fold)(key_data_B2, index_B)
