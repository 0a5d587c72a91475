"""Where the program is in a response, what its tests take from it, and how outputs compare."""

import ast
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bstar_jax.grading.code import submissions, test_plans
from bstar_jax.grading.code.outputs import same_output


@pytest.mark.parametrize(
    ("response", "texts"),
    [
        ("x = 1", ("x = 1",)),
        ("So:\n```python\nx = 1\n```\nDone.", ("x = 1\n",)),
        ("```\nx = 1\n```\nor better\n``` py\nx = 2\n```", ("x = 2\n",)),
        ("```python\nx = 1\n```\n```\n```", ("x = 1\n",)),
        ("```python\nx = 1\ny = 2", ("x = 1\ny = 2",)),
        ("So:\n```\nx = 1", ("So:\n", "x = 1")),
        ("x = 1\n```\nDone.", ("x = 1\n", "Done.")),
        ("x = 1\n```", ("x = 1\n", "x = 1\n```")),
        ("  ```python\n  x = 1\n  ```", ("  x = 1\n",)),
        (" \n", ()),
        ("```\n```", ("```\n```",)),
    ],
)
def test_where_the_program_is_written(response, texts):
    assert submissions.written(response) == texts


@pytest.mark.parametrize(
    ("lines", "reference", "helpers", "names"),
    [
        (["assert f(1) == g"], "", "", ("f", "g")),
        (["assert math.isclose(f(2), 4.0)"], "", "import math", ("f",)),
        (["assert queue(2) == 4"], "", "", ("queue",)),
        (["assert isclose(f(2), 4.0)"], "from math import isclose\ndef f(x): pass",
         "from math import isclose", ("f",)),
        (["assert max(2) == 4 and min(1, 2)"], "def max(x): pass", "", ("max",)),
        (["x = f(1)\nassert all(y == x for y in f(2))"], "", "", ("f",)),
        (["assert m.pi > f()"], "import math as m, os\nf = len", "import math as m, os", ("f",)),
        (["assert f(1)"], "not python", "", ("f",)),
    ],
)  # fmt: skip
def test_borrowed_names(lines, reference, helpers, names):
    assert test_plans._borrowed("", tuple(lines), reference) == (helpers, names)


def test_the_prelude_compiles_and_imports_what_is_named():
    text = "List Tuple math gcd deque heappush sys lru_cache permutations fractions and more"
    names = {}
    exec(submissions.prelude(text), names)
    assert names["gcd"] is math.gcd and names["sys"] and names["List"]
    assert submissions.prelude("x = 1") == ""
    ast.parse(submissions.prelude(" ".join(submissions._PRELUDE.values())))


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("4", "4\n", True), ("1 2 \n\n3\n", "1 2\n3", True), (" 1  2", "1 2", True),
        ("1\n2", "1 2", False), ("", "\n", True), ("", "0", False), ("1 2", "1", False),
        ("5.0", "5", True), ("5.1", "5", False), ("5.", "5", True), ("1000001", "1000000", False),
        ("007", "7", False), ("0.33333", "0.333333", True), ("0.3333", "0.333333", False),
        ("1e-9", "0.0", True), ("1E3", "1000.0", True), ("1000", "1000.0", True),
        ("nan", "0.5", False), ("1e999", "0.5", False), ("5", "1e999", False),
        ("Yes", "YES", False), ("case 1: 0.50000001", "case 1: 0.5", True), ("-0.0", "0.0", True),
        ("1" * 10**5 + "x", "5", False), ("1." * 10**5, "5", False), ("+." * 10**5, "0.5", False),
        ("[0.33333, (1, 2.0)]", "[0.333333, (1, 2)]", True), ("[0.3333]", "[0.333333]", False),
        ("[1.0,2]", "[1.0, 2]", False), ("[0.5)", "[0.5]", False), ("[5,]", "[5]", False),
        ("['0.50']", "['0.5']", False), ("[1000001]", "[1000000]", False), ("[]", "[0.0]", False),
        ("1_0", "10.0", False), ("12345678901234567890", "12345678901234567891", False),
    ],
)  # fmt: skip
def test_outputs(output, expected, same):
    assert same_output(output, expected) is same


@given(st.lists(st.lists(st.integers() | st.text("abc.-e", min_size=1))))
def test_space_does_not_count_and_words_do(rows):
    plain = "\n".join(" ".join(map(str, row)) for row in rows)
    spaced = "\r\n\n".join("  ".join(map(str, row)) + "\t" for row in rows) + "\n\n"
    assert same_output(spaced, plain) and same_output(plain, spaced)
    for row, place in itertools.islice(((r, i) for r in rows for i in range(len(r))), 5):
        if isinstance(row[place], int):
            other = [
                list(r) if r is not row else [*r[:place], r[place] + 1, *r[place + 1 :]]
                for r in rows
            ]
            changed = "\n".join(" ".join(map(str, r)) for r in other)
            assert not same_output(changed, plain)


def test_a_tolerance_above_that_of_print_counts():
    assert same_output("[0.34]", "[0.3333]", 0.05) and same_output("0.34", "0.3333", 0.05)
    assert not same_output("0.34", "0.3333", 1e-9) and same_output("0.33333", "0.333333", 1e-9)
    assert not same_output("4", "3", 0.1 * 5)  # whole numbers are exact


@given(st.floats(-1e9, 1e9), st.floats(-3e-5, 3e-5))
def test_tolerance_is_that_of_allclose(number, change):
    output, expected = f"{number * (1 + change):.17e}", f"{number:.17e}"
    assert same_output(output, expected) == bool(np.isclose(float(output), float(expected)))
