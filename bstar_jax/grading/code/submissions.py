"""Submissions: finds the program in a response, in all forms that it may be meant in."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MOST_CUTS = 32  # places where a response may be cut

# What published APPS programs may use without importing it.
_PRELUDE = {
    "collections": "ChainMap Counter OrderedDict defaultdict deque",
    "functools": "lru_cache",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "itertools": "accumulate combinations permutations product",
    "math": "ceil cos exp fabs floor gcd log log2 sin sqrt tan",
    "typing": "List Tuple",
}
_PRELUDE_MODULES = "collections fractions heapq itertools math random sys time".split()


def written(response: str) -> tuple[str, ...]:
    r"""Finds the programs that a response may mean; the first that compiles is meant.

    It is the last fenced block that is not empty, or the whole response if there is none. A block
    that is not closed ends with the response. But a lone fence may also end a program whose
    beginning has none, so what precedes it comes first.

    Examples: "So:\n```python\nx = 1\n```\nDone." -> ("x = 1\n",)
      "x = 1\n```\nDone." -> ("x = 1\n", "Done.")

    Returns:
      Texts that are not blank; () if there is none.
    """
    pieces, fences = [""], 0
    for line in response.splitlines(keepends=True):
        if line.lstrip().startswith("```"):
            fences += 1
            pieces.append("")
        else:
            pieces[-1] += line
    inside = [text for text in reversed(pieces[1::2]) if text.strip()][:1]
    before = pieces[:1] if fences == 1 else []
    return tuple(text for text in [*before, *(inside or [response])] if text.strip())


def continuations(prompt: str, text: str, entry_point: str) -> tuple[str, ...]:
    """Lists the programs that a continuation of a HumanEval prompt may mean, as `written` does.

    A text that defines the function itself is run after the prompt, whose imports and other
    functions it may need. Any other text continues the prompt: as it is; or with the indentation
    restored that is lost with the spaces around a response; or ended before a line at the margin,
    such as a remark, if what follows is not Python.

    Args:
      prompt: The published prompt, which ends inside the function.
      text: The continuation, not blank.
      entry_point: The function's name.
    """
    if re.search(rf"^(async )?def {re.escape(entry_point)}\b", text, re.MULTILINE):
        return tuple(stub(prompt) + form for form in (text, *_cut(text)))
    first = "    " + text.lstrip()
    every = "".join(f"    {line}" for line in text.splitlines(keepends=True))
    return tuple(prompt + form for form in (text, first, every, *_cut(text), *_cut(first)))


def stub(prompt: str) -> str:
    """Completes a HumanEval prompt so that it is a program, with a function that does nothing."""
    return f"{prompt.rstrip()}\n    pass\n\n"


def _cut(text: str) -> Iterator[str]:
    """Yields the text ended before each line that starts at the margin, the longest first."""
    starts = [match.start() for match in re.finditer(r"^\S", text, re.MULTILINE)]
    pieces = (text[:start] for start in reversed(starts[:_MOST_CUTS]))
    return (piece for piece in pieces if piece.strip())


def prelude(program: str) -> str:
    r"""Writes imports of the names that a published APPS program may use without importing them.

    Example: "def f(a: List[int]): return math.gcd(*a)" -> "import math\nfrom math import gcd\n
    from typing import List\n"
    """
    words = set(re.findall(r"\w+", program))
    lines = [f"import {name}" for name in _PRELUDE_MODULES if name in words]
    for module, names in _PRELUDE.items():
        used = [name for name in names.split() if name in words]
        lines += [f"from {module} import {', '.join(used)}"] if used else []
    return "".join(f"{line}\n" for line in lines)
