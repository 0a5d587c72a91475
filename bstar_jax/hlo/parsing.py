"""Reads the text of a compiled program into instructions, and how often each of them runs.

The compiler's own count of work takes the body of a loop once. Here a loop counts as often as it
turns, which is known where it counts from a constant to a constant. A loop of unknown length, such
as that of decoding, counts once, so that its figures are those of one turn. Of the branches of a
conditional the first counts, which in this project is the usual one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "token": 0, "opaque": 0, "tuple": 0}
_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,<=]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=(\{[^}]*\}|%[^\s,]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      dtype: Its type in HLO, such as "bf16".
      dims: Its dimensions.
      is_main: Whether it lies in main memory, not on the processor.
    """

    dtype: str
    dims: tuple[int, ...]
    is_main: bool

    @property
    def bytes(self) -> int:
        """Its size, without the padding of tiles."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits.group()) if digits else 8
        return math.prod(self.dims) * bits // 8


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Its name, without %.
      shape: The shape of its result, as text.
      opcode: What it does.
      operands: Names of what it reads.
      attributes: The text after the operands.
      is_root: Whether its result is that of the computation.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> list[Array]:
        """The arrays of its result, tuples flattened."""
        return arrays(self.shape)

    @functools.cached_property
    def called(self) -> list[str]:
        """Names of the computations that it calls; branches of a conditional in their order."""
        names = re.sub(r"metadata=\{[^}]*\}", "", self.attributes)
        found = [name for group in _CALLED.findall(names) for name in re.split(r"[{},\s]+", group)]
        return [name.removeprefix("%") for name in found if name]

    def attribute(self, name: str) -> str:
        """Returns the value of `name=value`, with all of a group in braces; "" if there is none."""
        found = re.search(
            rf"\b{name}=(\{{\{{.*?\}}\}}|\{{[^}}]*\}}|\([^)]*\)|[^\s,]+)", self.attributes
        )
        return found.group(1) if found else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: Instructions of every computation by name, in their order.
      entry: Name of the computation that starts.
    """

    computations: dict[str, Computation]
    entry: str


def arrays(shape: str) -> list[Array]:
    """Returns the arrays of a shape.

    Example: "(f32[2,3]{1,0}, bf16[4]{0:S(1)})" -> f32 [2, 3] in main memory, and bf16 [4] not.
    """
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        sizes = tuple(int(size.strip("<=")) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, "S(" not in layout))
    return found


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Raises:
      ValueError: If it has no entry.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _HEAD.match(line) if not line.startswith(" ") else None
        if head and "=" not in line.partition("(")[0]:
            current = computations.setdefault(head.group(2), {})
            entry = head.group(2) if head.group(1) else entry
        elif current is not None and " = " in line:
            instruction = _instruction(line.strip())
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text of the program has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    left, _, right = line.partition(" = ")
    is_root = left.startswith("ROOT ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = re.findall(r"%([^\s,()]+)", rest[opening:closing])
    if rest[:opening] in ("parameter", "constant"):
        operands = [rest[opening + 1 : closing]]
    return Instruction(
        left.removeprefix("ROOT ").removeprefix("%"), shape, rest[:opening], tuple(operands),
        rest[closing + 1 :], is_root,
    )  # fmt: skip


def _closing(text: str, start: int) -> int:
    """Index at which the parenthesis that opens at `start` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"a parenthesis stays open in {text[start : start + 80]!r}")


def root(computation: Computation) -> Instruction:
    """Returns the instruction whose result is that of a computation."""
    return next(each for each in computation.values() if each.is_root)


@dataclasses.dataclass(frozen=True, eq=False)
class Running:
    """An instruction that runs.

    Attributes:
      instruction: The instruction.
      computation: The computation that contains it.
      times: How often it runs in one run of the program.
    """

    instruction: Instruction
    computation: Computation
    times: int


def running(module: Module, turns: int = 1) -> Iterator[Running]:
    """Yields every instruction that runs; a fusion is one, and its parts are not listed.

    Args:
      module: The program.
      turns: Number of turns of a loop of unknown length in the entry; inside another loop it is 1.
    """
    yield from _running(module, module.entry, 1, turns)


def _running(module: Module, name: str, times: int, turns: int) -> Iterator[Running]:
    computation = module.computations[name]
    for instruction in computation.values():
        yield Running(instruction, computation, times)
        if instruction.opcode == "while":
            body = _named(instruction, "body")
            count = trip_count(module, computation, instruction) or turns
            yield from _running(module, body, times * count, 1)
        elif instruction.opcode == "conditional":
            yield from _running(module, _branches(instruction)[0], times, turns)
        elif instruction.opcode in ("call", "async-start"):
            for called in instruction.called:
                yield from _running(module, called, times, turns)


def _branches(instruction: Instruction) -> list[str]:
    listed = instruction.attribute("branch_computations")
    if listed:
        return [name.strip(" %") for name in listed.strip("{}").split(",")]
    # A conditional on a boolean: the false branch is number 0.
    return [_named(instruction, "false_computation"), _named(instruction, "true_computation")]


def _named(instruction: Instruction, attribute: str) -> str:
    return instruction.attribute(attribute).removeprefix("%")


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """Returns the turns of a loop: as stated, or by its counter; 0 if neither is known."""
    stated = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if stated:
        return int(stated.group(1))
    condition = module.computations[_named(loop, "condition")]
    test = root(condition)
    if test.opcode != "compare" or test.attribute("direction") != "LT":
        return 0
    counter, limit = (condition.get(name) for name in test.operands)
    if counter is None or counter.opcode != "get-tuple-element":
        return 0
    if limit is None or limit.opcode != "constant":
        return 0
    index = int(counter.attribute("index"))
    begin = _start(computation, loop, index)
    step = _step(module.computations[_named(loop, "body")], index)
    return max(math.ceil((int(limit.operands[0]) - begin) / step), 1)


def _start(computation: Computation, loop: Instruction, index: int) -> int:
    """The constant that the counter of a loop starts from; 0 if it is not found."""
    made = computation.get(loop.operands[0])
    first = computation.get(made.operands[index]) if made and made.opcode == "tuple" else None
    while first is not None and first.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        first = computation.get(first.operands[0])
    if first is None or first.opcode != "constant" or not first.operands[0].lstrip("-").isdecimal():
        return 0
    return int(first.operands[0])


def _step(body: Computation, index: int) -> int:
    """The constant that a loop adds to its counter in a turn; 1 if it is not found."""
    given = root(body)
    added = body.get(given.operands[index]) if given.opcode == "tuple" else None
    if added is None or added.opcode != "add":
        return 1
    for name in added.operands:
        by = body.get(name)
        if by is not None and by.opcode == "constant":
            return max(int(by.operands[0]), 1)
    return 1
