"""The work of a compiled program: products, memory traffic, exchanges between devices.

    products     2 x the multiplications of every matrix product and of attention kernels
    memory       bytes that instructions read and write in main memory, a fusion as one of them;
                 of an array that is read or changed in part, only that part
    exchanges    bytes that a device receives, by the mesh axes that its group spans

What a device keeps on its processor is not traffic.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from bstar_jax.hlo.collectives import OPCODES, collectives
from bstar_jax.hlo.parsing import Array, Computation, Instruction, Module, parse, root, running
from bstar_jax.sharding import Cost

_IDLE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "iota", "copy-done", "slice-done",
    "async-start", "async-update", "async-done", "opt-barrier", "all-gather-done",
    "all-reduce-done", "collective-permute-done", "domain", "add-dependency",
}  # fmt: skip
# Instructions that change their first operand in place -> the operand that is the change.
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}
_VIEWS = ("bitcast", "reshape", "transpose", "copy", "convert")


def cost_of(text: str, mesh_shape: dict[str, int], turns: int = 1) -> Cost:
    """Counts the work of a compiled program.

    Args:
      text: What `as_text()` of a compiled program returns.
      mesh_shape: Sizes of the mesh by axis, in the order of its devices.
      turns: Number of turns of its loop of unknown length. The result is the work of one turn,
        with its share of the work before and after the loop.
    """
    module = parse(text)
    flops = moved = 0.0
    found: list[tuple[Instruction, Computation, int]] = []
    for each in running(module, turns):
        instruction, computation = each.instruction, each.computation
        for part, around in _inside(instruction, computation, module):
            flops += each.times * flops_of(part, around)
            if part.opcode.removesuffix("-start") in OPCODES:
                found.append((part, around, each.times))
        moved += each.times * bytes_of(instruction, computation, module)
    exchanges = collectives(found, mesh_shape)
    if turns > 1:
        exchanges = tuple(
            dataclasses.replace(each, count=each.count / turns, received=each.received / turns)
            for each in exchanges
        )
    return Cost(flops / turns, moved / turns, exchanges)


def _inside(
    instruction: Instruction, computation: Computation, module: Module
) -> Iterator[tuple[Instruction, Computation]]:
    """Yields the instructions of a fusion with their computation; else the instruction itself."""
    if instruction.opcode != "fusion":
        yield instruction, computation
        return
    for name in instruction.called:
        for part in module.computations[name].values():
            yield from _inside(part, module.computations[name], module)


# Products.


def flops_of(instruction: Instruction, computation: Computation) -> float:
    """Counts multiplications and additions of one instruction; 0 where it is not a product."""
    if instruction.opcode == "dot":
        size = _operand(instruction, computation, 0)
        summed = [int(i) for i in re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))]
        return 2.0 * _size(instruction) * math.prod(size.dims[i] for i in summed)
    if instruction.opcode == "convolution":
        return _convolution(instruction, computation)
    if instruction.opcode == "custom-call":
        return _attention(instruction, computation)
    return 0.0


def _convolution(instruction: Instruction, computation: Computation) -> float:
    """Products of a convolution, without the taps of its window that fall on padding."""
    right = _operand(instruction, computation, 1)
    left = _operand(instruction, computation, 0)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"convolution {instruction.name} has no dim_labels")
    ins, kernel, outs = labels.groups()
    out = instruction.arrays[0]
    window = _window(instruction.attributes)
    total = 2.0 * right.dims[kernel.index("i")]
    total *= out.dims[outs.index("b")] * out.dims[outs.index("f")]
    for number in range(len(kernel) - 2):
        letter = str(number)
        sizes = left.dims[ins.index(letter)], right.dims[kernel.index(letter)]
        total *= _pairs(*sizes, out.dims[outs.index(letter)], window, number)
    return total


def _window(attributes: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = found.group(1).split() if found else []
    return {name: value.split("x") for name, _, value in (field.partition("=") for field in fields)}


def _pairs(base: int, taps: int, outputs: int, window: dict[str, list[str]], number: int) -> int:
    """Pairs of an output and a tap of the window that meet an input, in one dimension."""

    def value(name: str, default: str) -> str:
        return window[name][number] if name in window else default

    stride, dilate = int(value("stride", "1")), int(value("rhs_dilate", "1"))
    spread = int(value("lhs_dilate", "1"))
    low = int(value("pad", "0_0").split("_")[0])
    at = np.arange(outputs)[:, None] * stride + np.arange(taps)[None] * dilate - low
    return int(((at >= 0) & (at % spread == 0) & (at // spread < base)).sum())


def _attention(instruction: Instruction, computation: Computation) -> float:
    """Products of the blockwise attention kernel: half of the square of tokens, as it is causal."""
    named = instruction.name + instruction.attributes
    products = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
    kind = next((kind for kind in products if kind in named), None)
    if kind is None or "tpu_custom_call" not in instruction.attributes:
        return 0.0
    read = [_found(computation, name) for name in instruction.operands]
    # Queries, keys and values have tokens last but one; the queries have the most heads.
    many = [array for array in read if array and len(array.dims) > 2]
    query = max(many, key=lambda array: array.bytes)
    return products[kind] * 2.0 * math.prod(query.dims) * query.dims[-2] / 2


def _found(computation: Computation, name: str) -> Array | None:
    given = computation.get(name)
    return given.arrays[0] if given and given.arrays else None


def _operand(instruction: Instruction, computation: Computation, index: int) -> Array:
    return computation[instruction.operands[index]].arrays[0]


def _size(instruction: Instruction) -> int:
    return math.prod(instruction.arrays[0].dims)


# Memory.


def bytes_of(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Counts the bytes that an instruction reads and writes in main memory."""
    opcode = instruction.opcode
    if opcode in _IDLE or (opcode == "custom-call" and "tpu_custom" not in instruction.attributes):
        return 0.0

    def given(name: str) -> list[Array]:
        return computation[name].arrays if name in computation else []

    if opcode in ("copy-start", "slice-start"):
        moved = [array for array in instruction.arrays if array.dtype != "u32"]
        size = min((array.bytes for array in moved), default=0)
        read = sum(array.is_main for array in given(instruction.operands[0])[:1])
        return float(size * (read + sum(array.is_main for array in moved[1:2])))
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _main(instruction.arrays)
    if opcode in _IN_PLACE:
        return 2.0 * _main(given(instruction.operands[_IN_PLACE[opcode]]))
    if opcode != "fusion":
        reads = sum(_main(given(name)) for name in instruction.operands)
        return reads + float(_main(instruction.arrays))
    inner = module.computations[instruction.called[0]]
    total = 0.0
    for part in inner.values():
        if part.opcode == "parameter":
            outer = given(instruction.operands[int(part.operands[0])])
            if any(array.is_main for array in outer):
                total += _read(part, inner, module)
    return total + _written(instruction, inner)


def _main(found: list[Array]) -> int:
    return sum(array.bytes for array in found if array.is_main)


def _read(source: Instruction, inner: Computation, module: Module) -> float:
    """Bytes that a fusion reads of an operand: the slices that it takes, or all of it."""
    whole = float(sum(array.bytes for array in source.arrays))
    users = [user for user in inner.values() if source.name in user.operands]
    total = 0.0
    for user in users:
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == source.name:
            total += sum(array.bytes for array in user.arrays)
        elif user.opcode in _VIEWS and not user.is_root:
            total += _read(user, inner, module)
        elif user.opcode == "fusion":
            within = module.computations[user.called[0]]
            index = str(user.operands.index(source.name))
            total += sum(
                _read(part, within, module)
                for part in within.values()
                if part.opcode == "parameter" and part.operands[0] == index
            )
        elif not _is_passed_on(user, source):
            return whole
    return min(total, whole)


def _is_passed_on(user: Instruction, source: Instruction) -> bool:
    """Whether an instruction passes an operand on unread, or changes it in place."""
    in_place = user.opcode in _IN_PLACE and user.operands[0] == source.name
    return in_place or user.opcode in ("tuple", "parameter", "constant") or _is_asynchronous(user)


def _is_asynchronous(user: Instruction) -> bool:
    return user.opcode in OPCODES or "AsyncCollective" in user.attributes


def _written(instruction: Instruction, inner: Computation) -> float:
    """Bytes that a fusion writes; of an array changed in place, only the change."""
    last = root(inner)
    parts = [last]
    if last.opcode == "tuple":
        parts = [inner[name] for name in last.operands]
    total = 0.0
    for part, array in zip(parts, instruction.arrays, strict=False):
        while part.opcode in _VIEWS and part.operands[0] in inner:
            part = inner[part.operands[0]]
        if part.opcode in _IN_PLACE:
            change = inner[part.operands[_IN_PLACE[part.opcode]]]
            total += change.arrays[0].bytes if array.is_main else 0
        elif part.opcode != "parameter" and not _is_asynchronous(part) and array.is_main:
            total += array.bytes
    return total
