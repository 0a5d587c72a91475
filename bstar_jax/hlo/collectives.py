"""Collectives of a compiled program: how much a device receives, and over which mesh axes.

Among n devices, each with a part of an array, a device receives

    all-gather           (n - 1) / n of the result
    reduce-scatter       (n - 1) / n of the input
    all-reduce           2 (n - 1) / n of the input
    all-to-all           (n - 1) / n of the input
    collective-permute   all of the input
"""

from __future__ import annotations

import collections
import itertools
import math
import re

import numpy as np

from bstar_jax.hlo.parsing import Computation, Instruction
from bstar_jax.sharding import Collective

OPCODES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "ragged-all-to-all",
)  # fmt: skip


def collectives(
    found: list[tuple[Instruction, Computation, int]], mesh_shape: dict[str, int]
) -> tuple[Collective, ...]:
    """Adds collectives up by kind and axes; those that move most come first.

    A collective that overlaps with other work is split into several instructions, of which one
    counts.

    Args:
      found: Each collective, the computation that contains it, and how often it runs.
      mesh_shape: Sizes of the mesh by axis, in the order of its devices.
    """
    once: dict[object, tuple[Instruction, Computation, int]] = {}
    for number, (instruction, computation, times) in enumerate(found):
        pieces = "chain_id=" in instruction.attributes
        key = ("chain", instruction.attribute("channel_id")) if pieces else number
        if key not in once or times < once[key][2]:
            once[key] = instruction, computation, times
    grouped = collections.defaultdict(list)
    for instruction, computation, times in once.values():
        kind = instruction.opcode.removesuffix("-start")
        groups = groups_of(instruction.attributes)
        axes = mesh_axes_of(groups, mesh_shape)
        if axes:
            received = times * _received(kind, instruction, computation, groups)
            size = max((array.bytes for array in instruction.arrays), default=0)
            grouped[kind, axes].append((times, received, size))
    summed = []
    for (kind, axes), rows in grouped.items():
        counts, received, sizes = zip(*rows, strict=True)
        summed.append(Collective(kind, axes, sum(counts), sum(received), max(sizes)))
    return tuple(sorted(summed, key=lambda each: -each.received))


def _received(
    kind: str, instruction: Instruction, computation: Computation, groups: list[list[int]]
) -> float:
    """Bytes that a device receives in one run."""
    inputs = sum(
        array.bytes
        for name in instruction.operands
        for array in (computation[name].arrays if name in computation else [])
    )
    size = len(groups[0]) if groups else 1
    share = (size - 1) / size
    if kind == "all-gather":
        return share * size * inputs
    if kind == "all-reduce":
        return 2 * share * inputs
    return float(inputs) if kind == "collective-permute" else share * inputs


def groups_of(attributes: str) -> list[list[int]]:
    """Returns the devices of every group of a collective; [] for a notation that is not known.

    Examples: "replica_groups={{0,1},{2,3}}"; "replica_groups=[2,2]<=[2,2]T(1,0)", which is
    {0,2},{1,3}; "replica_groups=mesh['a'=2,'b'=2] {'b'}", which is {0,1},{2,3};
    "source_target_pairs={{0,1},{1,0}}", where each pair is a group.
    """
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", attributes)
    if listed:
        groups = re.findall(r"\{([\d,]+)\}", listed.group(1))
        return [list(map(int, group.split(","))) for group in groups]
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if counted:
        shape, source = (_numbers(counted.group(index)) for index in (1, 2))
        return _iota(source, counted.group(3)).reshape(shape).tolist()
    named = re.search(
        r"replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{([^}]*)\}",
        attributes,
    )
    return _named_groups(*named.groups()) if named else []


def _numbers(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def _iota(source: list[int], order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(source)).reshape(source)
    return ids.transpose(_numbers(order)) if order else ids


def _named_groups(mesh: str, source: str | None, order: str | None, wanted: str) -> list[list[int]]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    among = re.findall(r"'([^']+)'", wanted)
    if "(" in wanted or not set(among) <= set(sizes):
        return []
    shape = list(sizes.values())
    ids = (_iota(_numbers(source), order) if source else np.arange(math.prod(shape))).reshape(shape)
    inside = [list(sizes).index(name) for name in among]
    outside = [index for index in range(len(shape)) if index not in inside]
    groups = ids.transpose([*outside, *inside])
    return groups.reshape(-1, math.prod(shape[index] for index in inside)).tolist()


def mesh_axes_of(groups: list[list[int]], mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes along which members of a group differ; ("other",) without groups."""
    if not groups:
        return ("other",)
    members = np.array(list(itertools.zip_longest(*groups, fillvalue=-1))).T
    members = np.where(members < 0, members[:, :1], members)
    if members.max() >= math.prod(mesh_shape.values()):
        return ("other",)
    coordinates = np.unravel_index(members, tuple(mesh_shape.values()))
    return tuple(
        axis
        for axis, along in zip(mesh_shape, coordinates, strict=True)
        if (along != along[:, :1]).any()
    )
