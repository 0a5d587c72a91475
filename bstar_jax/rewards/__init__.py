"""What a response is worth: its answer, its solution steps, its equations.

`open_grader` gives what grades the responses to a task, by whatever its answers need.
"""

from bstar_jax.rewards.equations import equations
from bstar_jax.rewards.grading import Grade, Grader, Row, open_grader

__all__ = ["Grade", "Grader", "Row", "equations", "open_grader"]
