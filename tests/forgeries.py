"""Programs that try to pass a test without doing what it asks; see `escapes`.

The numbers of files in them are those that `inside.runner` gives a program: 3 is where it is
asked and 4 where it answers, or, of a script, 3 where it says why it failed.
"""

from __future__ import annotations

import textwrap

from tests.escapes import Escape

_ASSERTS = {
    "kind": "asserts",
    "setup": "",
    "asserts": ["assert double(2) == 4", "assert double(5) == 10", "assert double(-1) == -2"],
}
_CALLS = {"kind": "calls", "fn_name": "double", "inputs": [[2], [5]], "outputs": [4, [10]]}
_STDIO = {"kind": "stdio", "inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}
_CHECK = {
    "kind": "check",
    "prompt": (
        "def value(x, y):\n    return y - 2 * x\n\n\n"
        'def double(x):\n    """Twice x, so that value(x, double(x)) is 0."""\n'
    ),
    "test": "def check(candidate):\n    assert value(2, candidate(2)) == 0\n",
    "entry_point": "double",
}


def _forgery(name: str, program: str, reason: str, says: str, tests: dict = _ASSERTS) -> Escape:
    return Escape(name, textwrap.dedent(program).lstrip("\n"), reason, says, tests)


FORGERIES = [
    _forgery("end well before the tests", "import sys\nsys.exit(0)", "error", "SystemExit"),
    _forgery("end at once before the tests", "import os\nos._exit(0)", "error", "exit code 0"),
    _forgery(
        "end well in the test",
        "import sys\ndef double(x):\n    sys.exit(0)", "error", "SystemExit",
    ),
    _forgery(
        "end at once in the test",
        "import os\ndef double(x):\n    os._exit(0)", "error", "exit code 0",
    ),
    _forgery(
        "end at once from a thread",
        "import os, threading\nthreading.Timer(0.05, os._exit, [0]).start()\n"
        "import time\ndef double(x):\n    time.sleep(9)",
        "error", "exit code 0",
    ),
    _forgery(
        "equal everything",
        "class Any:\n    def __eq__(self, other):\n        return True\n"
        "    __hash__ = None\ndef double(x):\n    return Any()",
        "wrong", "of the program's own",
    ),
    _forgery(
        "be a number that equals everything",
        "class Any(int):\n    def __eq__(self, other):\n        return True\n"
        "    __hash__ = int.__hash__\ndef double(x):\n    return Any(1)",
        "wrong", "last answer was 1",
    ),
    _forgery(
        "be a list that equals everything",
        "class Any(list):\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Any([1])",
        "wrong", "[1]", _CALLS,
    ),
    _forgery(
        "pretend to be of another class",
        "class Any:\n    __class__ = int\n    def __eq__(self, other):\n        return True\n"
        "def double(x):\n    return Any()",
        "wrong", "of the program's own", _CALLS,
    ),
    _forgery(
        "compute with a value that gives in to every operation",
        "class Any:\n    def __getattr__(self, name):\n        return lambda *given: 0\n"
        "    def __rsub__(self, other):\n        return 0\n    __sub__ = __rmul__ = __rsub__\n"
        "def double(x):\n    return Any()",
        "error", "TypeError", _CHECK,
    ),
    _forgery(
        "patch the builtins",
        "import builtins\nbuiltins.AssertionError = builtins.SystemExit\n"
        "builtins.isinstance = lambda *given: True\nbuiltins.repr = lambda value: '4'\n"
        "builtins.__import__ = None\ndef double(x):\n    return 0",
        "wrong", "last answer was 0",
    ),
    _forgery(
        "patch the harness in its own memory",
        """
        import sys
        module = sys.modules['bstar_jax.isolation.inside.harness']
        module.same_result = lambda *given: True
        module.Harness._finding = lambda *given: ('correct', '', b'')
        module.Submission.ask = lambda *given: 4
        def double(x):
            return 0
        """,
        "wrong", "last answer was 0",
    ),
    _forgery(
        "patch how values are sent",
        """
        import sys
        module = sys.modules['bstar_jax.isolation.inside.runner']
        module.encode = lambda *given: b't2:s7:correcti1;'
        def double(x):
            return 0
        """,
        "error", "no reason",
    ),
    _forgery(
        "look for the expected values in memory",
        """
        import gc, sys
        def double(x):
            seen = [o for o in gc.get_objects() if isinstance(o, str) and 'assert double' in o]
            frame = sys._getframe()
            while frame:
                seen += [v for v in frame.f_locals.values() if 'assert double' in str(v)[:10000]]
                frame = frame.f_back
            return len([text for text in seen if 'f_back' not in str(text)])
        """,
        "wrong", "last answer was 0",
    ),
    _forgery(
        "write findings to every open file",
        """
        import os
        finding = b't3:s7:corrects0:b0:'
        for file in range(256):
            try:
                os.write(file, len(finding).to_bytes(8, 'big') + finding)
            except OSError:
                continue
        def double(x):
            return 0
        """,
        "error", "cannot be read",
    ),
    _forgery(
        "answer before it is asked",
        """
        import os
        answer = b't2:s5:valuei1;'
        for _ in range(100):
            os.write(4, len(answer).to_bytes(8, 'big') + answer)
        def double(x):
            return 0
        """,
        "wrong", "last answer was 1",
        {**_CALLS, "inputs": [[2]], "outputs": [4]},
    ),
    _forgery(
        "go on answering when it has answered",
        """
        import os, threading
        answer = b't2:s5:valuei4;'
        def answers():
            while True:
                os.write(4, len(answer).to_bytes(8, 'big') + answer)
        def double(x):
            threading.Thread(target=answers).start()
            return 4
        """,
        "wrong", "last answer was 4",
    ),
    _forgery(
        "send what is nested too deeply",
        """
        import os
        def double(x):
            answer = b't2:s5:value' + b'l1:' * 100000 + b'N'
            os.write(4, len(answer).to_bytes(8, 'big') + answer)
        """,
        "error", "cannot be read: not a value: RecursionError",
    ),
    _forgery(
        "send what takes the harness long",
        """
        import os
        def double(x):
            same_hash = [place * ((1 << 61) - 1) for place in range(1, 60000)]
            answer = b't2:s5:valueS%d:' % len(same_hash)
            answer += b''.join(b'i%x;' % number for number in same_hash)
            os.write(4, len(answer).to_bytes(8, 'big'))
            os.write(4, answer)
        """,
        "timeout", "wall time",
    ),
    _forgery(
        "send a frame without end",
        "import os\ndef double(x):\n    os.write(4, b'\\x7f' + bytes(7))\n    return 0",
        "error", "larger than the limit",
    ),
    _forgery(
        "close what it is asked by",
        "import os, time\ndef double(x):\n    os.close(4)\n    time.sleep(60)", "error", "signal 9",
    ),
    _forgery(
        "bring its own set",
        "class Same:\n    def __init__(self, *given):\n        pass\n"
        "    def __eq__(self, other):\n        return True\nset = sorted = Same\n"
        "def some(x):\n    return []",
        "wrong", "last answer was []",
        {"kind": "asserts", "setup": "", "asserts": ["assert set(some(1)) == set([1, 2])"]},
    ),
    _forgery(
        "bring its own module",
        "class math:\n    isclose = staticmethod(lambda *given, **named: True)\n"
        "def half(x):\n    return 0",
        "wrong", "last answer was 0",
        {"kind": "asserts", "setup": "", "asserts": ["assert math.isclose(half(3), 1.5)"]},
    ),
    _forgery(
        "bring its own check",
        "    return 0\ncheck = lambda candidate: None\nvalue = lambda x, y: 0\n",
        "wrong", "value(2, candidate(2))", _CHECK,
    ),
    _forgery(
        "raise what fails the test in its own words",
        "class Fine(BaseException):\n    pass\ndef double(x):\n    raise Fine('correct')",
        "error", "Fine: correct",
    ),
    _forgery(
        "raise what cannot be told",
        "class Odd(Exception):\n    def __str__(self):\n        raise self\n"
        "def double(x):\n    raise Odd",
        "error", "exit code",
    ),
    _forgery(
        "print well and end badly", "print(2 * int(input()))\nraise SystemExit(1)\n",
        "error", "exit code 1", _STDIO,
    ),
    _forgery(
        "say that it is well and end badly",
        """
        import os
        told = b't2:s7:corrects0:'
        os.write(3, len(told).to_bytes(8, 'big') + told)
        os._exit(1)
        """,
        "error", "no reason", _STDIO,
    ),
    _forgery(
        "keep what it was asked for the next test",
        """
        import os
        number = int(input())
        if os.path.exists('/tmp/seen'):
            number = int(open('/tmp/seen').read())
        open('/tmp/seen', 'w').write(str(number))
        print(2 * number)
        """,
        "wrong", "it printed '4", _STDIO,
    ),
]  # fmt: skip
