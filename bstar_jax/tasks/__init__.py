"""Tasks: queries, with their reference answers and human solutions.

`load_task` loads the task of a run, and `load_responses` loads responses to be graded. A format per
kind of task turns files, or a generator, into a `LoadedTask`; each of its sources says how its
responses are graded: by a kind of answer that `grading` knows, or by a function. `Task` is what a
task function from outside returns. `fingerprint` tells data apart.
"""

from bstar_jax.tasks.fingerprint import fingerprint
from bstar_jax.tasks.left_out import LeftOut, write_left_out
from bstar_jax.tasks.loading import TASKS, check_distinct, load, load_source
from bstar_jax.tasks.own import Task
from bstar_jax.tasks.responses import load_responses
from bstar_jax.tasks.sources import load_task
from bstar_jax.tasks.task import LoadedTask

__all__ = [
    "TASKS",
    "LeftOut",
    "LoadedTask",
    "Task",
    "check_distinct",
    "fingerprint",
    "load",
    "load_responses",
    "load_source",
    "load_task",
    "write_left_out",
]
