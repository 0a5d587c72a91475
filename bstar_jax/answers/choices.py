"""Reads which option a response chooses: by its label, or in the option's own words.

Only a statement counts: what follows the marker `Final answer:`; without a marker, what follows
words such as `the answer is`, or is in a box; without those, a line that is nothing but an option.
Where two options are stated, or a label with another option's words, none is chosen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from bstar_jax.answers.text import last_boxed, read_answer, whole_lines

_LONGEST = 1000  # characters of a statement that are looked at
_KIND = r"(?:the\s+)?(?:(?:final|correct|right|best|most\s+likely)\s+){0,3}(?:answer|option|choice)"
_IS = r"(?:is|would\s+be|must\s+be|should\s+be)"
_BEST = r"(?:the\s+)?(?:(?:most|only)\s+)?(?:correct|right|best|likely)\b"
_STATES = re.compile(rf"\b{_KIND}(?:\s*:|\s+{_IS}\b)\s*:?|\bI\s+(?:choose|pick|select)\b", re.I)
_NAMED = re.compile(rf"(?:{_KIND}(?:\s+{_IS})?\s*:?\s+)+", re.I)
_REASON = re.compile(rf"(?:because|since|as|for)\b|{_IS}\s+{_BEST}", re.I)
_AND = re.compile(r"(?:and|or|nor|not|but|if|/|&)(?![a-z])", re.I)
_DRESS = re.compile(r"\*|`|\$|__|\\[()\[\]]|[\"“”]")
_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")


def read(
    response: str,
    labels: Sequence[str],
    options: Sequence[str],
    marker: str = "Final answer:",
    finish_reason: str = "stop",
) -> str | None:
    """Reads the label of the option that a response chooses.

    Args:
      response: The response.
      labels: Labels of the options, such as A, B, C, D or 1, 2, 3, 4.
      options: Text of each option.
      marker: The text before the answer, in any case; its first occurrence ends the solution.
      finish_reason: "stop", or "length" where the length limit cut the response. Its last line,
        which may be incomplete, is then not read.

    Returns:
      One of `labels`; None where no option is chosen, or more than one.

    Raises:
      ValueError: If labels and options differ in number.

    Examples with A. ice, B. fire:
        "It burns. Final answer: (B)", "**B**", "B. fire", "So the answer is fire." -> "B"
        "A or B", "Final answer: A. fire", "A fire is hot", "not B", "C", "" -> None
    """
    if len(labels) != len(options):
        raise ValueError(f"{len(labels)} labels and {len(options)} options; each option has one")
    response = whole_lines(response, finish_reason)
    known = {label: _bare(option) for label, option in zip(labels, options, strict=True)}
    marked = re.search(re.escape(marker), response, re.IGNORECASE)
    if marked:
        answer = read_answer(response[marked.start() :], marked[0])
        return _stated(answer or "", known)
    boxed = last_boxed(response)
    undressed = _undress(response)
    statements = {"" if boxed is None else boxed}
    for found in itertools.chain(_STATES.finditer(undressed), _praises(undressed, labels)):
        statements.add(_first_line(undressed[found.end() : found.end() + _LONGEST]))
    chosen = {_stated(statement, known) for statement in statements} - {None}
    if not chosen:
        lines = {line.strip() for line in undressed.split("\n")}
        chosen = {_stated(line, known, alone=True) for line in lines} - {None}
    return chosen.pop() if len(chosen) == 1 else None


def _stated(text: str, known: dict[str, str], *, alone: bool = False) -> str | None:
    """Returns the label that a statement names; `alone` if it may hold nothing but an option."""
    text = _undress(text[:_LONGEST]).strip()
    in_words = _same(text, known)
    text = _NAMED.sub("", text, count=1) if _NAMED.match(text) else text
    in_words = in_words or _same(text, known)
    label = _labelled(text, known, alone)
    return in_words or label if None in (in_words, label) or in_words == label else None


def _labelled(text: str, known: dict[str, str], alone: bool) -> str | None:
    """Returns the label at the start of a statement, unless the rest says otherwise."""
    names = "|".join(re.escape(label) for label in known)
    found = re.match(rf"[(\[]\s*({names})\s*[)\]]|({names})(?![\w'’])", text) or re.match(
        rf"[(\[]\s*({names})\s*[)\]]|({names})(?=[.)]?\s*$|\)\s)", text, re.IGNORECASE
    )
    if not found:
        return None
    written = found[1] or found[2]
    # As the pattern matched it: a dotless i is an I to it, and to no other rule of case.
    label = next(name for name in known if re.fullmatch(re.escape(name), written, re.IGNORECASE))
    after = text[found.end() :]
    parted = re.match(r"\s*(?:[.):,;]+(?=\s|$)|\s[-–—]+\s|!+$|$)", after)
    rest = after[parted.end() :] if parted else after
    if _bare(rest) in ("", known[label]) or _same(rest, known) == label:
        return label
    if alone or _contradicts(rest, label, known):
        return None
    return label if parted or (rest[:1].isspace() and _REASON.match(rest.strip())) else None


def _contradicts(rest: str, label: str, known: dict[str, str]) -> bool:
    """Tells whether what follows a label names another option, or takes the label back."""
    rest = rest.strip()
    others = {name: option for name, option in known.items() if name != label}
    names = "|".join(re.escape(name) for name in others)
    bare = _bare(rest).casefold()
    return bool(
        _AND.match(rest)
        or re.match(rf"[(\[]?(?:{names})(?:\W|$)(?!\s*[a-z])", rest)
        or any(option and bare.startswith(option.casefold()) for option in others.values())
    )


def _same(text: str, known: dict[str, str]) -> str | None:
    """Returns the label of the option that a text is; case counts if only case differs."""
    bare = _bare(text)
    for fold in (str, str.casefold):
        found = [label for label, option in known.items() if fold(option) == fold(bare) and bare]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _praises(text: str, labels: Sequence[str]) -> Iterator[re.Match]:
    """Finds sentences such as "Option B is correct"; a match ends before the label."""
    names = "|".join(map(re.escape, labels))
    return re.finditer(
        r"(?:^|[.!:]\s+|\b(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?\s+)(?:[Tt]he\s+)?"
        r"(?:[Oo]ption\s+|[Cc]hoice\s+|[Aa]nswer\s+)?"
        rf"(?=[(\[]?(?:{names})[)\]]?\s+{_IS}\s+{_BEST})",
        text,
        re.MULTILINE,
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _undress(text: str) -> str:
    """Removes emphasis, quotes and LaTeX around words."""
    return _DRESS.sub("", _COMMAND.sub(r"\1", text))


def _bare(text: str) -> str:
    """Returns an option's words alone: single spaces, no full stop or quotes at the end."""
    return " ".join(_undress(text).split()).strip(" .,;:!")


def option_line(fields: Mapping[str, Sequence[str]], label: str) -> str:
    """Writes an option as a question shows it.

    Args:
      fields: The `labels` and `options` of a question.
      label: The label of the option.

    Example: "A. ice"
    """
    return f"{label}. {fields['options'][list(fields['labels']).index(label)]}"
