"""Questions with options to choose from: how they are read and shown."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from bstar_jax.answers.choices import option_line
from bstar_jax.tasks.record import Record

MARKER = "Final answer:"
_ASK = """# Question

{question}

Think step by step, then end with "{marker} " and the label of the best option.

"""
PROMPT = _ASK + "# Solution\n\n"
HINT_PROMPT = _ASK + "# Answer\n\n{reference}\n\n# Solution\n\n"


def read_options(record: Record, name: str) -> dict[str, list[str]]:
    """Reads the labels and options of a record, from the field of that name.

    The field is a list of options, which are then labelled A, B, C and so on; or two lists,
    {"text": [...], "label": [...]}; or one object an option, [{"text": ..., "label": ...}, ...].

    Returns:
      {"labels": [...], "options": [...]}, of equal length.

    Raises:
      UserError: If there are fewer than two options, or more than letters where they have no
        labels; if a label occurs twice; if the two lists differ in length; or if anything is
        not text.
    """
    value = record.value(name, "choices")
    if isinstance(value, dict):
        both = record.nested(name, "choices")
        labels, options = (both.texts(part, "choices", numbers=True) for part in ("label", "text"))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        each = record.items(name, "choices")
        labels, options = (
            [option.text(part, "choice", numbers=True) for option in each]
            for part in ("label", "text")
        )
    else:
        options = record.texts(name, "choices", numbers=True)
        labels = list(string.ascii_uppercase[: len(options)])
    labels, options = ([text.strip() for text in texts] for texts in (labels, options))
    if len(labels) != len(options):
        raise record.error(name, f" has {len(options)} options and {len(labels)} labels")
    if len(options) < 2:
        raise record.error(name, f" has {len(options)} options; a choice has two or more")
    if len({label.casefold() for label in labels}) < len(labels):
        raise record.error(name, f" has the labels {', '.join(labels)}; each stands once")
    return {"labels": labels, "options": options}


def read_label(record: Record, name: str, labels: Sequence[str]) -> str:
    """Reads the right option's label, from the field of that name.

    Raises:
      UserError: If it is none of `labels`.
    """
    label = record.text(name, "answer", numbers=True).strip()
    if label not in labels:
        raise record.error(name, f" holds {label!r}; the labels are {', '.join(labels)}")
    return label


def with_options(question: str, fields: Mapping[str, Sequence[str]]) -> str:
    r"""Writes a question with its options below it.

    Example: "Which is cold?\n\nA. ice\nB. fire"
    """
    return "\n".join(
        [question.strip(), "", *(option_line(fields, label) for label in fields["labels"])]
    )
