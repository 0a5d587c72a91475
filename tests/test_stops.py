"""Stop strings end a response where they stand, however its text came in tokens."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bstar_jax.config import UserError
from bstar_jax.sampling.stops import automaton, cut

PIECES = [b"", b"a", b"b", b"ab", b"ba", b"bb", b"c", b"abca", b"\xc3", b"\xa9", b"b\xc3", b"bab"]
SOME_STOPS = st.lists(st.text("abcé", min_size=1, max_size=5), min_size=1, max_size=4)


def states(table_AV, tokens, state=0):
    """The state after every token."""
    seen = []
    for token in tokens:
        state = table_AV[state, token]
        seen.append(int(state))
    return seen


@given(SOME_STOPS, st.lists(st.integers(0, len(PIECES) - 1), max_size=30))
def test_it_is_done_from_the_token_that_completes_a_stop_string_on(stops, tokens):
    table_AV = automaton(PIECES, stops)
    done = [state == len(table_AV) - 1 for state in states(table_AV, tokens)]
    texts = [b"".join(PIECES[token] for token in tokens[: n + 1]) for n in range(len(tokens))]
    assert done == [any(stop.encode() in text for stop in stops) for text in texts]


@given(
    st.binary(max_size=60).map(lambda data: bytes(b"ab\n"[byte % 3] for byte in data)),
    st.lists(st.integers(0, 60), max_size=20),
    st.lists(st.text("ab\n", min_size=1, max_size=6), min_size=1, max_size=3),
)
def test_it_does_not_matter_where_a_text_is_cut_into_tokens(text, borders, stops):
    edges = sorted({0, len(text), *(border for border in borders if border < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    table_AV = automaton(pieces, stops)
    single_AV = automaton([bytes([byte]) for byte in range(256)], stops)
    for whole, piece in zip(table_AV.T, pieces, strict=True):
        for before in range(len(table_AV)):
            assert whole[before] == ([before, *states(single_AV, piece, before)])[-1]


@pytest.mark.parametrize(
    ("stops", "text", "done_after"),
    [
        (("ab",), (b"a", b"b", b"c"), 2),
        (("ab", "bab"), (b"b", b"b", b"ab"), 3),
        (("bab", "ab"), (b"bab",), 1),
        (("abc",), (b"abca", b"a"), 1),  # inside a token
        (("aabb",), (b"a", b"a", b"a", b"bb"), 4),  # across, after a false start
        (("bca",), (b"ab", b"c", b"a"), 3),  # at the end
        (("é",), (b"b\xc3", b"\xa9"), 2),  # a character in two tokens
        (("c", "abca"), (b"abca",), 1),
        (("abab",), (b"ab", b"c", b"ab"), 0),
    ],
)
def test_known_cases(stops, text, done_after):
    table_AV = automaton(PIECES, stops)
    seen = states(table_AV, [PIECES.index(piece) for piece in text])
    done = [n + 1 for n, state in enumerate(seen) if state == len(table_AV) - 1]
    assert (done or [0])[0] == done_after


def test_the_example_of_the_docstring():
    table_AV = automaton([b"a", b"b", b"ab", b"c"], ["ab"])
    np.testing.assert_array_equal(table_AV, [[1, 0, 2, 0], [1, 2, 2, 0], [2, 2, 2, 2]])
    assert table_AV.dtype == np.int32


def test_tokens_without_text_change_nothing_and_no_stop_strings_never_end():
    table_AV = automaton(PIECES, ["abc", "ca"])
    np.testing.assert_array_equal(table_AV[:, 0], np.arange(len(table_AV)))
    assert automaton(PIECES, []).tolist() == [[0] * len(PIECES), [1] * len(PIECES)]


def test_states_are_as_few_as_can_be():
    # "", a, ab, b, done: "bab" can only be begun, as "ab" ends it; "abcde" is over at "abc".
    assert len(automaton(PIECES, ["abc", "abcde", "bc"])) == 5
    assert len(automaton(PIECES, ["ab", "ab"])) == 3


def test_a_large_vocabulary_agrees_with_single_bytes():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 5000)
    pieces = [bytes(rng.choice(list(b"abc \n"), length).tolist()) for length in lengths]
    pieces[17] = b" " * 128
    stops = ["\n\n", "abc ab", " " * 20, "c\na"]
    table_AV = automaton(pieces, stops)
    single_AV = automaton([bytes([byte]) for byte in range(256)], stops)
    for before in range(len(table_AV)):
        expected = [([before, *states(single_AV, piece, before)])[-1] for piece in pieces]
        np.testing.assert_array_equal(table_AV[before], expected)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match=r"a stop string is empty, in \['a', ''\]"):
        automaton(PIECES, ["a", ""])


@pytest.mark.parametrize(
    ("text", "stops", "left"),
    [
        ("x = 7\n\nQ: 5", ("\nQ:", "\n\n"), "x = 7"),
        ("xbab", ("ab", "bab"), "x"),
        ("xabcd", ("abcd", "bc"), "xa"),
        ("abab", ("b",), "a"),
        ("end.", (".",), "end"),
        (".", (".",), ""),
        ("none", ("x", "nonee"), "none"),
        ("", ("x",), ""),
        ("all", (), "all"),
    ],
)
def test_cut(text, stops, left):
    assert cut(text, stops) == left


@given(SOME_STOPS, st.lists(st.sampled_from([b"a", b"b", b"ab", b"cab", "é".encode()])))
def test_what_is_drawn_after_a_stop_string_does_not_change_the_cut(stops, pieces):
    table_AV = automaton(pieces, stops)
    done = [state == len(table_AV) - 1 for state in states(table_AV, range(len(pieces)))]
    drawn = pieces[: done.index(True) + 1] if any(done) else pieces
    left = cut(b"".join(drawn).decode(), stops)
    assert left == cut(b"".join(pieces).decode(), stops)
    assert not any(stop in left for stop in stops)
