"""What a response is worth: its answer, its solution steps, its equations.

`open_grader` gives what grades the responses to a task, by whatever its answers need.
"""

from bstar_jax.grading.grader import Grade, Grader, Row, open_grader

__all__ = ["Grade", "Grader", "Row", "open_grader"]
