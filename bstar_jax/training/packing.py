"""Packs the texts of an optimizer step into rows, so that few of the computed tokens are padding.

texts     a a a a .   b b . . .   c . . . .   d d d d d
rows      d d d d d   a a a a c   b b . . .
segments  1 1 1 1 1   1 1 1 1 2   1 1 0 0 0      no token attends to another text
positions 0 1 2 3 4   0 1 2 3 0   0 1 0 0 0      each text starts from 0

The loss is the mean over the tokens of the step, wherever they are, so packing changes no gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from bstar_jax.config import TrainingConfig
from bstar_jax.training.batches import Batch, StepBatch, cut_padding


def arrange(batch: Batch | StepBatch, settings: TrainingConfig, shards: int) -> Batch | StepBatch:
    """The rows of a step as they are computed: packed, or one text each with little padding.

    Args:
      batch: One text a row, from the first column on.
      settings: How long rows are, and how many are computed at once.
      shards: Number of devices that share the rows.
    """
    if not settings.row_tokens:
        return cut_padding(batch)
    return pack(batch, settings.row_tokens, settings.micro_rows or shards)


def pack(batch: Batch | StepBatch, row_tokens: int, multiple: int) -> Batch | StepBatch:
    """Packs texts into `row_count` rows; where each text goes depends on their lengths alone.

    Args:
      batch: One text a row, from the first column on.
      row_tokens: Tokens of a row.
      multiple: The number of rows is a multiple of this. Rows without a text have no weight.

    Raises:
      ValueError: If a text is longer than a row.
    """
    lengths = batch.segments_BL.sum(axis=1).tolist()
    rows = first_fit(lengths, row_tokens)
    shape = (row_count(len(rows), multiple), row_tokens)
    packed = jax.tree.map(lambda column: np.zeros(shape, column.dtype), batch)
    packed = dataclasses.replace(packed, positions_BL=np.zeros(shape, np.int32))
    for row, texts in enumerate(rows):
        ends = np.cumsum([lengths[text] for text in texts])
        for number, (text, end) in enumerate(zip(texts, ends, strict=True), start=1):
            length = lengths[text]
            span = slice(end - length, end)
            for target, source in zip(
                jax.tree.leaves(dataclasses.replace(packed, positions_BL=None)),
                jax.tree.leaves(batch),
                strict=True,
            ):
                target[row, span] = source[text, :length]
            packed.segments_BL[row, span] = number
            packed.positions_BL[row, span] = np.arange(length)
    return packed


def first_fit(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Puts the longest text first, and each text into the first row that has room.

    This takes at most 11/9 of the fewest rows possible, plus one (Johnson, 1973).

    Example: lengths 4, 2, 1, 5 and rows of 5 -> [[3], [0, 2], [1]].

    Returns:
      The numbers of the texts in each row.

    Raises:
      ValueError: If a text is longer than a row.
    """
    if max(lengths) > row_tokens:
        raise ValueError(f"a text has {max(lengths)} tokens, a row {row_tokens}; take longer rows")
    rows: list[list[int]] = []
    room: list[int] = []
    for text in sorted(range(len(lengths)), key=lambda text: (-lengths[text], text)):
        row = next((row for row, free in enumerate(room) if free >= lengths[text]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_tokens)
        rows[row].append(text)
        room[row] -= lengths[text]
    return rows


def row_count(rows: int, multiple: int) -> int:
    """Rounds a number of rows up, by at most an eighth or to the multiple.

    Every number of rows is a program of its own, so there should be few.

    Example: multiple 1: 7 -> 7, 17 -> 18, 33 -> 36; multiple 4: 7 -> 8, 17 -> 20, 33 -> 36.
    """
    grain = max(2 ** (rows.bit_length() - 1) // 8, 1)
    grain = -(-grain // multiple) * multiple
    return -(-rows // grain) * grain
