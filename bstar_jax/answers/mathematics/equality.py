"""Compares readings of mathematics, exactly, with algebra only where it is needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from bstar_jax.answers.mathematics.readings import Reading

Leaf = Callable[[Reading, Reading], bool | None]

_UNORDERED = ("{}", "union")
_INTERVALS = {"()", "open", "(]", "[)", "[]", "union"}
_RELATION = re.compile(r"[=<>]|\\[lgn]eq")
_MERE_WORDS = re.compile(r"[^\W\d_]+([ '.-]+[^\W\d_]+)*")  # no mathematics
# How canonical texts enclose and separate items; an open interval must not look like a point.
_WRITTEN = {
    "open": ("]", ",", "["),
    "union": ("", r"\cup ", ""),
    "matrix": (r"\matrix{", ";", "}"),
    "row": ("", ",", ""),
}


def compare(one: Reading, two: Reading, algebra: Leaf) -> bool | None:
    """Tells whether two readings are equal; None if `algebra` cannot say.

    Numbers, words and notations are compared exactly, brackets item by item: their ends count, and
    so does order except in sets, lists and unions. A name matters only where both have one.

    Examples: 1/2 and 0.5 -> True         (1,2] and [1,2), (1,2) and (2,1), 5 and -5 -> False
        x = 5 and 5 -> True               x = 5 and y = 5 -> what algebra says: two equations

    Args:
      one: The answer.
      two: The reference.
      algebra: Compares what is not exact; None from it means unknown.
    """
    if one.text == two.text and one.kind == two.kind:
        return True
    if one.kind == two.kind == "named":
        same_name = one.value == two.value
        return compare(one.items[0], two.items[0], algebra) if same_name else algebra(one, two)
    if "named" in (one.kind, two.kind):
        return _compare_named(one, two, algebra)
    if "words" in (one.kind, two.kind):
        return _compare_words(one, two, algebra)
    if bool(one.items) and bool(two.items):
        return _compare_groups(one, two, algebra)
    if "expression" in (one.kind, two.kind):
        return algebra(one, two)
    return one.kind == two.kind and one.value is not None and one.value == two.value


def canonical(reading: Reading) -> str:
    """Writes a reading so that equal texts mean equal answers, by `compare`.

    Equal answers may still have different texts: if only algebra shows that they are equal, or if
    one has a name (x = 5 and 5) or is less ambiguous (1 < x < 2 and (1,2)).

    Examples: 0.50 -> "1/2"     "3, 1" -> "{1,3}"     "x = 2.0" -> "x=2"     "East." -> "east"
    """
    if reading.kind in ("number", "notation"):
        return str(reading.value)
    if reading.kind == "words":
        return reading.value if _MERE_WORDS.fullmatch(reading.value) else reading.text
    if not reading.items:
        return reading.text
    items = [canonical(item) for item in reading.items]
    if reading.kind == "named":
        return f"{reading.value}={items[0]}"
    items = sorted(items) if reading.kind in _UNORDERED else items
    if reading.kind == "open" and {"\\infty", "-\\infty"} & {*items}:
        return f"({','.join(items)})"
    if reading.kind in _WRITTEN:
        opening, separator, closing = _WRITTEN[reading.kind]
    else:
        separator, (opening, closing) = ",", reading.kind
    return f"{opening}{separator.join(items)}{closing}"


def _compare_named(one: Reading, two: Reading, algebra: Leaf) -> bool | None:
    """Compares `x = 5` with 5; but as an equation with an equation, which has no name."""
    if any(_RELATION.search(side.text) for side in (one, two) if not side.items):
        return algebra(one, two)
    one, two = (side.items[0] if side.kind == "named" else side for side in (one, two))
    return compare(one, two, algebra)


def _compare_words(one: Reading, two: Reading, algebra: Leaf) -> bool | None:
    if one.kind == two.kind:
        return one.value == two.value
    words, other = (one, two) if one.kind == "words" else (two, one)
    if other.kind != "expression":
        return False
    return other.text.casefold() == words.value.replace(" ", "") or algebra(one, two)


def _compare_groups(one: Reading, two: Reading, algebra: Leaf) -> bool | None:
    # A round bracket of two may be the open interval that the other one surely is.
    may_be_open = {one.kind, two.kind} == {"()", "open"}
    if one.kind != two.kind and not may_be_open:
        is_union = "union" in (one.kind, two.kind) and {one.kind, two.kind} <= _INTERVALS
        return algebra(one, two) if is_union else False
    if one.kind in _UNORDERED:
        found = _match(one.items, two.items, algebra)
        return algebra(one, two) if one.kind == "union" and not found else found
    if len(one.items) != len(two.items):
        return False
    pairs = zip(one.items, two.items, strict=True)
    found = [compare(left, right, algebra) for left, right in pairs]
    return False if False in found else None if None in found else True


def _match(ones: Sequence[Reading], twos: Sequence[Reading], algebra: Leaf) -> bool | None:
    """Tells whether the items match in some order."""
    left, unknown = list(twos), len(ones) != len(twos)
    if unknown and all(item.kind == "number" for item in (*ones, *twos)):
        return False
    for item in ones:
        found = [compare(item, other, algebra) for other in left]
        if True in found:
            del left[found.index(True)]
        elif None in found:
            unknown = True
        else:
            return False
    return None if unknown else not left
