"""MBPP: short programs described in a sentence, as published by Google Research.

Each line has a description (`text`; in the sanitized file `prompt`), a solution (`code`), asserts
(`test_list`) and what these need (`test_setup_code`; in the sanitized file the lines of
`test_imports`). The prompt shows the description and the asserts, as only the asserts tell names
and types. `challenge_test_list` is not read.

Source: arXiv:2108.07732.
"""

from __future__ import annotations

from bstar_jax.records import Source
from bstar_jax.tasks import code
from bstar_jax.tasks.format import Format, ParsedRecord
from bstar_jax.tasks.record import Record


def _read(record: Record) -> ParsedRecord:
    is_sanitized = not record.knows("text") and record.knows("prompt")
    question = record.text("prompt" if is_sanitized else "text", "question")
    setup = [record.text_if_any("test_setup_code", "setup")]
    if record.knows("test_imports") and record.value("test_imports", "imports"):
        setup += record.texts("test_imports", "imports")
    return code.parse_asserts(
        question,
        record.text_if_any("code", "solution"),
        record.texts("test_list", "tests"),
        "\n".join(setup),
    )


FORMAT = Format(
    Source("mbpp", "code", hint_prompt=code.HINT_PROMPT),
    read=_read,
    prompt=code.PROMPT,
    names={"question": "text", "solution": "code", "tests": "test_list"},
    others=("prompt", "test_setup_code", "test_imports"),
)
