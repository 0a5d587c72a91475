"""Stop strings, seen while decoding: an automaton over tokens that the device can look up.

A stop string ends a response wherever it stands: inside a token, across several, in the middle of
the last. Its bytes are followed one by one, a token's bytes all at once: `table[state, token]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bstar_jax.config import UserError


def automaton(pieces: Sequence[bytes], stops: Sequence[str]) -> np.ndarray:
    """What has been seen of the stop strings after a token, for everything seen before it.

    A state is the longest end of the text that begins a stop string; state 0 is nothing, the last
    state that a stop string has been completed, which is never left. It is the automaton of Aho
    and Corasick (1975, doi:10.1145/360825.360855) over the bytes of the strings in UTF-8, with the
    steps of every token's bytes composed.

    Example: pieces (b"a", b"b", b"ab", b"c"), stops ("ab",): A = 3, states "", "a" and done,

        token     a  b  ab c
        ""      [[1, 0, 2, 0],
        "a"      [1, 2, 2, 0],
        done     [2, 2, 2, 2]]

    Args:
      pieces: The bytes that each of V tokens adds to a text, none for special tokens.
      stops: The stop strings.

    Returns:
      int32 [A, V].

    Raises:
      UserError: If a stop string is empty.
    """
    if not all(stops):
        raise UserError(
            f"a stop string is empty, in {list(stops)}: it would end every response before it "
            "begins; leave it out"
        )
    next_AC = _after_bytes([stop.encode() for stop in stops])
    lengths_V = np.array([len(piece) for piece in pieces], np.int64)
    # Longest tokens first: those with a byte at a position are the first ones.
    order_V = np.argsort(-lengths_V, kind="stable")
    starts_V = np.cumsum(lengths_V) - lengths_V
    data = np.frombuffer(b"".join(pieces), np.uint8)
    state_AV = np.repeat(np.arange(len(next_AC), dtype=np.int32)[:, None], len(pieces), axis=1)
    for position in range(lengths_V.max(initial=0)):
        longer = order_V[: np.count_nonzero(lengths_V > position)]
        byte = data[starts_V[longer] + position].astype(np.int32)
        cell = state_AV[:, : len(longer)] * 256 + byte
        state_AV[:, : len(longer)] = next_AC.ravel()[cell]
    table_AV = np.empty_like(state_AV)
    table_AV[:, order_V] = state_AV
    return table_AV


def after(table_AV: np.ndarray, tokens: Sequence[int]) -> int:
    """The state of an automaton once it has seen these tokens."""
    state = 0
    for token in tokens:
        state = int(table_AV[state, token])
    return state


def _after_bytes(stops: list[bytes]) -> np.ndarray:
    """The automaton over single bytes, int32 [A, 256]."""
    begun = {stop[:length] for stop in stops for length in range(len(stop))} | {b""}
    # What holds a stop string has ended before.
    states = sorted(prefix for prefix in begun if not any(stop in prefix for stop in stops))
    number = {prefix: state for state, prefix in enumerate(states)}
    done = len(states)
    next_AC = np.zeros((done + 1, 256), np.int32)
    next_AC[done] = done
    for state, prefix in enumerate(states):
        for byte in set(b"".join(stops)):
            text = prefix + bytes([byte])
            if text.endswith(tuple(stops)):
                next_AC[state, byte] = done
            else:
                ends = (text[start:] for start in range(len(text) + 1))
                next_AC[state, byte] = next(number[end] for end in ends if end in number)
    return next_AC


def cut(text: str, stops: Sequence[str]) -> str:
    r"""The text before the stop string that is completed first; all of it where there is none.

    Of several that end at the same place the longest counts, so that the result is the same
    however the text came in tokens.

    Example: cut("3 + 4 = 7\n\nQ: 5", ("\nQ:", "\n\n")) -> "3 + 4 = 7".
    """
    starts = [(text.find(stop), len(stop)) for stop in stops]
    found = [(start + length, start) for start, length in starts if start >= 0]
    return text[: min(found)[1]] if found else text
