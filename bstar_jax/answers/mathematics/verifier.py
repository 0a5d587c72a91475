r"""Verifies answers in mathematics against references.

Most answers are decided here, exactly, by reading them (`readings`) and comparing what they say
(`equality`). What needs algebra goes to worker processes (`algebra`), each answer with a time
limit, as nothing else stops SymPy.

An answer is found after a marker such as `# Answer`, else in the last `\boxed{}`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bstar_jax.answers.mathematics import equality, readings
from bstar_jax.answers.mathematics.notation import LONGEST
from bstar_jax.answers.text import last_boxed, whole_lines
from bstar_jax.isolation.workers import Outcome, WorkerPool

_AGAIN = 6  # how many times the limit the second tries of a call may take together
_FORMULA_BEGINS = re.compile(r"(?<!\\)\\\[")  # not the spacing after a line, `\\[2pt]`
_ALGEBRA = "bstar_jax.answers.mathematics.algebra:verify"
# The parser sets its rules up when it first meets them, which takes far longer than using them.
_WARM_UP = (
    (r"\frac{x^{2}+1}{2}-\sqrt{3}", r"\frac{2x^{2}+2}{4}-\sqrt{3}"),
    (r"\sin 2\theta=a_{1}(n-1)", r"2\cdot\pi e^{x}<3"),
)

_Pair = tuple[str | None, str]  # an answer and its reference


class MathVerdict(NamedTuple):
    """The verdict on one answer.

    Attributes:
      reason: "correct", "wrong", "unparseable"; "timeout" where algebra did not end within its
        limits; "error" where it failed.
      seconds: Time that it took, all tries together.
    """

    reason: str
    seconds: float


def read(response: str, marker: str, finish_reason: str = "stop") -> str | None:
    r"""Reads the answer that a response states, as it is written, without what surrounds it.

    With a marker, its first occurrence ends the solution, and the answer is the next line that
    says something, together with the lines below if it opens a formula or an environment. If there
    is a box in it, only the box counts. Without a marker, the answer is in the last box.

    Args:
      response: The response.
      marker: The text before the answer, such as "# Answer".
      finish_reason: "stop", or "length" where the length limit cut it; see `whole_lines`.

    Returns:
      None if there is no answer, or it is longer than any answer.

    Examples with the marker "# Answer":
        "# Answer\n\n$\frac12$."     -> "\frac12"
        "# Answer\n\[\nx+1\n\]"     -> "x+1"
        "so $x = \boxed{5}$, as"     -> "5"
        "\boxed{4}\n# Answer\n5\n6"  -> "5"
    """
    solution, found, rest = whole_lines(response, finish_reason).partition(marker)
    answer = _first_statement(rest.strip()) if found else last_boxed(solution)
    if answer and found and r"\boxed" in answer:
        answer = last_boxed(answer)
    if answer is None or len(answer) > LONGEST:
        return None
    return readings.peel(answer) or None


def _first_statement(text: str) -> str:
    """Returns the first lines that say something, up to the one that closes all they open."""
    lines = text.split("\n")
    for count in range(1, len(lines) + 1):
        head = "\n".join(lines[:count])
        if len(head) > LONGEST or (not _is_open(head) and readings.peel(head)):
            return head
    return text


def _is_open(text: str) -> bool:
    """Tells whether a formula or an environment begins in a text and does not end in it."""
    formulas = len(_FORMULA_BEGINS.findall(text)) > text.count(r"\]") or text.count("$$") % 2
    return bool(formulas or text.count(r"\begin{") > text.count(r"\end{"))


def canonical(text: str) -> str | None:
    r"""Writes an answer so that equal texts mean equal answers, for votes.

    Equal answers may have different texts if only algebra could tell that they are equal.

    Examples: "$\frac{2}{4}$" and "0.5" -> "1/2"     "(1, 2.0]" -> "(1,2]"     "" -> None

    Returns:
      None if the answer cannot be read at all.
    """
    reading = readings.read(text)
    return None if reading is None else equality.canonical(reading)


def quick(answer: str, reference: str) -> bool | None:
    r"""Tells whether two answers are equal, if that is certain without algebra; else None.

    Examples: "0.5", r"\frac12" -> True     "(1,2]", "[1,2]" -> False     "x+x", "2x" -> None
    """
    one, two = readings.read(answer), readings.read(reference)
    if one is None or two is None:
        return None
    equal = equality.compare(one, two, lambda *_: None)
    # An answer that differs may still be one that cannot be read; then that is the reason.
    return None if equal is False and not _is_exact(one) else equal


class MathVerifier:
    r"""Verifies answers, with worker processes for those that need algebra.

    A context manager: workers start on entering. An answer that takes longer than the limit is
    tried once more when all others are done, alone and with twice the limit. So one answer can
    take three times the limit at most. Second tries begin as long as those of the call have taken
    no more than six times the limit together; then the first try decides.

    Example:
        with MathVerifier(workers=2, limit_seconds=5.0) as verifier:
            verifier.verify([("0.5", r"\frac12"), ("x+x", "2x"), ("9^{9^{9^9}}", "1")])
        # reasons: correct, correct, timeout

    Args:
      workers: Number of worker processes.
      limit_seconds: Longest time for one answer at the first try, in seconds.
    """

    def __init__(self, workers: int = 2, limit_seconds: float = 5.0) -> None:
        self._limit_seconds = limit_seconds
        self._pool = WorkerPool(_ALGEBRA, workers, limit_seconds, warm_up=_WARM_UP)

    def __enter__(self) -> MathVerifier:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    @property
    def workers_alive(self) -> int:
        """Number of worker processes that are running."""
        return self._pool.alive

    def verify(self, pairs: Sequence[_Pair]) -> list[MathVerdict]:
        """Verifies every (answer, reference).

        Args:
          pairs: Answers as `read` finds them, None included, with references that `unreadable`
            lets pass.

        Returns:
          A verdict on each, in order. Equal pairs share the work.
        """
        quick = {pair: _verify_quickly(*pair) for pair in dict.fromkeys(pairs)}
        verdicts = {pair: verdict for pair, verdict in quick.items() if verdict is not None}
        left = [(answer, reference) for answer, reference in quick if answer is not None]
        verdicts |= self._patiently([pair for pair in left if pair not in verdicts])
        return [verdicts[pair] for pair in pairs]

    def unreadable(self, references: Iterable[str]) -> dict[str, str]:
        r"""Finds the references that cannot be verified against, each with the reason.

        Example: "1/2", "\frac{", "x^2" -> {"\frac{": "error"}

        Returns:
          "error" for a text that cannot be read, "timeout" if reading takes too long.
        """
        left = [text for text in dict.fromkeys(references) if not _is_exact(readings.read(text))]
        grades = self._patiently([(text, text) for text in left])
        found = {text: grades[text, text].reason for text in left}
        return {text: reason for text, reason in found.items() if reason in ("error", "timeout")}

    def _patiently(self, pairs: Sequence[_Pair]) -> dict[_Pair, MathVerdict]:
        """Verifies by algebra; tries late answers once more, alone and with twice the limit."""
        grades = self._run(pairs)
        last = time.monotonic() + _AGAIN * self._limit_seconds
        for pair in [pair for pair in pairs if grades[pair].reason == "timeout"]:
            if time.monotonic() > last:
                break
            again = self._run([pair], limit_seconds=2 * self._limit_seconds, at_once=1)[pair]
            grades[pair] = again._replace(seconds=again.seconds + grades[pair].seconds)
        return grades

    def _run(self, pairs: Sequence[_Pair], **options: Any) -> dict[_Pair, MathVerdict]:
        outcomes = self._pool.run(pairs, **options)
        return dict(zip(pairs, map(_verdict, outcomes), strict=True))


def _verify_quickly(answer: str | None, reference: str) -> MathVerdict | None:
    start = time.perf_counter()
    if answer is None or readings.read(answer) is None:
        reason = "unparseable"
    else:
        equal = quick(answer, reference)
        reason = {True: "correct", False: "wrong", None: None}[equal]
    return MathVerdict(reason, time.perf_counter() - start) if reason else None


def _verdict(outcome: Outcome) -> MathVerdict:
    reasons: dict[str, Any] = {"done": outcome.value, "timeout": "timeout"}
    return MathVerdict(reasons.get(outcome.kind, "error"), outcome.seconds)


def _is_exact(reading: readings.Reading | None) -> bool:
    """Tells whether a reading is exact in all its parts."""
    return reading is not None and all(leaf.kind != "expression" for leaf in reading.leaves())
