"""How a command ends: the errors that are foreseen, their exit codes, the line that says why."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

OK, FAILED, BAD_INPUT, DOES_NOT_FIT, PREEMPTED = 0, 1, 2, 3, 75


class UserError(Exception):
    """Bad input. The message alone says what was given, what is allowed, what to write."""


class Preempted(Exception):
    """The process was asked to stop. Its state is saved, and a restart goes on from there."""


def run_door(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a door and exits: 0, 2 on bad input, 75 when preempted, 1 on anything else."""
    try:
        main(sys.argv)
    except (Exception, KeyboardInterrupt) as error:
        code, line = outcome(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(code)
    sys.exit(OK)


def outcome(error: BaseException) -> tuple[int, str | None]:
    """The exit code that an error ends a command with, and the line that says why.

    The line is None for an error that was not foreseen: a traceback says more.
    """
    if isinstance(error, UserError):
        return BAD_INPUT, f"error: {error}"
    if isinstance(error, Preempted):
        return PREEMPTED, f"stopped: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" of {error.filename}" if error.filename else ""
        return FAILED, (
            f"error: the disk{place} is full; free space and give the same command again: a run "
            "goes on from what is stored"
        )
    if isinstance(error, KeyboardInterrupt):
        return FAILED, "interrupted: the same command continues a run where it stopped"
    return FAILED, None
