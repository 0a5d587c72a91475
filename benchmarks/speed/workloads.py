"""What `sampling` and `training` measure: a model, workloads, and the least that they take.

NumPy alone: the program of every side reads it, whatever its framework.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypedDict

import numpy as np


class Shape(TypedDict):
    """Fields of our `ModelConfig`, from which every side makes its model."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    rope_theta: float
    norm_epsilon: float
    tied: bool


MODEL: Shape = {
    "vocab_size": 32000,
    "width": 256,
    "layers": 6,
    "heads": 8,
    "kv_heads": 2,
    "feed_forward": 1024,
    "rope_theta": 1e6,  # the only one that Tunix's Llama knows, whatever its config says
    "norm_epsilon": 1e-6,
    "tied": False,
}
HEAD_WIDTH = MODEL["width"] // MODEL["heads"]
BYTES = 4  # of an f32
FIRST_ID = 2  # prompts hold no padding and no end of text
NEVER = MODEL["vocab_size"]  # an end of text that no side ever draws


@dataclasses.dataclass(frozen=True)
class Workload:
    """Responses to draw from a vocabulary of 32,000.

    Attributes:
      name: A, B or C.
      prompts_QP: Prompt tokens, padded on the right with 0.
      lengths_Q: Their true lengths.
      limits_QN: Tokens after which each response ends, at each temperature.
      temperatures: A side that cannot mix them draws at one after another.
      cold: Whether every repeat counts compilation.
      batches: Batch sizes that are worth trying.
    """

    name: str
    prompts_QP: np.ndarray
    lengths_Q: np.ndarray
    limits_QN: np.ndarray
    temperatures: tuple[float, ...]
    cold: bool
    batches: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return int(self.limits_QN.max())

    @property
    def kept(self) -> int:
        """Tokens of all responses."""
        return int(self.limits_QN.sum()) * len(self.temperatures)

    @property
    def rows(self) -> int:
        """Responses."""
        return self.limits_QN.size * len(self.temperatures)

    def cut(self, batch: int) -> list[slice]:
        """Whole queries in order, `batch` rows of one temperature at a time."""
        queries, samples = self.limits_QN.shape
        size = max(batch // samples, 1)
        return [slice(start, min(start + size, queries)) for start in range(0, queries, size)]

    def first(self, queries: int) -> Workload:
        """The same with the first queries alone."""
        tables = {
            name: getattr(self, name)[:queries] for name in ("prompts_QP", "lengths_Q", "limits_QN")
        }
        return dataclasses.replace(self, **tables)


def load(name: str, small: bool = False) -> Workload:
    """Makes a workload by name, the same numbers every time.

    A   16 queries x 8 responses, prompts of 64 tokens, responses of 128
    B   64 queries x 32 responses, prompts of 16 to 128 tokens; each response ends at a length of
        its own, geometric with mean 48, at most 256
    C   32 queries x 8 responses at each of 8 temperatures, prompts of 64 tokens, responses of 32;
        every repeat compiles again

    Args:
      name: A, B or C.
      small: An eighth of the queries and a quarter of the tokens, to see that all works.
    """
    rng = np.random.default_rng(ord(name))
    queries, samples, longest, batches = {
        "A": (16, 8, 128, (128,)),
        "B": (64, 32, 256, (32, 64, 128, 256)),
        "C": (32, 8, 32, (64, 128, 256)),
    }[name]
    if small:
        queries, longest = queries // 8, longest // 4
        batches = tuple(batch for batch in batches if batch < queries * samples) or batches[:1]
    lengths_Q = np.full(queries, 64)
    limits_QN = np.full((queries, samples), longest)
    if name == "B":
        lengths_Q = rng.integers(16, 128, queries, endpoint=True)
        mean = 48 if not small else 12
        limits_QN = np.minimum(rng.geometric(1 / mean, (queries, samples)), longest)
    prompts_QP = rng.integers(FIRST_ID, MODEL["vocab_size"], (queries, int(lengths_Q.max())))
    prompts_QP *= np.arange(prompts_QP.shape[1]) < lengths_Q[:, None]
    return Workload(
        name=name,
        prompts_QP=prompts_QP.astype(np.int32),
        lengths_Q=lengths_Q.astype(np.int32),
        limits_QN=limits_QN.astype(np.int32),
        temperatures=tuple(np.linspace(0.5, 1.2, 8).round(2)) if name == "C" else (1.0,),
        cold=name == "C",
        batches=batches,
    )


def probe() -> np.ndarray:
    """Tokens [2, 24] on which all sides must have equal logits."""
    return np.random.default_rng(0).integers(FIRST_ID, MODEL["vocab_size"], (2, 24))


TRAIN_ROWS, TRAIN_TOKENS = 16, 256


def train_texts() -> np.ndarray:
    """Texts [16, 257] of an optimizer step: from 256 tokens it learns the next ones."""
    shape = TRAIN_ROWS, TRAIN_TOKENS + 1
    texts = np.random.default_rng(1).integers(FIRST_ID, MODEL["vocab_size"], shape)
    return texts.astype(np.int32)


def train_operations() -> float:
    """Operations of the products of an optimizer step, two for a multiplication with an addition.

        6 T (Y W + D V) + 12 Y A E T (L + 1) / 2    T tokens in rows of L, W weights a layer

    A weight takes part in one product forward and two backward. Of attention's products, two
    forward and four backward, only what a token reads is counted. Nothing is computed twice.
    """
    d, y, v = MODEL["width"], MODEL["layers"], MODEL["vocab_size"]
    tokens = TRAIN_ROWS * TRAIN_TOKENS
    across = MODEL["heads"] * HEAD_WIDTH
    stored = 2 * MODEL["kv_heads"] * HEAD_WIDTH
    layer = 2 * d * across + d * stored + 3 * d * MODEL["feed_forward"]
    attention = 12 * y * across * tokens * (TRAIN_TOKENS + 1) / 2
    return float(6 * tokens * (y * layer + d * v) + attention)


def best_batch(workload: Workload, seconds_a_step: dict[int, float]) -> int:
    """The batch size that is done soonest, each batch decoding to its own longest response."""

    def seconds(batch: int) -> float:
        steps = sum(int(workload.limits_QN[part].max()) for part in workload.cut(batch))
        return steps * seconds_a_step[batch]

    return min(seconds_a_step, key=seconds)


def needs(workload: Workload, slots: int) -> dict[str, float]:
    """The least work that the responses take with `slots` rows at once.

    Operations are those of the products alone, two for a multiplication with an addition:

        a token      2 (Y W + D V) + 4 Y A E c      W weights a layer, c tokens in its context
        a prompt     2 Y W P + 2 Y A E P (P + 1)    once for all responses to it; no logits

    Bytes of a step: every weight once; the keys and values of the responses' own tokens once a
    row, the new ones too; those of a prompt once for the `slots / N` queries under way. Logits,
    drawing and activations are taken to cost nothing.

    Returns:
      `prompt_operations` in all; `steps`, kept tokens / slots; `operations_a_step` and
      `bytes_a_step`, means over the steps; `operations` in all.
    """
    d, y, v = MODEL["width"], MODEL["layers"], MODEL["vocab_size"]
    across = MODEL["heads"] * HEAD_WIDTH
    stored = 2 * MODEL["kv_heads"] * HEAD_WIDTH  # numbers a token and layer
    layer = 2 * d * across + d * stored + 3 * d * MODEL["feed_forward"]
    lengths_Q = workload.lengths_Q.astype(float)
    limits_QN = workload.limits_QN.astype(float)
    tokens = limits_QN.sum()
    # Token i of a response, from 0, stands behind i others.
    own = (limits_QN * (limits_QN - 1) / 2).sum() / tokens
    prompt = (limits_QN.sum(axis=1) * lengths_Q).sum() / tokens
    context = prompt + own
    prompts = (2 * y * layer * lengths_Q + 2 * y * across * lengths_Q * (lengths_Q + 1)).sum()
    token = 2 * (y * layer + d * v) + 4 * y * across * context
    together = workload.limits_QN.shape[1] * len(workload.temperatures)
    read = y * stored * (slots * (own + 1) + math.ceil(slots / together) * prompt)
    return {
        "prompt_operations": float(prompts),
        "steps": workload.kept / slots,
        "operations_a_step": float(slots * token),
        "bytes_a_step": float(BYTES * (y * layer + d * v + read)),
        "operations": float(prompts + workload.kept * token),
    }


def bounds(
    workload: Workload, slots: int, operations_a_second: float, bytes_a_second: float
) -> dict[str, float]:
    """Tokens/s that the machine allows.

    `matmul_bound` is by matrix products alone, `bound` by the slower of products and memory in
    every step (the roofline).
    """
    least = needs(workload, slots)
    step = max(
        least["operations_a_step"] / operations_a_second, least["bytes_a_step"] / bytes_a_second
    )
    seconds = least["prompt_operations"] / operations_a_second + least["steps"] * step
    return {
        "matmul_bound": workload.kept / (least["operations"] / operations_a_second),
        "bound": workload.kept / seconds,
        "operations_a_step": least["operations_a_step"],
        "bytes_a_step": least["bytes_a_step"],
    }
