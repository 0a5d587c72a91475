"""Answers are read exactly, or not at all."""

import fractions

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bstar_jax.answers.text import canonical_answer, last_boxed, parse_number, read_answer

NUMBERS = [
    ("7", 7),
    ("-7", -7),
    ("+7", 7),
    ("−7", -7),
    ("- 7", -7),
    ("007", 7),
    ("1,234", 1234),
    ("-1,234,567.50", fractions.Fraction(-2469135, 2)),
    ("3.0", 3),
    ("5.", 5),
    (".5", fractions.Fraction(1, 2)),
    ("-.25", fractions.Fraction(-1, 4)),
    ("0.1", fractions.Fraction(1, 10)),
    ("3/4", fractions.Fraction(3, 4)),
    ("-3 / 4", fractions.Fraction(-3, 4)),
    ("1 1/2", fractions.Fraction(3, 2)),
    ("-1 1/2", fractions.Fraction(-3, 2)),
    ("$18", 18),
    ("-$18", -18),
    ("$-18", -18),
    ("\\$18", 18),
    ("€ 3.20", fractions.Fraction(16, 5)),
    ("18$", 18),
    ("50%", 50),
    ("50 %", 50),
    ("72 clips", 72),
    ("72 clips.", 72),
    ("5 km/h", 5),
    ("5-year plan", 5),
    ("12 (eggs)", 12),
    ("2 million", 2_000_000),
    ("1.5 Thousand dollars", 1500),
    ("2 dozen eggs.", 24),
    ("5 a day", 5),
    ("5m", 5),
    ("20°C", 20),
    ("5 apples!", 5),
    ("3 trillion", 3 * 10**12),
    ("5 hundred thousand people", 500_000),
    ("5 dozens", 60),
    ("5-million", 5_000_000),
    ("5 square feet", 5),
    ("5 pieces and a plate", 5),
    ("**72**", 72),
    ("`72`", 72),
    ("$72$", 72),
]

NOT_NUMBERS = [
    "",
    " ",
    "x",
    "seven",
    "-",
    "$",
    ".",
    "7 8",
    "7 and 8",
    "3 + 4",
    "3+x",
    "5-6",
    "--5",
    "-$-5",
    "1,23",
    "1,2345",
    "12,345,67",
    ",123",
    "1/0",
    "1/2/3",
    "1.2.3",
    "10:30",
    "1e5",
    "x = 5",
    "5 = 5",
    "5 < x",
    "about 5",
    "5 squared",
    "5 square",
    "12 (dozen)",
    "5 (million)",
    "5 and a half",
    "5 million and a half",
    "2 and three quarters",
    "3½",
    "5²",
    "5 M",
    "5 (x)",
    "5 minus two",
    "5 point five",
    "5 below zero",
    "5 is wrong",
    "5 or more",
    "5x",
    "5 n",
    "10k",
    "5!",
    "2 thirds.",
    "٣",
    "5 well-" + "well-" * 38 + "known!-",
    "5 " + "a-" * 99,
    "9" * 10_000,
    "1/" + "9" * 10_000,
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_numbers_are_read_exactly(text, number):
    assert parse_number(text) == number
    assert parse_number(f"  {text}\n") == number


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_is_not_surely_one_number_is_none(text):
    assert parse_number(text) is None


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_and_currency_change_nothing(number):
    assert parse_number(str(number)) == parse_number(f"{number:,}") == number
    sign = "-" if number < 0 else ""
    assert parse_number(f"{sign}${abs(number):,} dollars.") == number


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9
    )
)
def test_decimals_are_read_without_rounding(number):
    assert parse_number(f"{number:f}") == fractions.Fraction(number)
    assert parse_number(f"{number:,f}") == fractions.Fraction(number)
    assert parse_number(f"{number:f}000 %") == fractions.Fraction(number)


@given(st.fractions(max_denominator=10**6))
def test_fractions_and_their_canonical_text_round_trip(number):
    assert parse_number(str(number)) == number
    assert canonical_answer("number", str(number)) == str(number)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_without_an_error(text):
    number = parse_number(text)
    assert number is None or isinstance(number, fractions.Fraction)
    if number is not None:
        assert any(character in "0123456789" for character in text)


@given(
    st.integers(0, 999), st.integers(0, 999), st.sampled_from([" ", " and ", "+", "-", "=", ":"])
)
def test_two_numbers_are_never_one(left, right, between):
    assert parse_number(f"{left}{between}{right}") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3+4=7\n#### 7", "7"),
        ("3+4=7\n####7 clips \n", "7 clips"),
        ("#### 7\n\n#### 8", "7"),
        ("#### 7\nQuestion: 8 and 9?", "7"),
        ("####\n\n7", "7"),
        ("#### ", None),
        ("####", None),
        ("The answer is 7", None),
        ("", None),
    ],
)
def test_the_first_marker_ends_the_solution(text, answer):
    assert read_answer(text, "####") == answer


def test_a_marker_may_be_a_heading():
    assert read_answer("a\n\nb\n\n# Answer\n\n3 cats\n", "# Answer") == "3 cats"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$\boxed{3}$, then $\boxed{5}$", "5"),
        (r"$\boxed 7$ apples", "7"),
        ("\\boxed 7\nand so on", "7"),
        (r"\boxed {8}", "8"),
        (r"\fbox{C}", "C"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x \right.}", r"\left\{x \right."),
        (r"\boxed{1 + \boxed{2}}", "2"),
        (r"\boxed{ }", None),
        (r"\boxed", None),
        (r"\boxed{1} \boxed{\frac{1}{2", None),
        (r"\boxedness{3}", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_last_box_is_read(text, answer):
    assert last_boxed(text) == answer


BALANCED = st.recursive(
    st.text("ab1 +\n$,", max_size=5) | st.just(r"\frac") | st.just(r"\{"),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: "{" + "".join(parts) + "}"),
    max_leaves=12,
)


@given(BALANCED, st.text("ab {}$", max_size=6), st.text("ab {}$", max_size=6))
def test_a_box_ends_where_its_brace_closes(content, before, after):
    text = f"{before}\\boxed{{{content}}}{after}"
    assert last_boxed(text) == (content.strip() or None)


@pytest.mark.parametrize(
    ("kind", "text", "canonical"),
    [
        ("number", "$1,200.00", "1200"),
        ("number", "3.50", "7/2"),
        ("number", "-0", "0"),
        ("number", "seven", None),
        ("number", None, None),
        ("text", " The  Moon. ", "the moon"),
        ("text", "B", "b"),
        ("text", " ", None),
        ("text", ".", None),
        ("text", None, None),
    ],
)
def test_canonical_answers(kind, text, canonical):
    assert canonical_answer(kind, text) == canonical


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'number' or 'text', not 'numbers'"):
        canonical_answer("numbers", "7")
