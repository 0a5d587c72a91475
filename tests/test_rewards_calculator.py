"""Calculator annotations are true or not, exactly."""

import pytest

from bstar_jax.answers.equations import ANNOTATION, in_latex
from bstar_jax.records import Query
from bstar_jax.tasks.calculator import check_steps, is_true

TRUE = [
    "48/2=24",
    "$1,000*5%=50",
    "10/3=3.33",
    "2/3=.67",
    "1/8=0.12",
    "(3+4)*2=14",
    "-3+5=2",
    "7//2=3",
    "05*2=10",
    "3 x 4 = 12",
]
FALSE = ["3+4=8", "3+=3", "a=a", "9/2=4.", "9/2=4", "10/3=3.32", "1/0=0", "2=2=2", "=", "f(2)=2"]
FALSE += ["9" * 300 + "=1", "9**9**9=1", "(" * 90 + "=1", "\0=0"]


@pytest.mark.parametrize("equation", TRUE)
def test_true_equations(equation):
    assert is_true(equation)


@pytest.mark.parametrize("equation", FALSE)
def test_false_equations(equation):
    assert not is_true(equation)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["8-3=<<8-3=5>>5", "5+4=<<5+4=8>>8", "#### 8"], [1.0, 0.0]),
        (["<<1+1=2>>", "so", "<<1+1=3>> <<2+2=4>>", "<<2+2=4>>"], [1.0, -1 / 3, -1 / 3]),
        (["<<1+1=3>>"], [-1.0]),
        (["<<1+1=2>> <<1+1=2>>"], [1.0]),
        (["1+1=3", "#### 3"], []),
        ([""], []),
    ],
)
def test_a_step_is_a_line_with_annotations(lines, expected):
    assert check_steps(Query("train/0", "train", "?", "0"), "\n".join(lines)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("piece", ["<<" + "=" * 10**6, "<<" * 10**6, "<<1=" * 10**5])
def test_long_texts_are_read(piece):
    """What takes more than time in proportion to a text would not end here."""
    assert ANNOTATION.findall(piece) == []


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("thus $x = 2 + 1 = 3$", ["x=2+1", "2+1=3"]),
        (r"\(a = b\) and \[c &= d \\ e = f\] $$g=h$$", ["a=b", "c=d", "e=f", "g=h"]),
        (r"\(a = \(b = c\)", ["b=c"]),
        (r"$x \le 3$ and $y \ne 4$, $a := 3$, $a == b$", []),
        (r"\(" * 10**5 + "x=", []),
    ],
)
def test_equations_in_latex(response, found):
    assert in_latex(response) == found
