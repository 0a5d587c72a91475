"""Numbers and texts as answers: what a response states, and whether it is the reference."""

from __future__ import annotations

from bstar_jax.answers.mathematics import readings
from bstar_jax.answers.text import canonical_answer, read_answer, whole_lines


def answers_equal(kind: str, answer: str, reference: str) -> bool:
    """Tells whether two answers are the same, however they are written.

    Args:
      kind: "number" (exact, as fractions) or "text" (spaces, case and a final full stop do not
        count).
      answer: An answer as a response writes it.
      reference: The reference answer.

    Returns:
      False also if one of them cannot be read.

    Examples: "number": "$1,200" and "1200.00" are equal, "1/3" and "0.33" are not.
    """
    read = canonical_answer(kind, answer)
    return read is not None and read == canonical_answer(kind, reference)


def stated_answer(kind: str, marker: str, response: str, finish_reason: str) -> str | None:
    r"""Reads the answer that a response states, in canonical form; None if none can be read.

    A number may also be written as mathematics writes it: `$y = \frac{54}{3}$` is 18.

    Args:
      kind: "number" or "text".
      marker: The text before the answer.
      response: The response.
      finish_reason: "stop", or "length" where the length limit cut it; see `whole_lines`.

    Example: "#### 1,200 clips" -> "1200"; the same, cut -> None.
    """
    text = read_answer(whole_lines(response, finish_reason), marker)
    answer = canonical_answer(kind, text)
    return _in_mathematics(text) if answer is None and text and kind == "number" else answer


def _in_mathematics(text: str) -> str | None:
    """Reads the number that a text states in LaTeX, named or not, in canonical form."""
    reading = readings.read(text)
    if reading is not None and reading.kind == "named":
        (reading,) = reading.items
    return str(reading.value) if reading is not None and reading.kind == "number" else None
