"""Tests the sandbox on this machine: does one start, and does it shut a program in?"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
import time

from bstar_jax.config import UserError
from bstar_jax.isolation.packages import Packages
from bstar_jax.isolation.sandbox import Broken, Limits, Sandbox, TimedOut

_SECONDS = 60.0
_PROBE = """\
import _socket, _thread, os
def _is_denied(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return True
    return False
def is_hidden(path):
    return not os.path.exists(path)
def is_read_only(path):
    return _is_denied(open, path, "w")
def is_alone():
    return os.getppid() == 1 and _is_denied(os.fork) and _is_denied(_socket.socket)
def has_few_threads():
    gate, count = _thread.allocate_lock(), 0
    _thread.stack_size(1 << 15)
    with gate:
        while count < 1000:
            try:
                _thread.start_new_thread(gate.acquire, ())
            except RuntimeError:
                return True
            count += 1
    return False
"""


@functools.cache
def check(*, unsafe: bool = False, packages: Packages | None = None) -> None:
    """Tests, once, that a sandbox starts here and that it shuts a program in.

    Args:
      unsafe: Whether to do without bubblewrap; the sandbox then only has to start.
      packages: The packages that the program may import.

    Raises:
      UserError: If there is no bubblewrap, if it cannot make a sandbox here, or if one leaks.
    """
    if sys.platform != "linux":
        raise UserError(f"programs are graded on Linux, and this is {sys.platform!r}")
    deadline = time.monotonic() + _SECONDS
    calls = {
        "sees this project": ("is_hidden", [str(pathlib.Path(__file__).resolve())]),
        "sees processes": ("is_hidden", ["/proc"]),
        "writes outside /tmp": ("is_read_only", ["/file"]),
        "starts a process or opens a socket": ("is_alone", []),
        "starts a thousand threads": ("has_few_threads", []),
    }
    try:
        with Sandbox(Limits(), unsafe=unsafe, packages=packages) as sandbox:
            found = {"fails": sandbox.ask("load", (_PROBE,), "", deadline=deadline)}
            for fault, call in calls.items() if not unsafe else ():
                found[fault] = sandbox.ask("call", *call, True, deadline=deadline)
    except (Broken, TimedOut) as error:
        raise UserError(
            f"no sandbox can be made here: {error or 'no answer'}. bubblewrap needs user "
            "namespaces: allow them (sysctl user.max_user_namespaces above 0, and, where they "
            "exist, kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0), in a container with a seccomp "
            "profile that lets unshare and mount pass"
        ) from error
    faults = [f"it {fault} ({finding[1]})" for fault, finding in found.items() if finding[1]]
    if faults:
        raise UserError(
            "a sandbox made here does not hold, so no program runs in it: "
            f"{'; '.join(faults)}. It needs Linux 5.14 or later and bubblewrap 0.6 or later"
        )


@functools.cache
def check_imports(packages: Packages, limits: Limits, *, unsafe: bool = False) -> None:
    """Tests, once, that programs can import packages within their limits.

    Time aside: it does not count, as packages are imported before the program starts.

    Args:
      packages: The packages.
      limits: What programs may use.
      unsafe: Whether to do without bubblewrap.

    Raises:
      UserError: If one cannot be imported.
    """
    patient = dataclasses.replace(
        limits, cpu_seconds=int(_SECONDS), wall_seconds=_SECONDS, total_seconds=_SECONDS
    )
    for name in packages.names:
        # Not as a name in the text, which the harness would import.
        program = f"__import__({name[:1]!r} + {name[1:]!r})"
        deadline = time.monotonic() + _SECONDS
        try:
            with Sandbox(patient, unsafe=unsafe, packages=packages) as sandbox:
                reason, message, _ = sandbox.ask("load", (program,), "", deadline=deadline)
        except (Broken, TimedOut) as error:
            reason, message = "error", str(error) or "no answer"
        if reason != "correct":
            raise UserError(
                f"rewards.code.packages has {name!r}, which a program cannot import: {message}. "
                f"Raise rewards.code.memory_mib above {limits.memory_bytes >> 20} if it needs more "
                "memory, or drop it"
            )
