"""Mathematics is graded by what it says: never a wrong "equal", and few wrong "not equal"."""

import itertools
import json
import os
import pathlib
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bstar_jax.answers.mathematics import algebra
from bstar_jax.answers.mathematics.verifier import MathVerifier, canonical, quick, read

MARKER = "# Answer"

# Equal, and certainly so without algebra.
EQUAL_AT_ONCE = r"""
    0.5 ~ \frac12 ~ \frac{1}{2} ~ \dfrac 12 ~ 1/2 ~ .5 ~ $\frac{2}{4}$ ~ \frac{0.5}{1} ~ 0.50
    -\frac{1}{2} ~ \frac{-1}{2} ~ -0.5 ~ −1/2
    2\frac12 ~ 2.5 ~ 2 1/2 ~ \frac{5}{2} ~ 5/2
    10,\!080 ~ 10080 ~ 10,080 ~ 10{,}080 ~ 10\,080 ~ 10080.0 ~ \boxed{10080} ~ **10080**
    \$32,\!348 ~ 32348 ~ \$32,348.00 ~ $32348 ~ 32,348 dollars ~ 32348\text{ dollars}
    11,\! 111,\! 111,\! 100 ~ 11111111100
    .0000672 ~ 6.72 \times 10^{-5} ~ 6.72\cdot10^{-5}
    0.\overline{3} ~ 1/3 ~ \frac{2}{6}
    0.1\overline{6} ~ \frac16
    90^\circ ~ 90 ~ 90° ~ 90 degrees ~ 90\text{ degrees} ~ $90^{\circ}$.
    \frac{270}7\text{ degrees} ~ \frac{270}{7} ~ 38\frac{4}{7}
    50\% ~ 50 ~ 50 percent
    15\mbox{ cm}^2 ~ 15 ~ 15 cm^2 ~ 15 square units
    2 \text{ million} ~ 2,000,000 ~ \$2 million
    11^\text{th} ~ 11^{\text{th}} ~ 11th ~ 11
    x=5 ~ 5 ~ x = 5.0 ~ \{5\}
    1,-2 ~ -2, 1 ~ \{1,-2\} ~ \left\{-2, 1\right\} ~ 1 \text{ and } -2 ~ 1 or -2
    x=1 \text{ or } x=2 ~ 2, 1
    \pm 4 ~ 4, -4 ~ \mp 4
    \pm 0 ~ 0
    1 000 ~ 1000 ~ 1,000 ~ 1 000.0
    5 ~ €5 ~ 5\text{.} ~ £ 5
    1+\frac{1}{\mathrm{e}} ~ 1+\frac{1}{e}
    500000 ~ 5\text{ hundred thousand}
    \left( \frac{3}{2}, -13 \right) ~ (1.5,-13) ~ (\tfrac32,\, -13)
    (3,4] ~ \left(3, 4\right] ~ (3.0,4]
    (2,\infty) ~ x>2 ~ 2 < x ~ x \in (2,\infty) ~ (2, +\infty)
    1<x\le 3 ~ (1,3] ~ 3 \ge x > 1 ~ x\in(1,3]
    1<x<2 ~ (1,2) ~ x\in(1,2) ~ 2 > x > 1
    (3,\infty)\cup(-\infty,2) ~ (-\infty,2)\cup(3,\infty)
    \begin{pmatrix}\frac{2}{4}\\1\end{pmatrix} ~ \begin{bmatrix}.5\\1.0\end{bmatrix}
    \text{Evelyn} ~ Evelyn ~ \text{evelyn } ~ \textbf{Evelyn}. ~ The answer is Evelyn.
    \text{(C)} ~ C ~ (C) ~ \text{C} ~ $\text{(C)}$ ~ \boxed{C}
    204_5 ~ 204_{5} ~ 204_{\text{five}}
    4AB_{16} ~ 4AB_{\text{sixteen}}
    10:30 \text{ p.m.} ~ 10:30 pm ~ \text{10:30 p.m.}
    (x,y)=(3,4) ~ (3,4)
    \emptyset ~ \{\} ~ \varnothing
    -2+7i ~ -2 + 7i ~ $-2+7 i$
    \cot x ~ \cot  x ~ \[ \cot x \]
    x^2 ~ x^{2} ~ x²
    2^{10} ~ 2^10
    \sqrt{2} ~ \sqrt2 ~ √2 ~ sqrt(2)
"""

EQUAL_BY_ALGEBRA = r"""
    x^2+2x+1 ~ (x+1)^2
    \frac{7}{\sqrt{2}} ~ \frac{7\sqrt{2}}{2}
    \sqrt{12} ~ 2\sqrt3
    \frac{\sqrt{6}-\sqrt{2}}{4} ~ \sin 15^\circ
    \sin 30^\circ ~ 1/2
    2(3) ~ 6 ~ (2)(3) ~ 3\sqrt{4} ~ 3!
    \binom{5}{2}(3) ~ 30
    2\binom{5}{2} ~ 20
    5! ~ 120
    1024 ~ 2^{10}
    -2+7i ~ 7i-2
    \frac{1}{i} ~ -i
    i^2 ~ -1 ~ e^{i\pi}
    5x-7y+11z+4=0 ~ -5x+7y-11z-4=0 ~ 7y = 5x+11z+4 ~ 0 = 10x - 14y + 22z + 8
    x^2+y^2=4 ~ \frac{x^2}{4}+\frac{y^2}{4}=1
    y=2x+3 ~ 2x-y+3=0 ~ y - 3 = 2x
    y<2x ~ 2x>y ~ 2y<4x
    \mathbb{R} ~ (-\infty,\infty)
    \mathbb{R}\setminus\{2\} ~ (-\infty,2)\cup(2,\infty)
    [0,1]\cup(1,2] ~ [0,2]
    1\pm\sqrt{19} ~ 1-\sqrt{19}, 1+\sqrt{19}
    \{1\pm\sqrt5,-2\} ~ -2, 1-\sqrt5, 1+\sqrt5
    \left(3,\frac{\pi}{2}\right) ~ (3, \pi/2)
    (3,\frac{\sqrt{8}}{2}) ~ (3,\sqrt2)
    \begin{pmatrix}\sqrt4\\1\end{pmatrix} ~ \begin{pmatrix}2\\1\end{pmatrix}
    3R^2 ~ 3R\cdot R
    \frac{n(n+1)}{2} ~ \frac{n^2+n}{2}
    \log_2 8 ~ 3
    \cot x ~ \frac{\cos x}{\sin x}
    \sqrt{3+2\sqrt2} ~ 1+\sqrt2
    f(x)=2x ~ f(x)=x+x ~ 2x
    \frac12 bh ~ \frac{bh}{2}
    1.5\pi ~ \frac{3\pi}{2}
    1,000\pi ~ 1000\pi
    abc ~ bca
    |x-3| ~ |3-x|
    2\begin{pmatrix}1\\x\end{pmatrix} ~ \begin{pmatrix}2\\x+x\end{pmatrix}
    \begin{pmatrix}1&1\\0&1\end{pmatrix}^2 ~ \begin{pmatrix}1&2\\0&1\end{pmatrix}
    x\neq 0 ~ 0 \ne x
"""

NOT_EQUAL = r"""
    (1,2) ~ (2,1) ~ \{1,2\} ~ [1,2] ~ (1,2] ~ [1,2) ~ 12 ~ \begin{pmatrix}1\\2\end{pmatrix}
    (1,2),(3,4) ~ (1,3),(2,4) ~ (3,2),(1,4) ~ (1,2)
    5 ~ -5 ~ 50 ~ 0.5 ~ 5x ~ 5m ~ 5! ~ 5i ~ 5^2 ~ 5, 6 ~ (5,6) ~ 5_7 ~ \sqrt5 ~ x=6 ~ x=-5 ~ \text{five}
    1/3 ~ 0.333333 ~ 0.3333333333333333 ~ -1/3 ~ 3 ~ 1/30 ~ 0.3
    \sqrt2 ~ 1.41421356237 ~ \sqrt{2}+10^{-60} ~ 2 ~ -\sqrt2 ~ \sqrt{20}
    \pi ~ 3.14159265358979 ~ 22/7 ~ -\pi
    204_5 ~ 204 ~ 204_6 ~ 54 ~ 203_5
    50\% ~ 0.5
    x=5 ~ y=5 ~ x=-5 ~ 5=x+1 ~ 5x=5
    4 ~ 5x-7y=4
    x>2 ~ x\ge2 ~ x<2 ~ y>2 ~ (2,3)
    x^2+1=0 ~ x^2+2=0
    y<2x ~ y>2x ~ y\le2x ~ y=2x
    3R^2 ~ 3r^2
    \triangle ABC ~ \triangle abc
    N ~ n
    \log 8 ~ \ln 8
    \sqrt{x^2} ~ x
    1\pm\sqrt{19} ~ 1+\sqrt{19}
    1,2 ~ 1,2,3 ~ 1 ~ 1,3 ~ -1,2
    \text{east} ~ \text{west} ~ \text{seat} ~ \text{not east}
    east ~ seat
    \text{A},\text{B} ~ \text{A},\text{C} ~ \text{A}
    \begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix}2\\1\end{pmatrix} ~ \begin{pmatrix}1&2\end{pmatrix}
    \begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{vmatrix}1&2\\3&4\end{vmatrix}
    -2+7i ~ -2-7i ~ 2+7i ~ 7-2i
    10^{-60}x ~ 10^{-61}x ~ 0
    x+10^{-60} ~ x
    \{x : x>2\} ~ \{x:x>3\}
    10:30 \text{ p.m.} ~ 10:30 \text{ a.m.} ~ 10:30
    3 pm ~ 3 am
    5\text{ million} ~ 5
    10, 000 ~ 10000
    5, 125 ~ 5125
    \infty ~ -\infty ~ 10^{100}
    (2,\infty) ~ (2,-\infty) ~ [2,\infty) ~ (-2,\infty)
    \emptyset ~ 0 ~ \{0\}
    \{\{1\},\{2\}\} ~ \{1,2\}
    [0,1)\cup(1,2] ~ [0,2] ~ [0,1]\cup(1,2]
    \sin x ~ \cos x ~ \sin y
    \sin^{-1} x ~ \frac{1}{\sin x}
    0 ~ 10^{-400} ~ 0.0000001
    1 ~ 1+0.0000001i
    \overline{AB} ~ AB
    e ~ E
    I ~ i
    2\frac12 ~ 1 ~ 22
"""  # noqa: E501  (a group a line)


def verdict(answer, reference):
    return algebra.verify((answer, reference))


MATRIX = "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}"


def table(text):
    return [line.strip().split(" ~ ") for line in text.strip().split("\n")]


@pytest.mark.parametrize("answers", table(EQUAL_AT_ONCE), ids=lambda answers: answers[0])
def test_what_is_written_otherwise_is_equal_at_once(answers):
    for answer, reference in itertools.permutations(answers, 2):
        assert quick(answer, reference) is True, (answer, reference)


@pytest.mark.parametrize("answers", table(EQUAL_BY_ALGEBRA), ids=lambda answers: answers[0])
def test_equal_by_algebra(answers):
    for answer, reference in itertools.permutations(answers, 2):
        assert quick(answer, reference) in (True, None), (answer, reference)
        assert verdict(answer, reference) == "correct", (answer, reference)


@pytest.mark.parametrize("answers", table(NOT_EQUAL), ids=lambda answers: answers[0])
def test_the_first_differs_from_the_others(answers):
    for other in answers[1:]:
        for answer, reference in ((answers[0], other), (other, answers[0])):
            assert quick(answer, reference) in (False, None), (answer, reference)
            assert verdict(answer, reference) == "wrong", (answer, reference)
            assert canonical(answer) != canonical(reference)


def test_canonical_texts_of_different_rows_are_equal_only_where_the_answers_are():
    firsts = [line[0] for text in (EQUAL_AT_ONCE, EQUAL_BY_ALGEBRA) for line in table(text)]
    pairs = list(itertools.combinations(firsts, 2))
    alike = [pair for pair in pairs if canonical(pair[0]) == canonical(pair[1])]
    assert len(alike) < len(pairs) / 50
    assert all(quick(*pair) is True for pair in alike)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        r"\frac{1}{",
        "(1,2",
        "1)",
        r"\begin{pmatrix}1\end{bmatrix}",
        r"\boxed{5",
        "9" * 3000,
        "(" * 40 + "x" + ")" * 40,
    ],
)
def test_what_says_nothing_is_unparseable(text):
    assert canonical(text) is None
    assert quick(text, "5") is None
    assert verdict(text, "5") == "unparseable"


@pytest.mark.parametrize(
    "text",
    [
        "5 5",
        "x'",
        "1/2x",
        r"\frac{0}{0}",
        "5/",
        "x2",
        "1.2.3",
        r"2 \text{ then } x",
        r"\text{not }=5",
        r"5\text{ is wrong}",
        r"5\text{ square}",
        "1 00",
        "1 0000",
        "?",
        r"\foo",
        r"x \approx 3",
        r"(1, \foo)",
        "2\\frac{3}{2}",
        r"a_1 \text{ if } x",
        "5##",
        r"\gcd(a,b)",
        r"\begin{pmatrix}1&x\end{pmatrix}^2",
        "$",
    ],
)
def test_what_algebra_would_misread_is_unparseable(text):
    """Several of these have a value for the parser: 5 5 is 10 there, x' is x, gcd(a, b) is 1."""
    assert verdict(text, "77") == "unparseable"
    assert not algebra.is_readable(text)


def test_a_reference_that_cannot_be_read_is_an_error():
    for reference in (r"\frac{1}{", "x'", ""):
        with pytest.raises(ValueError, match="no mathematics can be read from the reference"):
            verdict("5", reference)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so\n# Answer\n\n$\\frac12$.", r"\frac12"),
        ("# Answer\n5\n6", "5"),
        ("# Answer\n5\n\n# Answer\n6", "5"),
        ("# Answer 5", "5"),
        ("# Answer: **5**", "5"),
        (r"\boxed{4}" + "\n# Answer\n5", "5"),
        ("# Answer\nSo it is $\\boxed{5}$, not 6.", "5"),
        (r"\boxed{4} and then \boxed{\frac{1}{2}}, so", r"\frac{1}{2}"),
        (r"$\boxed{ \left\{ 1 \right\} }$", r"\left\{ 1 \right\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{4} but \boxed{\frac{1}{2}", None),
        (f"# Answer\n{MATRIX}\nor so", MATRIX),
        ("# Answer\n\n$$\n\\frac12\n$$\nso", r"\frac12"),
        ("# Answer\n\\[\nx+1\n\\]", "x+1"),
        ("# Answer\n\nThe final answer is:\n\\boxed{5}\n6", "5"),
        ("# Answer\n" + "\n" * 10**5 + "\\[" * 10**5, None),
        ("# Answer\n", None),
        (r"\boxed{4}" + "\n# Answer", None),
        ("5", None),
        ("", None),
        ("# Answer\n" + "9" * 10_000, None),
    ],
)
def test_where_the_answer_of_a_response_is(response, answer):
    assert read(response, MARKER) == answer


def test_a_cut_response_is_read_up_to_its_last_whole_line():
    assert read("# Answer\n12", MARKER, "length") is None
    assert read("# Answer\n12\n", MARKER, "length") == "12"
    assert read("\\boxed{12}\nso \\boxed{1", MARKER, "length") == "12"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"\frac{2}{4}", "1/2"),
        ("3, 1.0", "{1,3}"),
        ("(1, 2.0]", "(1,2]"),
        (r"x \ge 2", r"x=[2,\infty)"),
        ("East.", "east"),
        ("x = 2.0", "x=2"),
        ("2x + 1", "2x+1"),
    ],
)
def test_canonical(text, written):
    assert canonical(text) == written


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=r"0123456789xyi.,/-+*^_={}()[]\$%<> " + "\n", max_size=30))
def test_equal_canonical_texts_mean_equal_answers(text):
    """Any text is equal to its own canonical form's class, and reading never fails."""
    written = canonical(text)
    assert (written is None) == (quick(text, text) is None)
    for other in (f"${text}$", f" {text} ", f"{text}."):
        if written is not None and canonical(other) == written:
            assert quick(text, other) is True


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.fractions(max_denominator=99), st.fractions(max_denominator=99), st.randoms())
def test_numbers_are_equal_exactly_when_their_values_are(one, two, draw):
    for left, right in ((one, two), (one, one), (one, -one), (one, one + Fraction(1, 10**6))):
        assert quick(written(left, draw), written(right, draw)) is (left == right)


def written(value, draw):
    """A number in one of many ways of writing it."""
    over, under = abs(value.numerator), value.denominator
    ways = [
        f"{over}/{under}",
        rf"\frac{{{over}}}{{{under}}}",
        rf"\dfrac{{{3 * over}}}{{{3 * under}}}",
    ]
    if 10**9 % under == 0:
        digits = str(over * (10**9 // under)).zfill(10)
        ways.append(f"{digits[:-9]}.{digits[-9:]}")
    if under == 1:
        ways += [str(over), f"{over:,}", f"{over}.0", rf"\${over}", f"{over:,}".replace(",", "{,}")]
    elif over > under:
        ways.append(rf"{over // under}\frac{{{over % under}}}{{{under}}}")
    text = ("-" if value < 0 else draw.choice(["", "+"])) + draw.choice(ways)
    return draw.choice(["{}", "${}$", r"\({}\)", r"\boxed{{{}}}", r"{}\text{{ cm}}", "{}."]).format(
        text
    )


def polynomial(draw):
    """Coefficients of 1, x, x^2 and a text of their polynomial, its terms in any order."""
    coefficients = [draw.randint(-3, 3) for _ in range(3)]
    terms = [f"{c:+d}{x}" for c, x in zip(coefficients, ("", "x", "x^2"), strict=True) if c]
    draw.shuffle(terms)
    text = "".join(terms) or "0"
    root = draw.randint(1, 4)
    return coefficients, draw.choice(
        [text, rf"\frac{{{root}({text})}}{{{root}}}", f"{text}+{root}-{root}"]
    )


@pytest.mark.slow
def test_polynomials_are_equal_exactly_when_their_coefficients_are():
    draw = random.Random(0)
    made = [polynomial(draw) for _ in range(60)]
    made += [(coefficients, polynomial_like(coefficients)) for coefficients, _ in made[:20]]
    for (one, text), (two, other) in zip(made, made[1:] + made[:1], strict=True):
        assert verdict(text, other) == ("correct" if one == two else "wrong"), (text, other)
    for (one, text), (_, again) in zip(made[:20], made[60:], strict=True):
        assert verdict(text, again) == "correct", (text, one)


def polynomial_like(coefficients):
    one, x, square = coefficients
    return rf"x(x \cdot ({square}) + ({x})) + ({one})"


@pytest.mark.slow
def test_a_grader_grades_in_order_and_says_why():
    pairs = [
        ("0.5", r"\frac12"),
        ("x+x", "2x"),
        ("x+x", "3x"),
        (r"\frac{x}{", "2x"),
        ("x'", "2x"),
        (r"\binom{10^{8}}{10^{7}}+x", "x"),
        ("5", "6"),
        ("x+x", "x'"),
        (None, "2x"),
        ("x+x", "2x"),
    ]
    with MathVerifier(workers=2, limit_seconds=0.7) as verifier:
        grades = verifier.verify(pairs)
        references = ["5", "x'", r"\frac{x}{2}", "", "x'", r"\text{east}"]
        assert verifier.unreadable(references) == {"x'": "error", "": "error"}
    assert [grade.reason for grade in grades] == [
        "correct", "correct", "wrong", "unparseable", "unparseable", "timeout", "wrong", "error",
        "unparseable", "correct",
    ]  # fmt: skip
    late = grades[5]
    assert late.seconds >= 3 * 0.7  # once, and once more with twice the limit


@pytest.mark.slow
def test_second_tries_have_a_budget():
    """However many answers run out of time, few of them run out of it twice."""
    pairs = [(f"9^{{9^{{9^{{{n}}}}}}}", "1") for n in (9, 10, 11)]
    with MathVerifier(workers=2, limit_seconds=0.3) as verifier:
        grades = verifier.verify(pairs)
    assert {grade.reason for grade in grades} == {"timeout"}
    twice = [grade.seconds > 2.5 * 0.3 for grade in grades]
    assert twice[0] and not twice[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        r"\frac{1}{1+" * 25 + "x" + "}" * 25,
        "+".join(rf"\sqrt{{{n}}}" for n in range(2, 90)),
        "(x+1)^{100000}",
        r"\sum_{n=1}^{10^{9}} n^{n}",
        "9" * 10**6,
        "\0",
        "\ud800 5",
        "%" * 1999,
        r"\sqrt" * 300,
        r"1" + r"\cdot10^{999}" * 9,
        "5 " + "a-" * 900,
        "٣",
    ],
)
def test_hostile_answers_end_and_are_not_equal(answer, small_verifier):
    (grade,) = small_verifier.verify([(answer, "x^{2}+1")])
    assert grade.reason in ("wrong", "unparseable", "timeout", "error")
    assert small_verifier.verify([("x+x", "2x")])[0].reason == "correct"


@pytest.fixture(scope="module")
def small_verifier():
    with MathVerifier(workers=1, limit_seconds=0.3) as verifier:
        yield verifier


def references(name, field):
    path = pathlib.Path(os.environ.get("BSTAR_DATA", "")) / name
    if not path.is_file():
        pytest.skip(f"set BSTAR_DATA to a folder with the published {name}")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[field].split("####")[-1].strip() for line in lines]


@pytest.mark.parametrize(
    ("name", "field"), [("math500_part.jsonl", "answer"), ("gsm8k_train.jsonl", "answer")]
)
def test_published_references_equal_themselves_and_not_their_neighbours(name, field):
    answers = references(name, field)
    pairs = [(f"${answer}$", answer) for answer in answers]
    neighbours = list(zip(answers, answers[1:] + answers[:1], strict=True))
    with MathVerifier(workers=2, limit_seconds=20.0) as verifier:
        assert verifier.unreadable(answers) == {}
        assert {grade.reason for grade in verifier.verify(pairs)} == {"correct"}
        grades = verifier.verify(neighbours)
    for (answer, other), grade in zip(neighbours, grades, strict=True):
        equal = len({canonical(text).removeprefix("x=") for text in (answer, other)}) == 1
        assert grade.reason == ("correct" if equal else "wrong"), (answer, other)
