"""Programs that try to get out of the sandbox; `forgeries` holds those that want a better verdict.

Each is graded by tests that it must not pass, and it has to fail for the reason given here: one
that fails because of a slip in its attack would prove nothing. Most return "escaped" where they
get what they are after. In their text `@SECRET@` stands for a file of the machine that holds the
word "escaped", `@PROJECT@` for a file of this project, `@PORT@` for a port that the machine
listens on, `@PID@` for a process of the machine's. Whatever they leave behind has LEFTOVER in its
name.
"""

from __future__ import annotations

import dataclasses
import textwrap

LEFTOVER = "escape-leftover"

_ATTEMPT = {"kind": "asserts", "setup": "", "asserts": ["assert attempt() == 'escaped'"]}
_STDIO = {"kind": "stdio", "inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}


@dataclasses.dataclass(frozen=True)
class Escape:
    """One program.

    Attributes:
      name: What it tries.
      program: Its text.
      reason: Why it fails: "wrong", "error" or "timeout".
      says: Part of the message that it fails with.
      tests: What it is graded by.
    """

    name: str
    program: str
    reason: str
    says: str
    tests: dict = dataclasses.field(default_factory=lambda: _ATTEMPT)

    def waits(self) -> bool:
        """Whether it uses no CPU time of its own, and wall time alone can end it."""
        return self.reason == "timeout" and self.says == "wall time"


def _attempt(name: str, body: str, says: str, reason: str = "error") -> Escape:
    """A program whose function `attempt` has the given body."""
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return Escape(name, f"import ctypes, os, sys\ndef attempt():\n{body}\n", reason, says)


_DENIED = "Operation not permitted"
_MISSING = "No such file"
_READ_ONLY = "Read-only file system"
_NOTHING = "last answer was"

READING = [
    _attempt("read a file of the tests", "return open('@SECRET@').read()", _MISSING),
    _attempt("read this project", "return open('@PROJECT@') and 'escaped'", _MISSING),
    _attempt("read the users", "return open('/etc/passwd') and 'escaped'", _MISSING),
    _attempt("read the home of root", "return os.listdir('/root') and 'escaped'", _MISSING),
    _attempt("read another's home", "return os.listdir('/home') and 'escaped'", _NOTHING, "wrong"),
    _attempt(
        "look through all files for the answer",
        """
        secret = os.path.basename('@SECRET@')
        for folder, folders, files in os.walk('/'):
            folders[:] = [name for name in folders if name != 'lib']
            if secret in files:
                return open(os.path.join(folder, secret)).read()
        """,
        "last answer was None", "wrong",
    ),
    _attempt(
        "climb out of /tmp",
        "return open('/tmp' + '/..' * 20 + '@SECRET@').read()", _MISSING,
    ),
    _attempt(
        "read through a symbolic link",
        "os.symlink('@SECRET@', '/tmp/link')\nreturn open('/tmp/link').read()", _MISSING,
    ),
    _attempt(
        "read the environment",
        "return os.environ.get('BSTAR_SECRET')", "last answer was None", "wrong",
    ),
    _attempt("read its parent's environment", "return open('/proc/1/environ').read()", _MISSING),
    _attempt("read its parent's memory", "return open('/proc/1/mem', 'rb').read(1)", _MISSING),
    _attempt("list processes", "return os.listdir('/proc') and 'escaped'", _MISSING),
    _attempt("read the machine's settings", "return os.listdir('/sys') and 'escaped'", _MISSING),
    _attempt("read a disk", "return open('/dev/vda', 'rb') and 'escaped'", _MISSING),
    _attempt(
        "make a device of a disk",
        "os.mknod('/tmp/disk', 0o60644, os.makedev(254, 0))\nreturn 'escaped'", _DENIED,
    ),
    _attempt("import an installed package", "import jax\nreturn 'escaped'", "No module named"),
    _attempt("import this project", "import bstar_jax.config\nreturn 'escaped'", "No module named"),
    _attempt(
        "use files that were left open",
        """
        for file in range(5, 4096):
            try:
                os.fstat(file)
            except OSError:
                continue
            return 'escaped'
        """,
        "last answer was None", "wrong",
    ),
    _attempt(
        "open a file by its number",
        """
        handle = ctypes.create_string_buffer(b'\\x08\\0\\0\\0\\x01\\0\\0\\0' + bytes(120))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.open_by_handle_at(os.open('/tmp', 0), handle, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 'escaped'
        """,
        _DENIED,
    ),
]  # fmt: skip

WRITING = [
    _attempt("write at the top", f"open('/{LEFTOVER}', 'w')\nreturn 'escaped'", _READ_ONLY),
    _attempt("write to home", f"open('/home/{LEFTOVER}', 'w')\nreturn 'escaped'", _READ_ONLY),
    _attempt("write to /dev", f"open('/dev/{LEFTOVER}', 'w')\nreturn 'escaped'", _READ_ONLY),
    _attempt(
        "change the library that later programs import",
        f"open(os.path.dirname(os.__file__) + '/{LEFTOVER}.py', 'w')\nreturn 'escaped'", _READ_ONLY,
    ),
    _attempt("overwrite a library", "open(os.__file__, 'a')\nreturn 'escaped'", "rror"),
    _attempt("remove a library", "os.remove(os.__file__)\nreturn 'escaped'", _READ_ONLY),
    _attempt("open up a library", "os.chmod(os.__file__, 0o777)\nreturn 'escaped'", _READ_ONLY),
    _attempt(
        "write through a symbolic link",
        f"os.symlink('/usr/lib', '/tmp/link')\nopen('/tmp/link/{LEFTOVER}', 'w')\nreturn 'escaped'",
        _READ_ONLY,
    ),
    _attempt("put something in the place of /tmp", "os.rename('/tmp', '/t')", "rror"),
    _attempt(
        "link a library to where it can write",
        "os.link(os.__file__, '/tmp/os.py')\nreturn 'escaped'", "cross-device",
    ),
    _attempt(
        "mount the files writable",
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(None, b'/', None, 32, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 'escaped'
        """,
        _DENIED,
    ),
    _attempt("change the root", "os.chroot('/tmp')\nreturn 'escaped'", _DENIED),
    _attempt("become root", "os.setuid(0)\nreturn 'escaped'", "rror"),
    _attempt(
        "be root in a user namespace of its own",
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 'escaped'
        """,
        _DENIED,
    ),
    _attempt("type on the terminal", "open('/dev/tty', 'r+')\nreturn 'escaped'", _MISSING),
]  # fmt: skip

CONNECTING = [
    _attempt(
        "connect to the machine",
        "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), 2)\nreturn 'escaped'",
        _DENIED,
    ),
    _attempt(
        "ask for a page",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:@PORT@/', timeout=2)\n"
        "return 'escaped'",
        _DENIED,
    ),
    _attempt(
        "send a packet",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nreturn 'escaped'",
        _DENIED,
    ),
    _attempt(
        "connect to the host of a virtual machine",
        "import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)\nreturn 'escaped'",
        _DENIED,
    ),
    _attempt(
        "connect to a process by a name",
        "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0@PORT@')\nreturn 'escaped'",
        _DENIED,
    ),
    _attempt(
        "pair sockets of a strange family",
        "import socket\nsocket.socketpair(30, socket.SOCK_STREAM)\nreturn 'escaped'",
        _DENIED,
    ),
    _attempt(
        "hold memory in the buffers of sockets",
        """
        import socket
        for one in socket.socketpair():
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        return 'escaped'
        """,
        _DENIED,
    ),
]

PROCESSES = [
    _attempt("start a process", "os.fork()\nreturn 'escaped'", "temporarily unavailable"),
    _attempt(
        "leave a daemon behind",
        f"""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    open('/tmp/{LEFTOVER}', 'a').write('.')
        return 'escaped'
        """,
        "temporarily unavailable",
    ),
    _attempt(
        "bomb with processes",
        "while True:\n    os.fork()", "temporarily unavailable",
    ),
    _attempt(
        "bomb with processes that are started otherwise",
        "import subprocess\nwhile True:\n    subprocess.Popen([sys.executable, '-c', 'pass'])",
        "temporarily unavailable",
    ),
    _attempt(
        "spawn a shell",
        "os.posix_spawn(sys.executable, ['python'], {})\nreturn 'escaped'", "unavailable",
    ),
    _attempt(
        "become another program",
        "os.execv(sys.executable, ['python', '-O', '-c', 'print(1)'])", _DENIED,
    ),
    _attempt(
        "bomb with threads",
        """
        import threading, time
        threading.stack_size(1 << 15)
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(60,)).start()
        return 'escaped'
        """,
        "can't start new thread",
    ),
    _attempt(
        "kill the harness",
        """
        import signal
        for number in signal.valid_signals() - {signal.SIGIO}:
            os.kill(os.getppid(), number)
        return 'harness lives'
        """,
        "harness lives", "wrong",
    ),
    _attempt(
        "tell the harness that the trainer is dead",
        "os.kill(os.getppid(), 29)\nreturn 'escaped'", "the sandbox ended",
    ),
    _attempt("kill another process", "os.kill(@PID@, 9)\nreturn 'escaped'", "No such process"),
    _attempt("kill all others", "os.kill(-1, 9)\nreturn 'escaped'", "No such process"),
    _attempt("kill its group", "os.killpg(0, 9)\nreturn 'escaped'", "signal 9"),
    _attempt(
        "trace the harness",
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ptrace(16, os.getppid(), 0, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 'escaped'
        """,
        _DENIED,
    ),
    _attempt(
        "read the harness's memory",
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 'escaped'
        """,
        _DENIED,
    ),
    _attempt(
        "take the harness's files",
        "file = os.pidfd_open(os.getppid())\nreturn 'escaped'", _DENIED,
    ),
    _attempt(
        "take the harness's memory away",
        "import resource\nresource.prlimit(1, resource.RLIMIT_AS, (1, 1))\nreturn 'escaped'",
        "permitted",
    ),
]  # fmt: skip

LIMITS = [
    _attempt("loop", "while True:\n    pass", "CPU time", "timeout"),
    _attempt("loop in C", "return 7 ** (10 ** 9)", "CPU time", "timeout"),
    _attempt(
        "loop and ignore every signal",
        """
        import signal
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
        """,
        "CPU time", "timeout",
    ),
    _attempt(
        "loop in threads",
        """
        import threading
        def loop():
            while True:
                pass
        for _ in range(4):
            threading.Thread(target=loop).start()
        loop()
        """,
        "CPU time", "timeout",
    ),
    _attempt("raise its own limits", "import resource\n"
             "resource.setrlimit(resource.RLIMIT_CPU, (99, 99))\nreturn 'escaped'", "not allowed"),
    _attempt("sleep", "import time\ntime.sleep(60)", "wall time", "timeout"),
    _attempt("stop itself", "os.kill(os.getpid(), 19)", "wall time", "timeout"),
    _attempt("take all memory", "x = []\nwhile True:\n    x.append(bytes(1 << 20))", "MemoryError"),
    _attempt("take all memory at once", "return bytes(1 << 40)", "MemoryError"),
    _attempt("map all memory", "import mmap\nreturn mmap.mmap(-1, 1 << 40)", "Cannot allocate"),
    _attempt(
        "take memory that no limit counts",
        "file = os.memfd_create('x')\nwhile True:\n    os.write(file, bytes(1 << 20))", _DENIED,
    ),
    _attempt(
        "share memory that outlives it",
        """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.shmget(0, ctypes.c_size_t(1 << 30), 0o1666) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 'escaped'
        """,
        _DENIED,
    ),
    _attempt(
        "fill the disk",
        f"""
        for number in range(10000):
            with open(f'/tmp/{LEFTOVER}-{{number}}', 'wb') as file:
                file.write(bytes(1 << 20))
        return 'escaped'
        """,
        "No space left",
    ),
    _attempt(
        "write one huge file",
        f"file = open('/tmp/{LEFTOVER}', 'wb')\nwhile True:\n    file.write(bytes(1 << 20))",
        "too large",
    ),
    _attempt("open files without end", "while True:\n    os.pipe()", "Too many"),
    _attempt("return too much", "return 'x' * (1 << 26)", "larger than the limit"),
    _attempt(
        "return what never ends",
        "value = []\nvalue.append(value)\nreturn value", "RecursionError",
    ),
    _attempt("crash", "ctypes.string_at(0)", "signal 11"),
    _attempt("print without end", "while True:\n    print('x' * 1000)", "CPU time", "timeout"),
    Escape(
        "print too much", "while True:\n    print('x' * 1000)\n", "error", "too large", _STDIO
    ),
    Escape("read without end", "while True:\n    input()\n", "error", "EOFError", _STDIO),
    Escape("wait for a thread that never ends", textwrap.dedent("""
        import threading, time
        threading.Thread(target=time.sleep, args=(60,)).start()
        print(2 * int(input()))
    """), "timeout", "wall time", _STDIO),
]  # fmt: skip

ESCAPES = [*READING, *WRITING, *CONNECTING, *PROCESSES, *LIMITS]
