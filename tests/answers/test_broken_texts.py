"""No text breaks a reader: each is read, or it is not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bstar_jax.answers.mathematics import algebra, notation
from bstar_jax.answers.mathematics.verifier import canonical, quick, read
from bstar_jax.answers.stated import answers_equal, stated_answer

MARKER = "# Answer"

# Texts that once raised an exception, by what they have in common, and others of their kinds.
BROKEN = [
    *(",123", r"\text{and}123", " , 123", "$,123$", ",123,456", ";123", "(,123)", r",123\pi"),
    *(r"\langle 1^\rangle", "(1^)", r"\{2_\}", r"[\frac1]", r"\begin{pmatrix}1^\end{pmatrix}"),
    *("x^[1]", "x^-(2)", "x^-{2}", r"x^\{1\}", r"\sqrt[3)", "1^-", "(1^-)", r"\frac[1]{2}{3}"),
    *(("√" * 20 + "(") * 30 + "2" + ")" * 30, "√" * 1999, r"\frac" * 300, "2^" * 900),
    *("x^{" * 31 + "}" * 31, r"\sqrt{" * 29 + "√" * 29 + "}" * 29, "^(" * 30 + ")" * 30),
]
PIECES = (
    r"\frac \sqrt ^ _ { } ( ) [ ] \{ \} \langle \rangle | \left( \right) , ; : . - + = < \leq \in "
    r"\cup \pm \infty \pi \cdot \text{and} \text{cm} \text{(C)} \text{5} \begin{pmatrix} & \\ ! /0 "
    r"\end{pmatrix} \boxed{ $ \( \) % \$ ° √ ² ½ ٣ − 10 123 1,234 0. .5 3/4 x f(x) \overline{3} ** "
    r"_{5} ^\circ \cdot10^{-999} p.m. or answer ` million squared"
).split()


@pytest.mark.parametrize("text", BROKEN)
def test_texts_that_broke_are_read_or_not(text):
    quick(text, "5")
    canonical(text)
    assert stated_answer("number", "####", f"#### {text}", "stop") is None
    assert algebra.verify((text, "5")) in ("wrong", "unparseable")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(1, 3), st.sampled_from([1, 40]))
def test_no_text_is_an_exception(pieces, parts, times):
    """Whatever the pieces of an answer, each reader reads it or does not, and brackets match."""
    text = "".join(pieces[:-parts]) + "".join(pieces[-parts:]) * times
    for answer in (text, read(f"{MARKER} {text}", MARKER), read(rf"\boxed{{{text}}}", MARKER)):
        if answer is not None:
            canonical(answer)
            quick(answer, r"\frac{x}{2}")
            assert quick(answer, answer) is not False
    found = notation.tokens(text)
    assert found is None or notation._balanced(found)
    for kind in ("number", "text"):
        stated = stated_answer(kind, "####", f"#### {text}", "stop")
        assert stated is None or answers_equal(kind, stated, stated)


def test_what_breaks_algebra_is_unparseable():
    assert algebra.verify((r"\sum_{n=1}^{\frac{2}{\infty}} n", r"\log x")) == "unparseable"
