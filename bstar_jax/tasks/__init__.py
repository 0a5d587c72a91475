"""What is asked: tasks with their queries, reference answers and human solutions.

`load` is the one way in, `load_responses` for responses that are to be graded. A loader per kind
of task turns files, or a generator, into a `Task`; each of its sources says how responses to
its queries are graded, by a kind of answer that `grading` knows.
"""

from bstar_jax.tasks.loading import TASKS, check_distinct, load
from bstar_jax.tasks.responses import load_responses
from bstar_jax.tasks.task import Task

__all__ = ["TASKS", "Task", "check_distinct", "load", "load_responses"]
