"""A reward is tried before a run is spent on it: does it tell right responses from junk?

Right responses are those that the reward's own `example` writes, else human solutions, else the
reference answer, written in the form that most queries accept. Junk is an empty text, the question,
an excuse, and random characters. What was tried here was tried, and no more: a reward can pass and
still be wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import string
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bstar_jax.grading.functions import write_examples
from bstar_jax.grading.grade import GradedResponse
from bstar_jax.grading.grader import Grader
from bstar_jax.records import Query, Response, Source

MOST_QUERIES = 100
_TWICE = 20  # responses that are graded a second time
_FORMS = (
    "{marker} {reference}",
    "\\boxed{{{reference}}}",
    "<answer>{reference}</answer>",
    "{reference}",
)
_EXCUSE = "I do not know."


class _Try(NamedTuple):
    """A response that was tried, and what the reward said."""

    response: Response
    grade: GradedResponse


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a trial of one source's reward found.

    Attributes:
      source: Name of the source.
      right: What responses that must be right were made of; "" if none could be written.
      tried_right: Their tries.
      tried_others: Tries of right responses to other queries.
      tried_junk: Tries of junk.
      changed: How many of the responses that were graded twice got another grade.
      seconds: Time that a response took.
      printed: The beginning of what its function printed.
    """

    source: str
    right: str
    tried_right: Sequence[_Try]
    tried_others: Sequence[_Try]
    tried_junk: Sequence[_Try]
    changed: int
    seconds: float
    printed: str = ""

    def warnings(self) -> list[str]:
        """Lists what a person should look at."""
        found = []
        if not self.right:
            found.append(
                "no response that must be right could be written: there is no human solution and "
                "no reference answer; give the function an `example`: "
                "f.example = lambda query: a right response"
            )
        elif _share(self.tried_right) < 0.95:
            found.append(f"right responses ({self.right}): only {_count(self.tried_right)} correct")
        if _share(self.tried_junk) > 0:
            found.append(f"junk: {_count(self.tried_junk)} correct")
        if _share(self.tried_others) > 0.05:
            found.append(
                f"right responses to other queries: {_count(self.tried_others)} correct; so it is "
                "where many answers are right"
            )
        errors = sum(each.grade.is_broken for each in self._every())
        if errors:
            found.append(f"grading broke for {errors} of {len(self._every())} responses")
        if self.changed:
            found.append(
                f"{self.changed} of {_TWICE} responses were graded otherwise the second time; a "
                "run that stops and goes on then differs from one that does not stop"
            )
        return found

    def failure(self) -> str:
        """Says why the reward cannot serve, with examples; "" if it can."""
        right, junk = _mean(self.tried_right), _mean(self.tried_junk)
        errors = sum(each.grade.is_broken for each in self._every())
        if errors > 0.5 * len(self._every()):
            finding = f"grading broke for {errors} of {len(self._every())} responses"
            shown = [each for each in self._every() if each.grade.is_broken]
        elif self.tried_right and _share(self.tried_right) < 0.1:
            finding = (
                f"of right responses ({self.right}) only {_count(self.tried_right)} are correct"
            )
            shown = [each for each in self.tried_right if not each.grade.correct]
        elif _share(self.tried_junk) > 0.1:
            finding = f"of junk {_count(self.tried_junk)} are correct"
            shown = [each for each in self.tried_junk if each.grade.correct]
        elif self.tried_right and right - junk < 0.1:
            finding = (
                f"right responses score {right:.2f} on average and junk {junk:.2f}: it cannot tell "
                "them apart"
            )
            shown = [self.tried_right[0], *self.tried_junk]
        else:
            return ""
        lines = [f"the reward of source {self.source!r} fails its trial: {finding}."]
        lines += [_example(each) for each in shown[:3]]
        if self.printed:
            lines += ["it printed:", *self.printed.splitlines()[:20]]
        lines.append("Mend it; task.check_reward=False starts the run without a trial.")
        return "\n".join(lines)

    def summary(self) -> str:
        """Says in one line what was tried and found."""
        parts = [f"junk {_count(self.tried_junk)}"]
        if self.tried_others:
            parts.insert(0, f"others' {_count(self.tried_others)}")
        if self.right:
            parts.insert(0, f"{self.right} right {_count(self.tried_right)}")
        parts.append("the same twice" if not self.changed else f"{self.changed} changed")
        return f"{', '.join(parts)}; {1000 * self.seconds:.1f} ms a response"

    def _every(self) -> list[_Try]:
        return [*self.tried_right, *self.tried_others, *self.tried_junk]


def try_rewards(
    grader: Grader, queries: Sequence[Query], sources: Mapping[str, Source], seed: int
) -> list[Trial]:
    """Tries the reward of every source on at most `MOST_QUERIES` of its queries.

    Args:
      grader: Grades them, with the run's own workers and limits.
      queries: The queries of the task.
      sources: Their sources, by name.
      seed: Decides which queries are taken.
    """
    trials = []
    for name, source in sources.items():
        mine = [query for query in queries if query.source == name]
        if mine:
            ordered = sorted(mine, key=lambda query: _digest(f"{seed}/{query.query_id}"))
            trials.append(_try(grader, ordered[:MOST_QUERIES], source))
    return trials


def _try(grader: Grader, queries: Sequence[Query], source: Source) -> Trial:
    right, written = _right_responses(grader, queries, source)
    responses = [
        Response(query, text) for query, text in zip(queries, written, strict=True) if text
    ]
    others = _others(queries, written)
    junk = [Response(query, text) for query in queries[:20] for text in _junk(query)]
    started = time.perf_counter()
    tried_right, tried_others, tried_junk = (
        [_Try(*each) for each in zip(part, grader.grade(part), strict=True)]
        for part in (responses, others, junk)
    )
    seconds = (time.perf_counter() - started) / max(len(responses + others + junk), 1)
    twice = [*tried_right, *tried_junk][:_TWICE]
    again = grader.grade([each.response for each in twice])
    changed = sum(each.grade != grade for each, grade in zip(twice, again, strict=True))
    printed = grader.functions.printed.get(source.reward, "") if grader.functions else ""
    tries = (tried_right, tried_others, tried_junk)
    return Trial(source.name, right, *tries, changed, seconds, printed)


def _right_responses(
    grader: Grader, queries: Sequence[Query], source: Source
) -> tuple[str, list[str]]:
    """Returns what right responses are made of, and one for each query, "" where there is none."""
    functions = grader.functions
    if functions and source.reward and functions.described[source.reward].has_example:
        examples = write_examples(functions, source.reward, queries)
        return "examples", [text or "" for text in examples]
    if any(query.solution for query in queries):
        return "solutions", [query.solution for query in queries]
    if not any(query.reference for query in queries):
        return "", [""] * len(queries)
    forms = [form for form in _FORMS if source.answer_marker or "{marker}" not in form]
    best, most = "", -1
    for form in forms:
        written = _written(form, queries, source)
        responses = [
            Response(query, text) for query, text in zip(queries, written, strict=True) if text
        ]
        correct = sum(grade.correct for grade in grader.grade(responses, check_steps=False))
        if correct > most:
            best, most = form, correct
    name = best.format(marker=source.answer_marker, reference="ANSWER")
    return f"references as {name!r}", _written(best, queries, source)


def _written(form: str, queries: Sequence[Query], source: Source) -> list[str]:
    marker = source.answer_marker
    return [
        form.format(marker=marker, reference=query.reference) if query.reference else ""
        for query in queries
    ]


def _others(queries: Sequence[Query], written: Sequence[str]) -> list[Response]:
    """Pairs each query with a right response to another one that has another reference."""
    pairs = []
    for place, query in enumerate(queries):
        for step in range(1, len(queries)):
            other = (place + step) % len(queries)
            differs = queries[other].reference != query.reference or not query.reference
            if written[other] and written[other] != written[place] and differs:
                pairs.append(Response(query, written[other]))
                break
    return pairs


def _junk(query: Query) -> list[str]:
    seed = int.from_bytes(hashlib.sha256(query.query_id.encode()).digest()[:8], "big")
    letters = np.array(list(string.ascii_letters + string.digits + " .,"))
    noise = "".join(np.random.default_rng(seed).choice(letters, 200))
    return ["", str(query.fields.get("question", query.prompt)), _EXCUSE, noise]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _share(tries: Sequence[_Try]) -> float:
    return sum(each.grade.correct for each in tries) / len(tries) if tries else 0.0


def _count(tries: Sequence[_Try]) -> str:
    return f"{sum(each.grade.correct for each in tries)} of {len(tries)}"


def _mean(tries: Sequence[_Try]) -> float:
    return sum(each.grade.score or 0.0 for each in tries) / len(tries) if tries else 0.0


def _example(each: _Try) -> str:
    grade, text = each.grade, each.response.text
    said = f"  {text[:120]!r} to {each.response.query.query_id}: score {grade.score}"
    said += f", answer read {grade.answer!r}, {grade.reason}"
    return f"{said}\n    {grade.message}" if grade.message else said
