"""Helpers of grading outlive SIGTERM: clusters send it to every process, not to the run alone."""

from __future__ import annotations

from collections.abc import Sequence


def ignoring_sigterm(command: Sequence[str]) -> list[str]:
    """The command, in a process of the same number, which SIGTERM does not end, nor its children.

    Otherwise the notice by which a cluster takes a machine away would end a grader before the run
    has stopped, and a right answer would be stored as one that could not be graded. All of them end
    with the run: a pipe to it closes.

    Example: ["bwrap", "--ro-bind"] -> ["/bin/sh", "-c", "trap ...", "sh", "bwrap", "--ro-bind"]
    """
    return ["/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", *command]
