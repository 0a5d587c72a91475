r"""One way to write mathematics: LaTeX and plain text as a list of tokens.

Only differences of appearance are removed: spacing, `\left(`, `\dfrac`, `\frac12`, `x²`, `π`,
`10{,}080`, `sqrt(3)`. Nothing that may carry meaning is dropped, and what is not understood stays.
A token is a command (`\frac`), a word (`\text{east}`), an end of an environment
(`\begin{pmatrix}`), a run of digits, a space between two numbers, or one character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

LONGEST = 2000  # characters of an answer; what is longer is no answer
_DEEPEST = 30  # brackets within brackets, arguments within arguments

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–‐‑", "-"),
        **dict.fromkeys("×·⋅∗*", r" \cdot "),
        **dict.fromkeys("\n\t\r\u00a0\u2009\u202f\u2002\u2003", " "),
        "π": r" \pi ",
        "∞": r" \infty ",
        "√": r" \sqrt ",
        "°": r"^{\circ}",
        "±": r" \pm ",
        "≤": r" \leq ",
        "≥": r" \geq ",
        "≠": r" \neq ",
        "∪": r" \cup ",
        "∈": r" \in ",
        "θ": r" \theta ",
        "∅": r" \emptyset ",
        "²": "^{2}",
        "³": "^{3}",
        "÷": "/",
    }
)
_PLAIN = "pi|theta|sqrt|sin|cos|tan|cot|sec|csc|log|ln|arcsin|arccos|arctan|circ"
_REWRITTEN = (
    (re.compile(r"(?<=\d),\s*\\!\s*(?=\d{3}(?!\d))"), ""),  # 10,\!080
    (re.compile(r"(?<=\d)(?:\{,\}|\\,|~)(?=\d{3}(?!\d))"), ""),  # 10{,}080
    (re.compile(r"\\(?:left|right)\s*\."), ""),  # a bracket that is not drawn
    (
        re.compile(r"\^\s*\{?\s*\\text\s*\{\s*(st|nd|rd|th)\s*\}\s*\}?"),
        r"\\text{\1}",
    ),  # 4^\text{th}
    (re.compile(r"\\text\s*\{\s*\.\s*\}\s*$"), ""),
    (re.compile(r",?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b)"), ","),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(rf"(?<![A-Za-z\\])({_PLAIN})(?![A-Za-z])"), r"\\\1 "),
)
_TEXT = r"\\(?:text|mbox|hbox|mathrm|textrm|textbf|textit|textsf|textnormal|mathit|mathsf)"
_TOKEN = re.compile(
    rf"""
    {_TEXT}\s*\{{(?P<text>(?:[^{{}}\\]|\\[ ,;:!%])*)\}}
    | (?P<environment>\\(?:begin|end)\s*\{{[a-z]+\*?\}}(?:\{{[lcr|\ ]*\}})?)
    | (?P<command>\\[A-Za-z]+)
    | (?P<silent>\\[!,;:>\ ]|~|\s+)
    | (?P<escaped>\\.)
    | (?P<digits>[0-9]+)
    | (?P<letters>[A-Za-z]+)
    | (?P<character>.)
    """,
    re.VERBOSE | re.DOTALL,
)
# Tokens that say how something looks, and those that are another's second name.
_SILENT = {
    f"\\{name}"
    for name in "left right big Big bigl bigr Bigl Bigr bigg Bigg biggl biggr displaystyle "
    "textstyle limits quad qquad thinspace".split()
}
_SAME = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\times": r"\cdot",
    r"\ast": r"\cdot", r"\le": r"\leq", r"\ge": r"\geq", r"\leqslant": r"\leq",
    r"\geqslant": r"\geq", r"\ne": r"\neq", r"\lt": "<", r"\gt": ">", r"\lbrace": r"\{",
    r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")",
    r"\varnothing": r"\emptyset", r"\degree": r"\circ", r"\lvert": "|", r"\rvert": "|",
    r"\vert": "|", r"\$": "$", r"\%": "%", r"\div": "/",
}  # fmt: skip
_BRACKETS = {"{": "}", "(": ")]", "[": ")]", r"\{": r"\}", r"\langle": r"\rangle"}
_CLOSING = {"}", ")", "]", r"\}", r"\rangle"}
_TAKES = (r"\frac", r"\sqrt", "^", "_")  # what has arguments


def tokens(text: str) -> list[str] | None:
    r"""Splits a text into tokens, each in its one form.

    Examples:
        r"\left( \dfrac 12 , 10{,}080 \right)" -> ( \frac { 1 } { 2 } , 10080 )
        "x²" -> x ^ { 2 }     "sqrt(3)" -> \sqrt { 3 }     "(1" -> None

    Returns:
      None if brackets do not balance, or the text is longer or nested deeper than any answer.
    """
    if len(text) > LONGEST:
        return None
    text = text.translate(_CHARACTERS)
    for pattern, written in _REWRITTEN:
        text = pattern.sub(written, text)
    found = list(_spell(text))
    try:
        return _with_arguments(found) if _balanced(found) else None
    except _TooDeep:
        return None


def join(found: Sequence[str]) -> str:
    r"""Joins tokens into a text, with spaces only where they would run together.

    Example: \cot x ^ { 2 } -> "\cot x^{2}"
    """
    text, after_command = "", False
    for token in found:
        text += f" {token}" if after_command and token[:1].isalpha() else token
        after_command = token[:1] == "\\" and token[-1:].isalpha()
    return text


def split(found: Sequence[str], separators: set[str]) -> list[list[str]]:
    """Splits tokens at those separators that are inside no bracket.

    Example: f ( x , y ) , 3 at "," -> f ( x , y ) and 3
    """
    parts, depth = [[]], 0
    for token in found:
        depth += _step(token)
        if token in separators and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def is_enclosed(found: Sequence[str]) -> bool:
    """Tells whether the bracket that opens first closes last: yes for (a), no for (a)(b)."""
    depth = 0
    for place, token in enumerate(found):
        depth += _step(token)
        if depth == 0:
            return 0 < place == len(found) - 1
    return False


def _step(token: str) -> int:
    """Returns 1 where a bracket or an environment opens, -1 where it closes, else 0."""
    if token in _BRACKETS or token.startswith(r"\begin{"):
        return 1
    return -int(token in _CLOSING or token.startswith(r"\end{"))


def _spell(text: str) -> Iterator[str]:
    previous, parted = "", False
    for match in _TOKEN.finditer(text):
        token, kind = _SAME.get(match[0], match[0]), match.lastgroup
        if kind == "silent" or token in _SILENT:
            parted = True
            continue
        if kind == "text":
            words = re.sub(r"[~\\]", " ", match["text"]).split()
            is_constant = match[0].startswith(r"\math") and words in (["e"], ["i"])
            token = words[0] if is_constant else rf"\text{{{' '.join(words)}}}"
        elif kind == "environment":
            token = re.sub(r"\s", "", token)
        elif kind == "letters" and len(token) > 3:
            token = rf"\text{{{token}}}"  # no product of four letters, but a word
        elif kind == "letters":
            yield from token[:-1]
            token = token[-1]
        elif kind == "digits" and parted and (previous.isdigit() or previous in ",."):
            yield " "
        yield token
        previous, parted = token, False


def _balanced(found: Sequence[str]) -> bool:
    """Tells whether brackets match; round and square ones may close each other, as in (3,4]."""
    opened = []
    for token in found:
        if _step(token) == 1:
            opened.append(token)
        elif _step(token) == -1 and (not opened or not _closes(opened.pop(), token)):
            return False
        if len(opened) > _DEEPEST:
            return False
    return not opened


def _closes(opening: str, token: str) -> bool:
    if opening.startswith(r"\begin{"):
        return token == rf"\end{opening[6 : opening.index('}') + 1]}"
    return token in _BRACKETS[opening] and not token.startswith(r"\end")


class _TooDeep(Exception):
    """Arguments lie within arguments deeper than in any answer."""


def _with_arguments(found: Sequence[str], depth: int = _DEEPEST) -> list[str]:
    """Puts braces around every argument of a fraction, a root, an exponent and an index.

    Args:
      found: Tokens whose brackets match; so do those of the result.
      depth: How many arguments may lie within each other.

    Raises:
      _TooDeep: If more do.
    """
    result, rest = [], list(found[::-1])
    while rest:
        token = rest.pop()
        result.append(token)
        if token in _TAKES:
            result += _arguments(token, rest, depth)
    return result


def _arguments(token: str, rest: list[str], depth: int) -> list[str]:
    """Takes the arguments of a token from the end of the reversed tokens."""
    if depth == 0:
        raise _TooDeep
    if token == r"\frac":
        return _argument(rest, depth, one_digit=True) + _argument(rest, depth, one_digit=True)
    if token == r"\sqrt":
        index = _group(rest) if rest[-1:] == ["["] else []
        return index + _argument(rest, depth, one_digit=True)
    return _argument(rest, depth, one_digit=False)


def _argument(rest: list[str], depth: int, *, one_digit: bool) -> list[str]:
    r"""Takes one argument and puts it in braces; as in TeX, \frac43 is 4/3.

    An exponent takes all its digits and its sign: a writer of 2^10 means 1024. A bracket is taken
    as a whole, and one that closes is no argument.
    """
    while rest and rest[-1] == " ":
        rest.pop()
    if not rest or _step(rest[-1]) < 0:
        return []
    if rest[-1] in ("{", "("):
        return ["{", *_with_arguments(_group(rest)[1:-1], depth - 1), "}"]
    inner = [rest.pop()] if rest[-1] in ("+", "-") and not one_digit else []
    if not rest or _step(rest[-1]) < 0:
        return ["{", *inner, "}"]
    if _step(rest[-1]) > 0:
        return ["{", *inner, *_with_arguments(_group(rest), depth - 1), "}"]
    inner.append(rest.pop())
    if one_digit and inner[0].isdigit() and len(inner[0]) > 1:
        rest.append(inner[0][1:])
        inner = [inner[0][0]]
    if inner[-1] in (r"\frac", r"\sqrt"):
        inner += _arguments(inner[-1], rest, depth - 1)
    return ["{", *inner, "}"]


def _group(rest: list[str]) -> list[str]:
    """Takes a whole bracket from the end of the reversed tokens."""
    start, depth = len(rest) - 1, 1
    while depth:
        start -= 1
        depth += _step(rest[start])
    group = rest[start:][::-1]
    del rest[start:]
    return group
