"""The end of a command: expected errors, their exit codes, and the line that explains them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

OK, FAILED, BAD_INPUT, DOES_NOT_FIT, PREEMPTED = 0, 1, 2, 3, 75


class UserError(Exception):
    """Bad input. The message alone says what was given, what is allowed, what to write."""


class Preempted(Exception):
    """The process was asked to stop. Its state is saved, and a restart continues from there."""


def run_door(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a door and exits: 0, 2 on bad input, 75 when preempted, 1 on anything else."""
    try:
        main(sys.argv)
    except BrokenPipeError:  # who read what is printed has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
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
            "continues from what is stored"
        )
    if isinstance(error, KeyboardInterrupt):
        return FAILED, "interrupted: the same command continues a run where it stopped"
    return FAILED, None
