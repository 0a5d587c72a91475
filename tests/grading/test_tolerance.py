"""Floats in results of programs: one tolerance, alone and inside, from the settings on."""

import shutil

import pytest

from bstar_jax.config import CodeConfig, RewardsConfig
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.grading.kinds import KINDS
from bstar_jax.isolation.inside.harness import same_result
from bstar_jax.records import Query, Response, Source

CLOSE = 0.1 + 0.2  # 0.3, but for its last bit
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def bwrap():
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (CLOSE, 0.3, True), ([CLOSE], [0.3], True), ((1, (CLOSE,)), [1, [0.3]], True),
        ({"a": [CLOSE]}, {"a": [0.3]}, True), (CLOSE, [0.3], True), (0.3001, 0.3, False),
        ([CLOSE, 0.4], [0.3, 0.5], False), ([CLOSE], [0.3, 0.3], False), ([], [0.3], False),
        (3, 3.0000000001, True), (3.0000000001, 3, False), (3.0, 3, True),
        (10**17 + 1, 10**17, False),
        (10**400, 1.0, False), (10**400, 10**400, True), (True, 1.0, False), (1.0, True, True),
        (NAN, NAN, False), ([NAN], [NAN], False), (INF, INF, True), (-INF, INF, False),
        (1e308, INF, False), (INF, 1e308, False), ("0.3", 0.3, False), (None, 0.0, False),
        (0.0, 1e-13, True), (0.0, 1e-11, False), (-0.0, 0.0, True),
        ({0.5: CLOSE}, {"0.5": 0.3}, True),
        ({CLOSE: 1}, {"0.3": 1}, False), ([[CLOSE]], [0.3], False),
    ],
)  # fmt: skip
def test_floats_are_close_alone_and_inside(value, expected, same):
    assert same_result(value, expected, 1e-9) is same
    if not same or repr(CLOSE) in repr(value):
        assert not same_result(value, expected)


@pytest.mark.usefixtures("bwrap")
def test_the_tolerance_is_that_of_the_setting():
    calls = {"kind": "calls", "fn_name": "f", "inputs": [[3]], "outputs": [[0.333, [0.667]]]}
    stdio = {"kind": "stdio", "inputs": ["3"], "outputs": ["[0.333, (0.667)]"]}
    program = "def f(x):\n    return 1 / x, (2 / x,)"
    script = "x = int(input())\nprint(f'[{1 / x}, ({2 / x})]')"
    for tolerance, passes in ((0.0, False), (1e-2, True)):
        with CodeVerifier(workers=1, tolerance=tolerance) as lenient:
            assert lenient.verify(calls, program).passed is passes
            assert lenient.verify(stdio, script).passed is passes


@pytest.mark.usefixtures("bwrap")
def test_the_settings_reach_the_programs():
    code = CodeConfig(packages="numpy", tolerance=1e-9)
    tests = {"kind": "calls", "fn_name": "f", "inputs": [[3]], "outputs": [[0.3, [3.0]]]}
    query = Query("0", "train", "?", fields={"tests": tests}, source="own")
    text = "import numpy as np\ndef f(x):\n    return 0.1 + 0.2, np.full(1, x).tolist()"
    with KINDS["code"].open(RewardsConfig(workers=1, code=code)) as grader:
        (grade,) = grader.grade([Response(query, text, "stop")], Source("own", "code"))
    assert grade.correct, grade
