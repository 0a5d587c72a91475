r"""Reads an answer in mathematics as a tree of exact numbers, words, brackets and expressions.

Whatever can be read exactly is; an expression (`2\sqrt{3}`, `x^2+1`) is left to algebra.

Conventions, where writers differ:
  - A unit, a currency and a percent sign change nothing; "million" multiplies.
  - A bare list is a set without its braces, and a set of one is its element. Order does not count
    in these; it does in all other brackets. Inside brackets a comma always separates; outside,
    `5,125` is one number and `5, 125` are two.
  - A round bracket of two may be a point or an open interval; `x > 2` is certainly an interval.
  - 204_5 is a notation, not a number: the question was to write it so.
  - Four or more letters in a row are a word, fewer are variables.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from bstar_jax.answers.mathematics import quantities
from bstar_jax.answers.mathematics.notation import LONGEST, is_enclosed, join, split, tokens
from bstar_jax.answers.text import last_boxed

_LETTER = r"[^\W\d_]"
_WORDS = re.compile(
    rf"(?!infinity$|theta$)(?=.*{_LETTER}{{4}}){_LETTER}(?:{_LETTER}|[ '.]|-(?={_LETTER}))*"
)
_STATED = re.compile(r"^(?:(?:the |my )?(?:final )?answer(?: is\b|:))?[:\s]*", re.IGNORECASE)
_TEXT = re.compile(r"\\text\{(.*)\}")
_NAME = re.compile(
    r"(?!\\(?:frac|sqrt|infty|pi)\b)(?:[A-Za-z]|\\[a-z]+)(?:_\{\w+\})?|[A-Z]{2,3}|\\text\{(?!not\b)[^{}]*\}"
    r"|[A-Za-z](?:\^\{-1\})?\([A-Za-z0-9]\)"
    r"|\((?:a,b|a,b,c|a,b,c,d|x,y|x,y,z|m,n|p,q|r,\\theta)\)"
)
_LESS, _MORE = {"<", r"\leq"}, {">", r"\geq"}
_INFINITE = {r"\infty", r"-\infty"}
_MATRICES = re.compile(r"\\begin\{(?:[pb]?matrix|smallmatrix|array)\}(?:\{[lcr ]*\})?")


class Reading(NamedTuple):
    """What a text says, or a part of it.

    Attributes:
      kind: "number", "notation", "words", "expression", "named" (`x = ...`), or of a group its
        brackets: "()", "[]", "(]", "[)", "open" (certainly an interval), "{}", "<>", "matrix",
        "row", "union".
      value: The Fraction of a number; the text of a notation or of words; the name; else None.
      items: The items of a group, or the one thing that is named.
      text: The text in its one form.
    """

    kind: str
    value: Any
    items: tuple[Reading, ...]
    text: str

    def leaves(self) -> list[Reading]:
        """Returns the parts that have no parts themselves."""
        return [leaf for item in self.items for leaf in item.leaves()] if self.items else [self]


def read(text: str) -> Reading | None:
    r"""Reads an answer.

    Examples:
        r"\frac{1}{2}", "0.5", r"\$.50 each" -> number 1/2
        "(1, x+1]"                            -> "(]" of the number 1 and the expression x+1
        "3, 5", r"\{5, 3\}"                   -> "{}" of two numbers
        r"\text{East}", "East."               -> words "east"
        r"5^\circ", "x = 5"                   -> number 5, named x of number 5

    Returns:
      None if there is nothing, brackets do not balance, or the text is too long.
    """
    return _read_text(text) if len(text) <= LONGEST else None


@functools.lru_cache(maxsize=1 << 14)
def _read_text(text: str) -> Reading | None:
    text = peel(text)
    if _WORDS.fullmatch(text):
        return _words(text)
    time = quantities.clock_time(text)
    if time:
        return Reading("notation", time, (), time)
    text = quantities.with_unit_marked(text)
    found = tokens(text)
    reading = _read(_without_separators(found)) if found else None
    if reading is not None and reading.kind == "{}" and len(reading.items) == 1:
        return reading.items[0]
    return reading


def peel(text: str) -> str:
    r"""Removes what surrounds an answer: spaces, `$`, `**`, `\boxed{}`, "The answer is".

    Examples: r"$\frac{1}{2}$." -> r"\frac{1}{2}"     "**5**" -> "5"     r"\boxed{x}" -> "x"
    """
    while True:
        before = text
        text = _STATED.sub("", text.strip()).removesuffix(".").strip()
        if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:  # an odd one is a currency
            text = re.sub(r"(?<!\\)\$", "", text)
        for mark in ("**", "`"):
            if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
                text = text[len(mark) : -len(mark)]
        for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
            if text.startswith(opening) and text.endswith(closing):
                text = text[2:-2]
        if r"\boxed" in text:
            text = last_boxed(text) or ""
        if text == before:
            return text


def _without_separators(found: Sequence[str]) -> list[str]:
    r"""Joins the groups of a number outside brackets: 1 , 234 \pi -> 1234 \pi."""
    joined, depth = [], 0
    start: int | None = None  # place of the last number that a group may follow
    for token in found:
        depth += (token in ("(", "[", r"\{")) - (token in (")", "]", r"\}"))
        is_outside = depth == 0 and token.isdigit()
        may_follow = joined[-1:] == [","] and start is not None and start == len(joined) - 2
        if is_outside and len(token) == 3 and may_follow:
            joined[-2:] = [joined[-2] + token]
            continue
        if is_outside and len(token) <= 3 and joined[-1:] != ["."]:
            start = len(joined)
        joined.append(token)
    return joined


def _read(found: Sequence[str]) -> Reading | None:
    """Reads tokens; None if there are none."""
    found = list(found)
    while found[:1] in ([" "], ["+"]):
        found = found[1:]
    if not found:
        return None
    if found == [r"\emptyset"]:
        found = [r"\{", r"\}"]
    if join(found) in _INFINITE:
        return Reading("notation", join(found), (), join(found))
    content = _TEXT.fullmatch(found[0]) if len(found) == 1 else None
    if content:
        return _text(content[1])
    value = quantities.number(join(found))
    if value is not None:
        return Reading("number", value, (), str(value))
    for rule in _RULES:
        reading = rule(found)
        if reading is not None:
            return reading
    return _expression(found)


def _words(text: str) -> Reading:
    value = " ".join(text.split()).removesuffix(".").casefold()
    return Reading("words", value, (), rf"\text{{{value}}}")


def _text(content: str) -> Reading:
    r"""Reads the content of \text{}: a number with its unit, words, or a letter such as (C)."""
    reading = read(content)
    has_words = re.search(r"[^\W\d_]{2}", content)
    return reading if reading and (reading.kind == "number" or not has_words) else _words(content)


def _expression(found: Sequence[str]) -> Reading:
    return Reading("expression", None, (), join(found))


def _with_unit(found: list[str]) -> Reading | None:
    bare, scale = quantities.without_unit(found) or ([], 0)
    reading = _read(bare)
    if reading and reading.kind == "number":
        return Reading("number", reading.value * scale, (), str(reading.value * scale))
    return reading if scale == 1 else None


def _list(found: list[str]) -> Reading | None:
    parts = split(found, {",", ";"})
    return _group("{}", parts, found) if len(parts) > 1 else None


def _group(kind: str, parts: Sequence[Sequence[str]], found: Sequence[str]) -> Reading:
    """Makes a bracket of parts; an expression if one of them is missing."""
    read_parts = [_read(part) for part in parts]
    items = [item for item in read_parts if item is not None]
    if len(items) < len(read_parts):
        return _expression(found)
    if kind == "{}":  # 1 \pm 2 stands for two items
        both = [
            item.items if r"\pm" in item.text and item.kind == kind else (item,) for item in items
        ]
        items = list(itertools.chain(*both))
    if kind == "()" and _INFINITE & {item.text for item in items}:
        kind = "open"
    return Reading(kind, None, tuple(items), join(found))


def _named(found: list[str]) -> Reading | None:
    r"""Reads a name and its value: x = 5, f(x) = 2x + 1, A = 2*3 = 6, x \in [1,2]."""
    for sign in ("=", r"\in"):
        first, *others = split(found, {sign})
        if others and not {"=", r"\neq", *_LESS, *_MORE} & {*others[-1]}:
            name = join(first)
            reading = _read(others[-1]) if _NAME.fullmatch(name) else None
            if reading is not None:
                return Reading("named", name, (reading,), join(found))
    return None


def _inequality(found: list[str]) -> Reading | None:
    """Reads a variable between bounds as the interval that it lies in."""
    signs = [token for token in found if token in _LESS | _MORE]
    sides = split(found, _LESS | _MORE)
    if not 1 <= len(signs) == len(sides) - 1 <= 2 or (_LESS & {*signs} and _MORE & {*signs}):
        return None
    if signs[0] in _MORE:
        signs, sides = signs[::-1], sides[::-1]
    if len(signs) == 1:  # there is no bound on the other side
        first = _is_name(sides[0])
        signs = ["<", *signs] if first else [*signs, "<"]
        sides = [["-", r"\infty"], *sides] if first else [*sides, [r"\infty"]]
    low, name, high = sides
    brackets = "([", ")]"
    opening, closing = (
        kinds[sign in (r"\leq", r"\geq")] for kinds, sign in zip(brackets, signs, strict=True)
    )
    kind = "open" if opening + closing == "()" else opening + closing
    interval = _group(kind, [low, high], [opening, *low, ",", *high, closing])
    if interval.kind == "expression" or not _is_name(name):
        return None
    return Reading("named", join(name), (interval,), join(found))


def _is_name(side: Sequence[str]) -> bool:
    return bool(_NAME.fullmatch(join(side)))


def _bracket(found: list[str]) -> Reading | None:
    if not is_enclosed(found) or found[0].startswith(r"\begin"):
        return None
    inner, kind = found[1:-1], "".join(found[:1] + found[-1:]).replace("\\", "")
    parts = split(inner, {",", ";"})
    if found[0] == "{" or (len(parts) == 1 and (kind == "()" or _MATRICES.match(join(inner)))):
        return _read(inner) or _expression(found)
    if kind == "{}":
        if {"|", ":", r"\mid"} & set(inner):
            return _expression(found)
        group = _group(kind, parts if inner else [], found)
        distinct = {item.text: item for item in group.items}
        return group._replace(items=tuple(distinct.values())) if group.items else group
    if kind == "langlerangle":
        return _group("<>", parts, found)
    if kind in ("(]", "[)") and len(parts) != 2:
        return _expression(found)
    return _group(kind, parts, found)


def _matrix(found: list[str]) -> Reading | None:
    if not is_enclosed(found) or not _MATRICES.fullmatch(found[0]):
        return None
    lines = split(found[1:-1], {r"\\"})
    lines = lines if lines[-1] else lines[:-1]
    rows = [_group("row", split(line, {"&"}), line) for line in lines]
    if len({len(row.items) for row in rows}) != 1 or any(row.kind != "row" for row in rows):
        return _expression(found)
    return Reading("matrix", None, tuple(rows), join(found))


def _union(found: list[str]) -> Reading | None:
    parts = split(found, {r"\cup"})
    return _group("union", parts, found) if len(parts) > 1 else None


def _plus_minus(found: list[str]) -> Reading | None:
    places = [place for place, token in enumerate(found) if token in (r"\pm", r"\mp")]
    if len(places) != 1:
        return None
    before, after = found[: places[0]], found[places[0] + 1 :]
    group = _group("{}", [[*before, sign, *after] for sign in "+-"], [*before, r"\pm", *after])
    is_one = len({item.text for item in group.items}) == 1  # \pm 0
    return group.items[0] if is_one else group


def _notation(found: list[str]) -> Reading | None:
    text = quantities.based(join(found))
    return Reading("notation", text, (), text) if text else None


# In this order: a list is split before its items are looked at, a name goes before its value.
_RULES = (
    _with_unit,
    _list,
    _named,
    _inequality,
    _bracket,
    _matrix,
    _union,
    _plus_minus,
    _notation,
)
