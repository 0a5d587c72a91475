"""Keeps helper processes alive on SIGTERM, which clusters send to every process of a job."""

from __future__ import annotations

from collections.abc import Sequence


def ignoring_sigterm(command: Sequence[str]) -> list[str]:
    """Wraps a command so that SIGTERM ends neither its process nor its children.

    The process keeps its number. Without this, the notice by which a cluster takes a machine away
    would end a grader before the run has stopped, and a right answer would be stored as one that
    could not be graded. The processes still end with the run, as a pipe to it closes.

    Example: ["bwrap", "--ro-bind"] -> ["/bin/sh", "-c", "trap ...", "sh", "bwrap", "--ro-bind"]
    """
    return ["/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", *command]
