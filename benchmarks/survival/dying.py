"""Runs the main door, and kills its own process just before a file takes its name; for `kills`.

    python -m benchmarks.survival.dying --record FILE -- --config=... --workdir=...
    python -m benchmarks.survival.dying --die-at PATH -- --config=... --workdir=...

Python announces every rename and every removal of a folder before it happens. `--record` writes
down when (seconds of the monotonic clock) and what is about to be replaced or removed. `--die-at`
sends SIGKILL to this process the first time that this is PATH: what was written then still has its
temporary name.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any


def target(event: str, arguments: Sequence[Any]) -> str | None:
    """The path that is about to be replaced or removed; None for another event."""
    position = {"os.rename": 1, "shutil.rmtree": 0}.get(event)
    if position is None:
        return None
    return os.path.abspath(os.fsdecode(os.fspath(arguments[position])))


def main() -> None:
    """Sets the hook and becomes the main door."""
    if "--help" in sys.argv[1:2]:
        print(__doc__)
        return
    mode, path, separator, *flags = sys.argv[1:]
    if mode not in ("--record", "--die-at") or separator != "--":
        raise SystemExit(__doc__)
    record = open(path, "a", buffering=1) if mode == "--record" else None  # noqa: SIM115  (open to the end)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        found = target(event, arguments)
        if found is None:
            return
        if record:
            record.write(f"{time.monotonic()} {event} {found}\n")
        elif found == path:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sys.argv = ["main", *flags]
    runpy.run_module("bstar_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
