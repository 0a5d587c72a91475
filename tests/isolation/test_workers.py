"""Workers finish what can be finished, and are stopped, replaced and gone when they should be."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from bstar_jax.isolation.workers import WorkerPool

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALGEBRA = "bstar_jax.answers.mathematics.algebra"


def work(item):
    """What the workers of these tests do; they import it from here."""
    verb, value = item
    if verb == "raise":
        raise ValueError(value)
    if verb == "sleep":
        start = time.monotonic()
        time.sleep(value)
        return start, time.monotonic()
    if verb == "loop in C":
        return 3 ** (10**9)  # holds the interpreter for minutes: no signal handler would run
    if verb == "signal":
        os.kill(os.getpid(), value)
    if verb == "exit":
        os._exit(value)
    if verb == "fork":
        os.fork()
    if verb == "environment":
        return os.environ.get(value)
    if verb == "leave":
        raise SystemExit(value)
    if verb == "grow":
        return len(bytearray(value))
    if verb == "print":
        print(value * 1000)
        os.write(1, b"\0" * 1000)
    if verb == "write half a message":
        os.write(int(sys.argv[3]), b"\0\0\0")
        time.sleep(60)
    if verb == "modules":
        __import__(value)
        return sorted(sys.modules)
    if verb == "lambda":
        return lambda: value
    return os.getpid() if verb == "pid" else value


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(work, workers=2, limit_seconds=1.0, memory_bytes=1 << 29) as pool:
        yield pool


def kinds(outcomes):
    return [outcome.kind for outcome in outcomes]


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_outcomes_come_in_the_order_of_the_items(pool):
    items = [("sleep", 0.2), ("return", 1), ("raise", "no"), ("return", None)] * 3
    outcomes = list(pool.run(items))
    assert kinds(outcomes) == ["done", "done", "raised", "done"] * 3
    assert [outcome.value for outcome in outcomes[1::4]] == [1, 1, 1]
    assert outcomes[2].error == "ValueError: no" and outcomes[2].value is None
    assert outcomes[0].seconds >= 0.2
    assert list(pool.run([])) == []


@pytest.mark.parametrize(
    ("item", "kind", "error"),
    [
        (("loop in C", 0), "timeout", ""),
        (("write half a message", 0), "timeout", ""),
        (("signal", signal.SIGSEGV), "died", "SIGSEGV"),
        (("exit", 3), "died", "exit status 3"),
        (("grow", 1 << 31), "died", "MemoryError"),
        (("leave", 3), "raised", "SystemExit: 3"),
        (("lambda", 3), "raised", "no pickle"),
    ],
)
def test_an_item_that_ends_badly_takes_no_other_with_it(pool, item, kind, error):
    items = [("return", number) for number in range(40)]
    items[5] = item
    outcomes = list(pool.run(items))
    assert outcomes[5].kind == kind and error in outcomes[5].error
    assert outcomes[5].seconds >= (1.0 if kind == "timeout" else 0.0)
    del outcomes[5]
    assert [outcome.value for outcome in outcomes] == [n for n in range(40) if n != 5]
    assert wait_until(lambda: pool.alive == 2)


@pytest.mark.slow
def test_any_mixture_has_one_outcome_an_item(pool):
    verbs = {
        "return": "done",
        "raise": "raised",
        "exit": "died",
        "print": "done",
        "grow": "done",
        "sleep": "timeout",
    }
    draw = random.Random(0)
    weights = (60, 10, 3, 10, 10, 2)
    chosen = draw.choices(list(verbs), weights, k=150)
    values = [7 if verb != "sleep" else 60 for verb in chosen]
    outcomes = list(pool.run(zip(chosen, values, strict=True), limit_seconds=0.5))
    assert kinds(outcomes) == [verbs[verb] for verb in chosen]


@pytest.mark.parametrize(
    "text", ["\0", "\ud800 \udfff", "\0\ud800" * 500_000, "", "\n" * 100_000, "é٣\u202e\U0001f600"]
)
def test_hostile_text_goes_there_and_back(pool, text):
    outcomes = pool.run([("return", text)] * 9, limit_seconds=30.0)
    assert [outcome.value for outcome in outcomes] == [text] * 9


@pytest.mark.slow
def test_starting_is_not_in_the_limit():
    warm_up = [("sleep", 0.6)]
    with WorkerPool(work, 1, limit_seconds=0.3, warm_up=warm_up) as pool:
        assert kinds(pool.run([("return", 1), ("sleep", 0.6), ("return", 2)])) == [
            "done", "timeout", "done",
        ]  # fmt: skip


@pytest.mark.slow
def test_at_once_bounds_how_many_are_at_work(pool):
    def overlaps(**options):
        spans = sorted(outcome.value for outcome in pool.run([("sleep", 0.05)] * 8, **options))
        ends = [end for _, end in spans]
        return any(spans[i + 1][0] < ends[i] for i in range(7))

    list(pool.run([("sleep", 0.1)] * 4))  # both have started
    assert overlaps()
    assert not overlaps(at_once=1)


def test_a_run_that_is_given_up_leaves_nothing_to_the_next(pool):
    outcomes = pool.run([("return", "old"), *[("sleep", 0.3)] * 5])
    assert next(outcomes).value == "old"
    with pytest.raises(RuntimeError, match="has a run under way"):
        next(pool.run([("return", 1)]))
    outcomes.close()
    assert [outcome.value for outcome in pool.run([("return", "new")] * 5)] == ["new"] * 5


@pytest.mark.slow
def test_the_notice_of_a_cluster_ends_no_worker(pool):
    # SLURM sends SIGTERM to every process of a step.
    workers = [outcome.value for outcome in pool.run([("pid", 0)] * 8)]
    notice = threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGTERM) for pid in set(workers)])
    notice.start()
    assert kinds(pool.run([("sleep", 0.8)] * 2)) == ["done", "done"]
    notice.join()


def test_a_worker_that_ended_between_runs_costs_no_item(pool):
    for outcome in list(pool.run([("pid", 0)] * 2)):
        os.kill(outcome.value, signal.SIGKILL)
        assert wait_until(lambda pid=outcome.value: not is_running(pid))
    assert kinds(pool.run([("return", 1)] * 20)) == ["done"] * 20


def test_workers_are_gone_after_the_pool():
    with WorkerPool(work, 2, 1.0) as pool:
        pids = {outcome.value for outcome in pool.run([("pid", 0)] * 20)}
        assert all(map(is_running, pids))
    assert not any(map(is_running, pids))
    with pytest.raises(RuntimeError, match="is not entered"):
        list(pool.run([("return", 1)]))


def test_workers_end_with_a_parent_that_is_killed():
    script = """
        from bstar_jax.isolation.workers import WorkerPool
        with WorkerPool("tests.isolation.test_workers:work", 2, 600.0) as pool:
            for outcome in pool.run([("pid", 0), ("pid", 0), *[("loop in C", 0)] * 2]):
                print(outcome.value, flush=True)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with parent:
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        assert all(map(is_running, pids))
        parent.kill()
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_workers_import_no_jax(pool):
    assert "jax" in sys.modules  # conftest has it in the parent
    (outcome,) = pool.run([("modules", ALGEBRA)], limit_seconds=60.0)
    assert "sympy" in outcome.value
    assert not {"jax", "jaxlib", "flax", "orbax"} & set(outcome.value)


def test_a_function_that_cannot_be_had_is_an_error():
    absent = pytest.raises(RuntimeError, match="do not start: ModuleNotFoundError")
    with WorkerPool("tests.no_such_module:work", 1, 1.0) as pool, absent:
        list(pool.run([1]))
    raised = pytest.raises(RuntimeError, match="do not start: ValueError: cold")
    with WorkerPool(work, 1, 1.0, warm_up=[("raise", "cold")]) as pool, raised:
        list(pool.run([1]))
    ended = pytest.raises(RuntimeError, match="3 ended or hung before they began")
    with WorkerPool(work, 1, 1.0, warm_up=[("exit", 0)]) as pool, ended:
        list(pool.run([1]))
    with pytest.raises(ValueError, match="define it in a module, at its top"):
        WorkerPool(lambda item: item, 1, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [("workers", 0, "above 0"), ("limit_seconds", 0, "above 0"), ("memory_bytes", -1, "0 or more")],
)
def test_numbers_out_of_range_are_refused(name, value, rule):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be {rule}"):
        WorkerPool(work, **{"workers": 1, "limit_seconds": 1.0, name: value})


def test_a_copy_that_an_item_forks_says_nothing(pool):
    first, second = pool.run([("fork", 1), ("value", 2)])
    assert (first.kind, first.value, second.value) == ("done", 1, 2)


def test_workers_get_an_environment_and_may_have_no_limit_of_memory():
    given = {"BSTAR_TEST": "7"}
    with WorkerPool(work, 1, 1.0, memory_bytes=0, environment=given) as pool:
        outcomes = list(pool.run([("environment", "BSTAR_TEST"), ("grow", 1 << 20)]))
    assert [outcome.value for outcome in outcomes] == ["7", 1 << 20]
