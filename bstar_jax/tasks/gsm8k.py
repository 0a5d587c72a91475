"""GSM8K: grade-school word problems, as published by OpenAI (grade-school-math).

Each line has a `question` and an `answer`: solution steps with calculator annotations such as
`<<48/2=24>>`, then `#### 24`. The published text, annotations included, is the human solution, so
that equations can be read from the responses of a model trained on it. With another marker, it
stands where the published one stood.
"""

from __future__ import annotations

import functools

from bstar_jax.answers import equations
from bstar_jax.config import FieldNames
from bstar_jax.records import Source
from bstar_jax.tasks import calculator, file
from bstar_jax.tasks.format import HINT_PROMPT, Format, ParsedRecord
from bstar_jax.tasks.record import Record

MARKER = "####"
_NAMES = {solution: FieldNames(solution=solution) for solution in ("answer", "solution")}


def _read(marker: str, record: Record) -> ParsedRecord:
    # The solution is the text with the answer, unless it has a field of its own.
    solution = "solution" if "solution" in record.aliases else "answer"
    published = marker if marker in record.text("answer", "answer", numbers=True) else MARKER
    parsed = file.read_stated("number", _NAMES[solution], published, record)
    return parsed._replace(solution=parsed.solution.replace(published, marker, 1))


def _format(marker: str) -> Format:
    return Format(
        Source(
            "gsm8k",
            "number",
            marker,
            hint_prompt=HINT_PROMPT,
            step_check=calculator.check_steps,
            equations=equations.in_annotations,
        ),
        read=functools.partial(_read, marker),
        names={"question": "question", "answer": "answer", "solution": "solution"},
        with_marker=_format,
    )


FORMAT = _format(MARKER)
