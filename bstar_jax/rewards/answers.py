"""The answer reward: does a response state the reference answer?"""

from __future__ import annotations

from bstar_jax.tasks.answers import canonical_answer, read_answer


def answers_equal(kind: str, answer: str, reference: str) -> bool:
    """Whether two answers are the same, however they are written.

    Args:
      kind: "number" (exact, as fractions) or "text" (spaces, case and a final full stop do not
        count).
      answer: An answer as a response writes it.
      reference: The reference answer.

    Returns:
      False also where one of them cannot be read.

    Examples: "number": "$1,200" and "1200.00" are equal, "1/3" and "0.33" are not.
    """
    read = canonical_answer(kind, answer)
    return read is not None and read == canonical_answer(kind, reference)


def stated_answer(kind: str, marker: str, response: str, finish_reason: str) -> str | None:
    """The answer that a response states, in its canonical form; None where none can be read.

    The last line of a response that was cut by the length limit may be half written: 12 of
    1234. So of such a response only whole lines are read.

    Args:
      kind: "number" or "text".
      marker: The text before the answer.
      response: The response.
      finish_reason: "stop", or "length" where the length limit cut it.

    Example: "#### 1,200 clips" -> "1200"; the same, cut -> None.
    """
    if finish_reason == "length":
        response = response[: response.rfind("\n") + 1]
    return canonical_answer(kind, read_answer(response, marker))
