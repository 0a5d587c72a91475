"""The code reward: the right verdict, for the right reason, on every kind of tests."""

import json
import os
import pathlib
import shutil
import textwrap
import threading
import time

import pytest

from bstar_jax.config import UserError
from bstar_jax.grading.code import verifier as code
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.isolation.inside.harness import same_result
from bstar_jax.isolation.sandbox import Broken, Limits, Sandbox

LIMITS = Limits(cpu_seconds=1, wall_seconds=30.0, memory_bytes=300 << 20)
DOUBLE = {
    "kind": "asserts",
    "setup": "",
    "asserts": ["assert double(2) == 4", "assert double(3) == 6", "assert double(-1) == -2"],
}
CALLS = {"kind": "calls", "fn_name": "double", "inputs": [[2], [3], [-1]], "outputs": [4, 6, -2]}
STDIO = {"kind": "stdio", "inputs": ["2\n", "3\n", "-1\n"], "outputs": ["4\n", "6\n", "-2\n"]}
CHECK = {
    "kind": "check",
    "prompt": "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n"
    '    """ Sum of the numbers.\n    >>> total([1, 2])\n    3\n    """\n',
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
    "    assert candidate([]) == 0\n",
    "entry_point": "total",
}


@pytest.fixture(scope="module")
def verifier():
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    with CodeVerifier(LIMITS, workers=2) as verifier:
        yield verifier


def asserts(*lines, setup=""):
    return {"kind": "asserts", "setup": setup, "asserts": list(lines)}


def double(body):
    """The program of each kind of tests that computes `body` from x."""
    body = textwrap.dedent(body)
    function = "def double(x):\n" + textwrap.indent(body, "    ")
    return [
        (DOUBLE, function),
        (CALLS, function),
        (
            CALLS,
            "class Solution:\n" + textwrap.indent(function.replace("(x)", "(self, x)"), "    "),
        ),
        (STDIO, f"{function}\nprint(double(int(input())))"),
    ]


@pytest.mark.parametrize(
    ("body", "reason", "first_failing", "says"),
    [
        ("return 2 * x", "correct", None, ""),
        ("return x + 2", "wrong", 1, "5"),
        ("return abs(2 * x)", "wrong", 2, "2"),
        ("return None", "wrong", 0, "None"),
        ("return 2 * x if x > 2 else 1 // 0", "error", 0, "ZeroDivisionError"),
        ("return 2 * x if x > 0 else undefined", "error", 2, "name 'undefined' is not defined"),
        ("while x == 3:\n    pass\nreturn 2 * x", "timeout", 1, "1 s of CPU time"),
        ("x = [x] * 10 ** 9\nreturn x", "error", 0, "MemoryError"),
        ("def deeper(): deeper()\ndeeper()", "error", 0, "RecursionError"),
        ("import ctypes\nctypes.string_at(0)", "error", 0, "signal 11"),
        ("import os\nos._exit(3)", "error", 0, "exit code 3"),
        ("import numpy", "error", 0, "No module named 'numpy'"),
        ("assert x > 9", "error", 0, "AssertionError"),
    ],
)
def test_reasons(verifier, body, reason, first_failing, says):
    for verdict in verifier.verify_many(double(body)):
        assert (verdict.reason, verdict.first_failing) == (reason, first_failing), verdict
        assert verdict.passed == (reason == "correct")
        assert says in verdict.message
        run = 3 if first_failing is None else first_failing + 1
        assert [test.reason for test in verdict.tests] == ["correct"] * (run - 1) + [reason]
        assert verdict.tests[-1].message == verdict.message
        assert sum(test.seconds for test in verdict.tests) <= verdict.seconds


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n\n",
        "```python\n\n```",
        "I do not know.",
        "def double(x) return x",
        "x = '\0'",
        "x\n  y",
    ],
)
def test_what_is_no_program_is_unparseable(verifier, response):
    for tests in (DOUBLE, CALLS, STDIO, CHECK):
        verdict = verifier.verify(tests, response)
        assert (verdict.passed, verdict.reason) == (False, "unparseable"), verdict
        assert (verdict.first_failing, verdict.tests) == (None, ()) and verdict.message


@pytest.mark.slow
def test_a_program_that_fails_while_it_is_loaded(verifier):
    for tests in (DOUBLE, CALLS):
        for program, reason, says in (
            ("1 / 0", "error", "ZeroDivisionError: division by zero (line 1)"),
            ("while True: pass", "timeout", "CPU time"),
            ("x = input()", "error", "EOFError"),
            ("exec('1 +')", "error", "SyntaxError"),
        ):
            verdict = verifier.verify(tests, program)
            assert (verdict.reason, verdict.first_failing) == (reason, None)
            assert says in verdict.message
    verdict = verifier.verify(CALLS, "def triple(x): return 3 * x")
    assert (verdict.reason, verdict.first_failing) == ("error", 0)
    assert "defines no function 'double'" in verdict.message


def test_every_test_is_run_where_that_is_asked_for(verifier):
    with CodeVerifier(LIMITS, workers=1, every_test=True) as thorough:
        for tests, program in double("return 2 * x if x == 3 else 0"):
            verdict = thorough.verify(tests, program)
            assert [test.reason for test in verdict.tests] == ["wrong", "correct", "wrong"]
            assert verdict.first_failing == 0
        verdict = thorough.verify(DOUBLE, "import os\ndef double(x):\n    os._exit(0)")
        assert [test.reason for test in verdict.tests] == ["error"] * 3


# --- Where the program is ------------------------------------------------------------------------


BODY = "    result = 0\n    for x in xs:\n        result += x\n    return result\n"


@pytest.mark.parametrize(
    "response",
    [
        BODY,
        BODY.strip(),
        textwrap.dedent(BODY),
        BODY + "\n\nprint(total([1]))\n",
        BODY + "\n\nThis sums the numbers, of course.\n",
        BODY.strip() + "\n\ndef other():\n    return 1\n\nThat is it.",
        BODY + "\n\nif __name__ == '__main__':\n    assert False\n",
        f"```python\n{BODY}```",
        f"Here it is:\n```python\ndef total(xs: List[int]) -> int:\n{BODY}```\nIt adds.",
        f"def total(xs):\n{BODY}",
        BODY + "```\n\nExplanation: it adds.",
        "    return help_(xs)\n\n\ndef help_(xs):\n    return sum(xs)\n",
        "return sum(xs)",
        '    """ A second docstring. """\n    return sum(xs)',
    ],
)
def test_a_function_is_continued_or_written_whole(verifier, response):
    verdict = verifier.verify(CHECK, response)
    assert verdict.passed, verdict


def test_a_continuation_that_is_wrong_is_wrong(verifier):
    for response in ("    return 3", "pass", "    return sum(xs[1:])\n\nI hope so."):
        verdict = verifier.verify(CHECK, response)
        assert (verdict.reason, verdict.first_failing) == ("wrong", 0), verdict
    assert verifier.verify(CHECK, "    return 3").message.startswith("assert candidate([]) == 0")


# --- Asserts -------------------------------------------------------------------------------------


def test_asserts_may_use_what_the_program_defines(verifier):
    program = """
        class Node:
            def __init__(self, value):
                self.value, self.left = value, None
        def depth(node):
            return 0 if node is None else 1 + depth(node.left)
        def stairs():
            yield from (1, 2)
        class Empty:
            __len__ = lambda self: 0
            __getitem__ = lambda self, key: key
            __float__ = lambda self: 2.5
        ROOM = [3, 4]
    """
    tests = asserts(
        "assert depth(root) == 2",
        "assert root.left.value == 5 and depth(root.left) == 1",
        "assert depth([Node(1)][0]) == 1 and root.left is not None and root.left == root.left",
        "assert list(stairs()) == [1, 2] and 2 in stairs() and 3 not in stairs()",
        "assert sorted(stairs(), reverse=True) == [2, 1]",
        "assert ROOM == [3, 4]",
        "assert math.isclose(depth(None), 0.0)",
        "for x in range(3):\n    assert depth(Node(x)) == 1",
        "assert next(stairs()) == 1 and len(ROOM) == 2 and stairs() and not Empty()",
        "assert len(Empty()) == 0 and Empty()['x'] == 'x' and str(Empty) and float(Empty()) == 2.5",
        setup="root = Node(1)\nroot.left = Node(5)",
    )
    verdict = verifier.verify(tests, textwrap.dedent(program))
    assert verdict.passed, verdict
    assert len(verdict.tests) == 10


def test_values_of_many_kinds_are_compared(verifier):
    program = """
        import collections, datetime, decimal, fractions
        def same(x):
            return x
        def made():
            return {
                "deque": collections.deque([1]), "decimal": decimal.Decimal("0.10"),
                "fraction": fractions.Fraction(1, 2), "range": range(3), "text": "\\ud800é",
                "day": datetime.date(2024, 2, 29), "many": {(1, 2): {3, 4}}, "bytes": b"\\0",
            }
    """
    values = [
        None, True, 0, -(10**5000), 0.1, -0.0, 1e400, "é\ud800", b"\0", [], (1, [2]), {1, 2},
        frozenset("ab"), {"a": {1: (2,)}}, 1 + 2j, range(2), int, sorted,
    ]  # fmt: skip
    shown = [repr(value) for value in values[:3]] + ["-(10**5000)"]
    shown += [repr(value) for value in values[4:6]] + ["1e400"]
    shown += [repr(value) for value in values[7:-2]] + ["int", "sorted"]
    tests = asserts(
        *[f"assert same({text}) == {text}" for text in shown],
        "assert type(same(True)) is bool and type(same((1,))) is tuple",
        "assert same(float('nan')) != same(float('nan'))",
        "assert made()['fraction'] == 0.5 and made()['decimal'] == decimal.Decimal('0.1')",
        "assert made()['deque'] == collections.deque([1]) and made()['range'] == range(3)",
        "assert made()['day'] == datetime.date(2024, 2, 29) and made()['many'] == {(1, 2): {3, 4}}",
        "assert made()['text'] == '\\ud800é' and made()['bytes'] == b'\\0'",
    )
    verdict = verifier.verify(tests, textwrap.dedent(program))
    assert verdict.passed, verdict


def test_builtin_names_are_the_programs_if_the_reference_defines_them(verifier):
    tests = asserts("assert sum(10, 15) == 6")
    program = (
        "def sum(a, b):\n    return len([d for d in range(1, a) if a % d == b % d == 0]) * 6 // 2"
    )
    assert verifier.verify(tests, program, program).passed
    assert "TypeError" in verifier.verify(tests, program).message  # else it is Python's
    tests = asserts("assert set(f()) == {1}", "assert sys.maxsize > f()[0]")
    reference = "import sys\ndef f():\n    return [1]"
    cheat = "class sys:\n    maxsize = 0\ndef set(x):\n    return {1}\ndef f():\n    return [2]"
    assert verifier.verify(tests, reference, reference).passed
    assert verifier.verify(tests, cheat, reference).first_failing == 0


def test_what_a_test_cannot_give_a_program_is_said(verifier):
    verdict = verifier.verify(asserts("assert f(lambda x: x) == 1"), "def f(g):\n    return g(1)")
    assert verdict.reason == "error" and "plain data, not a function" in verdict.message


def test_a_helper_of_the_prompt_is_the_tests_own(verifier):
    tests = {
        "kind": "check",
        "prompt": "def shift(s, n):\n    return s[n:] + s[:n]\n\n\n"
        "def back(s, n):\n    # undo shift\n",
        "test": "import random\ndef check(candidate):\n    for n in range(3):\n"
        "        s = ''.join(random.sample('abcdef', 5))\n"
        "        assert candidate(shift(s, n), n) == s\n",
        "entry_point": "back",
    }
    assert verifier.verify(tests, "    return shift(s, -n)").passed
    cheat = "    return s\n\ndef shift(s, n):\n    return s\n"
    assert verifier.verify(tests, cheat).reason == "wrong"


def test_tests_that_are_no_python_are_the_users(verifier):
    for tests in (
        asserts("assert f( == 1"),
        asserts("assert f()", setup="x ="),
        {**CHECK, "test": "?"},
    ):
        with pytest.raises(UserError, match="of a query is no Python"):
            verifier.verify(tests, "    return 1")
    with pytest.raises(ValueError, match="no tests"):
        verifier.verify(asserts(), "x = 1")
    with pytest.raises(ValueError, match="not 'guess'"):
        verifier.verify({"kind": "guess"}, "x = 1")


# --- Calls and standard input, as APPS has them ---------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (5, 5, True), (5, [5], True), ([5], [5], True), ([5], [[5]], True), (5, [5, 6], False),
        ((1, 2), [1, 2], True), ([(1, 2)], [[1, 2]], True), (((1,),), [[[1]]], True),
        ({1: "a"}, {"1": "a"}, True), ({True: None}, {"true": None}, True),
        ({"1": (2,)}, {"1": [2]}, True), (True, 1, True), (0.1 + 0.2, 0.3, False),
        (None, None, True), ("5", 5, False), ([], [[]], True), ({1, 2}, [1, 2], False),
    ],
)  # fmt: skip
def test_results_of_calls(value, expected, same):
    assert same_result(value, expected) is same
    if value == expected:
        assert same_result(value, [expected])


def test_calls_as_apps_has_them(verifier):
    tests = {
        "kind": "calls", "fn_name": "pick",
        "inputs": [[{"1": "a", "2": "b"}, 2], [{"x": "c"}, "x"], [{}, 0]],
        "outputs": ["b", ["c"], None],
    }  # fmt: skip
    program = """
        class Solution:
            def __init__(self):
                self.calls = 0
            def pick(self, d: Dict[int, str], key) -> str:
                self.calls += 1
                return d.get(key) if self.calls == 1 else "kept"
    """
    program = textwrap.dedent(program).replace("Dict[int, str]", "List[Tuple]")
    verdict = verifier.verify(tests, program)
    assert verdict.passed, verdict


# --- Many ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_keep_their_order_and_a_hang_blocks_none(verifier):
    hang = (STDIO, "while True:\n    pass")
    jobs = [hang if i % 8 == 0 else (STDIO, f"print({i})") for i in range(1, 25)]
    tests = [{"kind": "stdio", "inputs": [""], "outputs": [str(i)]} for i in range(1, 25)]
    jobs = [(test, program) for test, (_, program) in zip(tests, jobs, strict=True)]
    verdicts = verifier.verify_many(jobs)
    assert [v.reason for v in verdicts] == [
        "timeout" if i % 8 == 0 else "correct" for i in range(1, 25)
    ]


def test_equal_programs_get_equal_verdicts(verifier):
    program = (
        "import random\nprint(list({'a', 'b', 'c', 'd'}), random.random(), hash('x'), id(0) > 0)"
    )
    tests = {"kind": "stdio", "inputs": [""], "outputs": ["?"]}
    assert len({v.message for v in verifier.verify_many([(tests, program)] * 6)}) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("verifier")
def test_one_that_waited_too_long_is_tried_again_alone():
    tests = {"kind": "stdio", "inputs": [""], "outputs": ["1"]}
    program = "import time\nend = time.time() + 1.2\nwhile time.time() < end: pass\nprint(1)"
    with CodeVerifier(Limits(wall_seconds=0.8), workers=2) as verifier:
        assert [v.reason for v in verifier.verify_many([(tests, program)] * 2)] == ["correct"] * 2
        (verdict,) = verifier.verify_many([(tests, program)], retry=False)
        assert (
            verdict.reason == "timeout" and "0.8 s of wall time (wall_seconds)" in verdict.message
        )
    with CodeVerifier(Limits(total_seconds=0.8), workers=2) as verifier:
        assert "total_seconds" in verifier.verify(tests, program).message


@pytest.mark.slow
@pytest.mark.usefixtures("verifier")
def test_second_tries_have_a_budget():
    """However many programs run out of time, few of them run out of it twice."""
    tests = {"kind": "stdio", "inputs": [""], "outputs": ["1"]}
    with CodeVerifier(Limits(wall_seconds=0.25), workers=2) as verifier:
        verdicts = verifier.verify_many([(tests, "while True: pass")] * 9)
    twice = ["than 0.5 s of wall time" in verdict.message for verdict in verdicts]
    once = ["than 0.25 s of wall time" in verdict.message for verdict in verdicts]
    assert twice[0] and once[-1] and sum(twice) + sum(once) == len(verdicts)


@pytest.mark.slow
@pytest.mark.usefixtures("verifier")
def test_one_that_only_sleeps_is_not_tried_again():
    tests = {"kind": "stdio", "inputs": [""], "outputs": ["1"]}
    with CodeVerifier(Limits(wall_seconds=2.0), workers=2) as verifier:
        verdicts = verifier.verify_many([(tests, "import time\ntime.sleep(3)\nprint(1)")] * 2)
    assert ["than 2 s of wall time" in verdict.message for verdict in verdicts] == [True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("verifier")
def test_a_sandbox_that_does_not_start_at_once_gets_another_try(monkeypatch):
    made = []

    def flaky(*arguments, **options):
        made.append(1)
        if len(made) < 3:
            raise Broken("no memory")
        return Sandbox(*arguments, **options)

    monkeypatch.setattr(code, "Sandbox", flaky)
    with CodeVerifier(workers=1) as verifier:
        assert verifier.verify(CALLS, "def double(x):\n    return 2 * x").passed
    assert len(made) == 3


def test_a_grader_closes_cleanly(verifier):
    sleep = ({"kind": "stdio", "inputs": [""], "outputs": [""]}, "import time\ntime.sleep(60)")
    other = CodeVerifier(workers=2)
    errors = []

    def work():
        try:
            other.verify_many([sleep] * 4)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not other._running:
        time.sleep(0.01)
    other.close()
    thread.join(20)
    assert not thread.is_alive() and not other._running and len(errors) == 1
    with pytest.raises(RuntimeError, match="closed"):
        other.verify(*sleep)


def test_an_error_ends_what_is_running(verifier):
    sleep = ({"kind": "stdio", "inputs": [""], "outputs": [""]}, "import time\ntime.sleep(60)")
    start = time.monotonic()
    with pytest.raises(UserError):
        verifier.verify_many([(asserts("assert ("), "x = 1"), sleep, sleep, sleep])
    assert not verifier._running and time.monotonic() - start < 25
    assert verifier.verify(CALLS, "def double(x):\n    return 2 * x").passed


# --- Published problems --------------------------------------------------------------------------


def published(name):
    path = pathlib.Path(os.environ.get("BSTAR_DATA", "")) / name
    if "BSTAR_DATA" not in os.environ or not path.is_file():
        pytest.skip(f"set BSTAR_DATA to a folder with the published problems in {name}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_published_mbpp_programs_pass(verifier):
    jobs = []
    for row in published("mbpp_part.jsonl")[::12]:
        code, setup = (row[name].replace("\r\n", "\n") for name in ("code", "test_setup_code"))
        jobs.append((asserts(*row["test_list"], setup=setup), f"```python\n{code}\n```", code))
    assert not [verdict for verdict in verifier.verify_many(jobs) if not verdict.passed]


def test_published_humaneval_programs_pass(verifier):
    jobs = []
    for row in published("humaneval_part.jsonl")[::3]:
        tests = {"kind": "check"} | {name: row[name] for name in ("prompt", "test", "entry_point")}
        jobs += [(tests, row["canonical_solution"]), (tests, row["canonical_solution"].strip())]
    assert not [verdict for verdict in verifier.verify_many(jobs) if not verdict.passed]
