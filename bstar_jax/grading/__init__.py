"""Grading: what is known about a response once it has been checked.

`open_grader` opens what grades responses, by the kinds of answers (`kinds`) that their sources
have. This room knows no task: a source says all that grading needs.
"""

from bstar_jax.grading.grade import Grade, GradedResponse
from bstar_jax.grading.grader import Grader, open_grader

__all__ = ["Grade", "GradedResponse", "Grader", "open_grader"]
