"""The sandbox: nothing gets out, nothing stays behind, and honest programs run."""

import contextlib
import ctypes
import dataclasses
import importlib
import operator
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bstar_jax.config import UserError
from bstar_jax.grading.code.verifier import CodeVerifier
from bstar_jax.isolation import bubblewrap, sandbox, self_test, syscalls
from bstar_jax.isolation.inside import wire
from bstar_jax.isolation.sandbox import Broken, Limits, Sandbox, TimedOut
from tests.escapes import ESCAPES, LEFTOVER
from tests.forgeries import FORGERIES

LIMITS = Limits(cpu_seconds=1, wall_seconds=60.0, memory_bytes=300 << 20)
IMPATIENT = dataclasses.replace(LIMITS, wall_seconds=2.0)
CASES = sorted(ESCAPES + FORGERIES, key=lambda case: case.waits())
ROOT = pathlib.Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="module")
def bwrap():
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    try:
        self_test.check()
    except UserError as error:
        if "no sandbox can be made here" in str(error):
            pytest.skip(str(error))
        raise


def filled(program, secret, port):
    values = {
        "@SECRET@": str(secret), "@PROJECT@": sandbox.__file__,
        "@PORT@": str(port), "@PID@": str(os.getpid()),
    }  # fmt: skip
    for name, value in values.items():
        program = program.replace(name, value)
    return program


def living_children():
    """Processes whose parent this is, apart from those that only wait to be counted as dead."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == os.getpid() and state != "Z":
            found[int(folder.name)] = (folder / "comm").read_text().strip()
    return found


def mounts():
    return set(pathlib.Path("/proc/self/mountinfo").read_text().splitlines())


def leftovers():
    places = ("/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/home", os.path.dirname(os.__file__))
    return [str(path) for place in places for path in pathlib.Path(place).glob(f"*{LEFTOVER}*")]


@pytest.fixture(scope="module")
def adopted():
    """Orphans of our children become our children, so that no process can hide from us."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module", params=["", "numpy"], ids=["bare", "with NumPy"])
def escaped(bwrap, adopted, tmp_path_factory, request):
    """Verdicts by name, and what there was before and after: children, mounts, files."""
    packages, head = request.param, "import numpy\n" if request.param else ""
    secret = tmp_path_factory.mktemp("tests") / "expected.txt"
    secret.write_text("escaped")
    os.environ["BSTAR_SECRET"] = "escaped"
    before = living_children(), mounts()
    verdicts = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for limits in (LIMITS, IMPATIENT):
            cases = [case for case in CASES if case.waits() == (limits is IMPATIENT)]
            jobs = [(case.tests, head + filled(case.program, secret, port)) for case in cases]
            with CodeVerifier(limits, workers=4, packages=packages) as verifier:
                verdicts += verifier.verify_many(jobs, retry=False)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()  # nobody came
    del os.environ["BSTAR_SECRET"]
    after = living_children(), mounts()
    return {case.name: each for case, each in zip(CASES, verdicts, strict=True)}, before, after


def test_there_are_escapes_enough():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 40


def test_attacks_aim_at_what_is_there():
    """One that names a module, an attribute or a file of before would fail for that alone."""
    assert pathlib.Path(sandbox.__file__).is_file()
    aims = []
    for case in CASES:
        patched = re.findall(r"sys\.modules\['([\w.]+)'\]", case.program)
        imported = re.findall(r"^ *import (bstar_jax[\w.]*)$", case.program, re.MULTILINE)
        assert case.program.count("bstar_jax") == len(patched) + len(imported), case.name
        for name in imported:
            importlib.import_module(name)
        for name in patched:
            module = importlib.import_module(name)
            assert pathlib.Path(module.__file__).parent.name == "inside"
            for attribute in re.findall(r"^ *module\.([\w.]+) = ", case.program, re.MULTILINE):
                assert callable(operator.attrgetter(attribute)(module)), (case.name, attribute)
                aims.append(attribute)
    assert sorted(aims) == ["Harness._finding", "Submission.ask", "encode", "same_result"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_program_escapes(escaped, case):
    verdict = escaped[0][case.name]
    assert not verdict.passed
    assert (verdict.reason, case.says in verdict.message) == (case.reason, True), verdict


@pytest.mark.slow
def test_nothing_is_left_behind(escaped):
    _, before, after = escaped
    assert after == before
    assert not leftovers()


@pytest.mark.parametrize(
    "name",
    ["read a file of the tests", "read the users", "climb out of /tmp", "list processes"],
)
def test_attacks_are_sharp(bwrap, tmp_path, name):
    """Without the sandbox they succeed, so it is the sandbox that stops them."""
    (case,) = (case for case in ESCAPES if case.name == name)
    secret = tmp_path / "expected.txt"
    secret.write_text("escaped")
    with CodeVerifier(LIMITS, unsafe=True) as verifier:
        assert verifier.verify(case.tests, filled(case.program, secret, 0)).passed


HONEST = {
    "a recursion in a thread of its own": """
        import sys, threading
        sys.setrecursionlimit(100000)
        threading.stack_size(1 << 26)
        def depth(n):
            return 0 if n == 0 else 1 + depth(n - 1)
        threading.Thread(target=lambda: print(depth(int(input())))).start()
    """,
    "its standard output closed": "import sys\nprint(input())\nsys.stdout.close()",
    "another standard output": "import sys\nprint(input())\nsys.stdout = None",
    "files of its own": """
        import tempfile
        with tempfile.NamedTemporaryFile('w+') as file:
            file.write(input())
            file.seek(0)
            print(file.read())
    """,
    "an event loop": """
        import asyncio
        async def echo():
            await asyncio.sleep(0.01)
            print(input())
        asyncio.run(echo())
    """,
    "much memory": "n = int(input())\nprint(len([n] * 10 ** 7) // 10 ** 7 * n)",
    "long numbers": "print(int(str(int(input()) * 10 ** 9999)[:4]))",
    "a dataclass and a pickle": """
        import dataclasses, pickle
        @dataclasses.dataclass
        class Number:
            value: int
        print(pickle.loads(pickle.dumps(Number(int(input())))).value)
    """,
    "standard input as bytes": "import sys\nprint(sys.stdin.buffer.read().decode().strip())",
    "standard input by its number": "print(open(0).read().strip())",
    "standard input by lines": "import sys\nfor line in sys.stdin:\n    print(line.strip())",
    "output that is never flushed": "import os\nfile = os.fdopen(1, 'w')\nfile.write(input())",
    "output that it catches": """
        import io, os, sys, atexit
        number = input()
        sys.stdout = io.StringIO()
        atexit.register(lambda: os.write(1, sys.stdout.getvalue().encode()))
        print(number)
    """,
    "an end in the middle": "print(input())\nexit()\nprint(0)",
    "an end at once": "import os\nprint(input(), flush=True)\nos._exit(0)",
    "names it did not import": "print(gcd(0, int(input())), *deque(), sep='')",
    "chance": """
        import random
        number = random.random()
        random.seed(0)
        print(input() if number == random.random() else number)
    """,
    "no prints": "import os\nos.write(1, os.read(0, 100))",
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_run(bwrap, name):
    tests = {"kind": "stdio", "inputs": ["1000\n", "1000"], "outputs": ["1000", "1000\n"]}
    with CodeVerifier(workers=1) as verifier:
        verdict = verifier.verify(tests, textwrap.dedent(HONEST[name]))
    assert verdict.passed, verdict


@pytest.mark.slow
def test_the_notice_of_a_cluster_ends_no_program(bwrap):
    # SLURM sends SIGTERM to every process of a step, those in sandboxes too.
    program = "import time\ntime.sleep(1.5)\nprint(input())"
    tests = {"kind": "stdio", "inputs": ["1"], "outputs": ["1"]}

    def tell(parent):
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    tell(int(folder.name))
                    os.kill(int(folder.name), signal.SIGTERM)

    with CodeVerifier(workers=1) as verifier:
        assert verifier.verify(tests, "print(input())").passed  # it has started
        notice = threading.Timer(0.7, tell, [os.getpid()])
        notice.start()
        assert verifier.verify(tests, program).passed
        notice.join()


def test_denied_calls_are_refused(bwrap):
    column = syscalls._MACHINES[os.uname().machine][1]
    numbers = [row[column] for row in syscalls._DENIED.values() if row[column] is not None]
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def errors(numbers):\n"
        "    return [(libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
        "            for number in numbers]\n"
    )
    outputs = [[[-1, 1]] * len(numbers)]
    tests = {"kind": "calls", "fn_name": "errors", "inputs": [[numbers]], "outputs": outputs}
    with CodeVerifier(workers=1) as verifier:
        assert verifier.verify(tests, program).passed


def filtered(machine, name, number, argument=0):
    """What the filter says to a call: a small machine for small programs."""
    words = {0: number, 4: name, 16: argument & 0xFFFFFFFF}
    program = list(struct.iter_unpack("<HBBI", syscalls.seccomp_filter(machine)))
    place, register = 0, 0
    while True:
        code, if_true, if_false, value = program[place]
        place += 1
        if code == 0x06:
            return value
        if code == 0x20:
            register = words[value]
        else:
            holds = {
                0x15: register == value,
                0x35: register >= value,
                0x45: bool(register & value),
            }[code]
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_says_what_the_table_says(machine):
    name, column = syscalls._MACHINES[machine]
    allow, refuse, kill = 0x7FFF0000, 0x00050000, 0x80000000
    denied = {row[column] for row in syscalls._DENIED.values()}
    special = {
        syscalls._CLONE[column]: (0x00010000, 0x11, 11),  # a thread; a process; EAGAIN
        syscalls._SOCKETPAIR[column]: (1, 30, 1),
        syscalls._PRLIMIT64[column]: (0, 1, 1),
    }
    for number in range(600):
        if number in special:
            good, bad, error = special[number]
            assert filtered(machine, name, number, good) == allow
            assert filtered(machine, name, number, bad) == refuse | error
        elif number == 435:
            assert filtered(machine, name, number) == refuse | 38  # ENOSYS
        else:
            assert filtered(machine, name, number) == (refuse | 1 if number in denied else allow)
    assert filtered(machine, name + 1, 0) == kill
    if machine == "x86_64":
        assert filtered(machine, name, 0x40000000) == kill


def test_a_strange_machine_is_refused():
    with pytest.raises(UserError, match="no table of system calls for 'pdp11', only for x86_64"):
        syscalls.seccomp_filter("pdp11")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(
        st.characters(codec=None, categories=None)
    ) | st.binary() | st.fractions() | st.decimals(allow_nan=False) | st.dates()
    | st.datetimes().map(lambda time: time.replace(fold=0)) | st.timedeltas()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(st.integers() | st.text(), inner) | st.sets(st.integers())
    | st.frozensets(st.text()),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_values_survive_the_wire(value):
    arrived = wire.decode(wire.encode(value))
    assert arrived == value and type(arrived) is type(value)
    assert repr(arrived) == repr(value) or isinstance(value, (set, frozenset, list, tuple, dict))


@given(
    st.binary(max_size=200) | st.text("NTFifslbtSZdohB0123456789:;-", max_size=60).map(str.encode)
)
def test_any_bytes_are_a_value_or_an_error(data):
    try:
        wire.decode(data)
    except ValueError as error:
        assert str(error)


def test_subclasses_arrive_as_their_base():
    import collections
    import enum

    class Colour(enum.IntEnum):
        RED = 3

    pair = collections.namedtuple("pair", "a b")
    sent = [Colour.RED, pair(1, 2), collections.Counter("aab"), collections.OrderedDict(x=1)]
    arrived = wire.decode(wire.encode(sent))
    assert arrived == [3, (1, 2), {"a": 2, "b": 1}, {"x": 1}]
    assert [type(value) for value in arrived] == [int, tuple, dict, dict]


def test_limits_are_checked():
    assert Limits(cpu_seconds=2, wall_seconds=0.5).doubled() == Limits(4, 1.0, 120.0)
    for wrong in ({"cpu_seconds": 0}, {"cpu_seconds": 0.5}, {"memory_bytes": -1}, {"files": 3}):
        (name,) = wrong
        with pytest.raises(UserError, match=f"the limit {name} of a sandbox is {wrong[name]}"):
            Limits(**wrong)


@pytest.fixture
def fresh():
    """The tests of the sandbox are made anew, and again after the test."""
    for function in (self_test.check, bubblewrap._bubblewrap):
        function.cache_clear()
    yield
    for function in (self_test.check, bubblewrap._bubblewrap):
        function.cache_clear()


def test_without_bubblewrap_nothing_runs(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install bubblewrap"):
        CodeVerifier()
    with CodeVerifier(unsafe=True) as verifier:  # unless that is asked for
        tests = {"kind": "stdio", "inputs": ["1"], "outputs": ["2"]}
        assert verifier.verify(tests, "print(int(input()) + 1)").passed


def test_where_no_sandbox_can_be_made_it_says_why(fresh, monkeypatch, tmp_path):
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="here: bwrap: No permissions to create new namespace. .*"):
        CodeVerifier()


def test_a_sandbox_that_leaks_is_noticed(bwrap, fresh, monkeypatch):
    command = bubblewrap.command
    added = ["--perms", "0755", "--dir", "/proc"]
    for parent in reversed(ROOT.parents[:-1]):
        added += ["--perms", "0755", "--dir", str(parent)]
    added += ["--ro-bind", str(ROOT), str(ROOT)]

    def leaking(*arguments):
        words = command(*arguments)
        place = words.index("--remount-ro", words.index("--chdir"))
        return [*words[:place], *added, *words[place:]]

    monkeypatch.setattr(bubblewrap, "command", leaking)
    with pytest.raises(UserError, match="it sees this project .*; it sees processes "):
        CodeVerifier()


def ask(box, *command, seconds=20.0):
    return box.ask(*command, deadline=time.monotonic() + seconds)


def test_without_a_change_of_user_it_works_too(bwrap, monkeypatch):
    monkeypatch.setattr(bubblewrap, "changes_user", lambda: False)
    with Sandbox(LIMITS) as box:
        assert (
            ask(box, "load", ("import os\ndef who():\n    return os.getuid()",), "")[0] == "correct"
        )
        assert ask(box, "call", "who", [], bubblewrap.NOBODY) == ("correct", "", b"")


def test_sandboxes_do_not_meet(bwrap):
    program = (
        "import os\ndef leave(name):\n    open('/tmp/' + name, 'w').close()\n"
        "    return os.listdir('/tmp'), os.getpid()\n",
    )
    with Sandbox(LIMITS) as one, Sandbox(LIMITS) as other:
        for box in (one, other):
            assert ask(box, "load", program, "")[0] == "correct"
        for box, name in ((one, "a"), (other, "b")):
            assert ask(box, "call", "leave", [name], [[name], 2]) == ("correct", "", b"")


def test_a_sandbox_ends_when_it_is_late_or_closed(bwrap, adopted):
    before = living_children()
    with Sandbox(LIMITS) as box:
        ask(box, "load", ("import time",), "")
        ask(box, "prepare", "", ("time",), "")
        with pytest.raises(TimedOut):
            ask(box, "test", "time.sleep(60)", seconds=0.2)
        assert len(living_children()) == len(before) + 1
    assert living_children() == before
    box.close()
    with Sandbox(LIMITS) as box:
        box.kill()
        with pytest.raises(Broken):
            ask(box, "load", ("pass",), "")


TRAINER = """
import os, sys
from bstar_jax.grading.code.verifier import CodeVerifier
tests = {"kind": "stdio", "inputs": ["x"], "outputs": ["x"]}
print("ready", flush=True)
with CodeVerifier(workers=2) as verifier:
    verifier.verify_many([(tests, "while True:\\n    pass")] * 4)
"""


def test_no_sandbox_outlives_its_trainer(bwrap, adopted):
    before = living_children()
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER], cwd=ROOT, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    trainer.stdout.readline()
    waited = time.monotonic() + 30
    while time.monotonic() < waited and not grandchildren(trainer.pid):
        time.sleep(0.05)
    assert grandchildren(trainer.pid), "no sandbox was started"
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    while time.monotonic() < waited and living_children() != before:
        time.sleep(0.05)
    assert living_children() == before
    trainer.stdout.close()


def grandchildren(process):
    """Processes below a child of another process."""
    return [grandchild for child in children(process) for grandchild in children(child)]


def children(process):
    """Children of a process; none where it has just ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        paths = pathlib.Path(f"/proc/{process}").glob("task/*/children")
        return [child for path in paths for child in path.read_text().split()]
    return []
