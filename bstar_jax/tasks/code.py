"""Questions that a Python program answers: how they are asked, and how solutions are written."""

from __future__ import annotations

from collections.abc import Sequence

from bstar_jax.tasks.format import ParsedRecord

_ASK = """# Question

{question}

Write the program in Python, in one block between ```python and ```.

"""
PROMPT = _ASK + "# Solution\n\n"
HINT_PROMPT = _ASK + "# A program that passes\n\n```python\n{reference}\n```\n\n# Solution\n\n"


def source(text: str) -> str:
    r"""Ends the lines of source code as Python reads them: with \n alone."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def block(text: str) -> str:
    """Removes empty lines before source code, and space after it."""
    return source(text).lstrip("\n").rstrip()


def fenced(program: str) -> str:
    """Writes a program as a response does; "" for none."""
    return f"```python\n{program}\n```" if program else ""


def parse_asserts(
    question: str, program: str, asserts: Sequence[str], setup: str = ""
) -> ParsedRecord:
    r"""Makes a question whose program must pass asserts, which are shown below it.

    Example of a question: "Double a number.\n\nThese tests must pass:\n\nassert f(2) == 4"

    Args:
      question: What the program does.
      program: A program that passes; "" if there is none.
      asserts: One assert each.
      setup: What the asserts need, run before them.
    """
    program, setup = block(program), block(setup)
    asserts = [source(line).strip() for line in asserts]
    shown = "\n".join([setup, *asserts] if setup else asserts)
    return ParsedRecord(
        question=f"{question.strip()}\n\nThese tests must pass:\n\n{shown}",
        reference=program,
        solution=fenced(program),
        fields={"tests": {"kind": "asserts", "setup": setup, "asserts": asserts}},
    )
