"""Runs the main door, and kills its own process just before a file takes its name; for `kills.py`.

    python -m benchmarks.survival.dying --record FILE -- --config=... --workdir=...
    python -m benchmarks.survival.dying --die-at PATH -- --config=... --workdir=...

Python announces every rename and every removal of a folder before it happens. --record writes
down when (seconds of the monotonic clock) and onto what; --die-at sends SIGKILL to this process
at the first that is onto PATH: what was written stands under its temporary name.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time


def target_of(event, arguments):
    """The path that is about to take a name or to be removed, or None."""
    path = {"os.rename": 1, "shutil.rmtree": 0}.get(event)
    if path is None:
        return None
    return os.path.abspath(os.fsdecode(os.fspath(arguments[path])))


def main():
    mode, path, separator, *flags = sys.argv[1:]
    if mode not in ("--record", "--die-at") or separator != "--":
        raise SystemExit(__doc__)
    record = open(path, "a", buffering=1) if mode == "--record" else None

    def hook(event, arguments):
        target = target_of(event, arguments)
        if target is None:
            return
        if record:
            record.write(f"{time.monotonic()} {event} {target}\n")
        elif target == path:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sys.argv = ["main", *flags]
    runpy.run_module("bstar_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
