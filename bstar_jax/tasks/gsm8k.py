"""GSM8K: grade-school word problems, as published by OpenAI (grade-school-math).

Each line has a `question` and an `answer`: solution steps with calculator annotations such as
`<<48/2=24>>`, then `#### 24`. The published text, annotations included, is the human solution, so
that equations can be read from the responses of a model trained on it.
"""

from __future__ import annotations

import dataclasses

from bstar_jax.config import FieldNames
from bstar_jax.tasks import calculator, jsonl

_FIELDS = FieldNames(question="question", answer="answer", solution="answer")

_FORMAT = jsonl.format_for(_FIELDS, reward="number", answer_marker="####")
FORMAT = dataclasses.replace(
    _FORMAT,
    source=dataclasses.replace(_FORMAT.source, name="gsm8k", step_check=calculator.check_steps),
    remedy="",
)
