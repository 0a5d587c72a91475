"""What is asked: tasks with their queries, reference answers and human solutions.

`load` is the one way in, `load_responses` for responses that are to be graded. A loader per
kind of task turns files, or a generator, into a `Task`; how responses to it are graded is told
by `rewards`.
"""

from bstar_jax.tasks.loading import TASKS, load
from bstar_jax.tasks.responses import Response, load_responses
from bstar_jax.tasks.task import Task

__all__ = ["TASKS", "Response", "Task", "load", "load_responses"]
