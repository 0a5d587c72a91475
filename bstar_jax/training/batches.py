"""Texts to training batches, in an order that is a function of (seed, iteration, step).

tokens    p p p p r r r . .      input
targets   p p p r r r $ . .      the next token ($ is end-of-text)
weights   . . . 1 1 1 1 . .      the response and its end count, the prompt does not

Where the quality of solution steps is learnt:

tokens    p p p p s s s t t      input: two steps, s and t
labels    . . . . 1 1 1 0 0      quality of the step that the token belongs to
weights   . . . . 1 1 1 1 1      or, where only the end of a step is scored, . . . . . . 1 . 1
language  . . . 1 1 1 1 1 .      the next token is learnt too, because the answer is correct

`packing` puts several of these rows into one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from bstar_jax.tokenizer import Prompt, Tokenizer, tokens_at

LENGTH_STEP = 128
"""Columns by which batches grow. Every length is a program of its own, so there are few."""


Column = Any
"""An array of a batch: NumPy on the host, JAX on devices and while tracing."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One text to learn.

    Attributes:
      prompt: The text before the response, or the chat; not learnt.
      response: The text to learn, followed by end-of-text.
      source: Id of the query, for messages.
    """

    prompt: Prompt
    response: str
    source: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step.

    Attributes:
      tokens_BL: Input tokens, int32.
      targets_BL: The token that follows each, int32.
      weights_BL: 1 where the target is part of a response, else 0, f32.
      segments_BL: Which text of its row a token belongs to, from 1; 0 is padding; int32.
      positions_BL: Position in its text, from 0, int32; None where every row is one text.
    """

    tokens_BL: Column
    targets_BL: Column
    weights_BL: Column
    segments_BL: Column
    positions_BL: Column | None = None

    def normalized(self) -> Batch:
        """The batch with weights that add up to 1, so that the losses of its parts add up too.

        A batch without weight would give 0/0; there is none, as every example ends in end-of-text,
        which has weight.
        """
        return dataclasses.replace(self, weights_BL=self.weights_BL / self.weights_BL.sum())


@dataclasses.dataclass(frozen=True)
class StepExample:
    """One response whose solution steps are labelled.

    Attributes:
      prompt: The text before the response, or the chat.
      response: The response.
      ends: Where in the response each step ends, in characters.
      labels: Quality of each step, in [0, 1].
      source: Id of the query, for messages.
    """

    prompt: Prompt
    response: str
    ends: tuple[int, ...]
    labels: tuple[float, ...]
    source: str


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepBatch:
    """The rows of one optimizer step, of responses with labelled solution steps.

    Attributes:
      tokens_BL: Input tokens, int32.
      labels_BL: Label of the step that each token belongs to, in [0, 1], f32.
      weights_BL: 1 where the token is scored, else 0, f32.
      language_BL: 1 where the next token is part of a response whose last label is 1, else 0, f32.
      segments_BL: Which text of its row a token belongs to, from 1; 0 is padding; int32.
      positions_BL: Position in its text, from 0, int32; None where every row is one text.
    """

    tokens_BL: Column
    labels_BL: Column
    weights_BL: Column
    language_BL: Column
    segments_BL: Column
    positions_BL: Column | None = None

    def normalized(self) -> StepBatch:
        """As `Batch.normalized`, for both kinds of weights; there may be no language to learn."""
        return dataclasses.replace(
            self,
            weights_BL=self.weights_BL / self.weights_BL.sum(),
            language_BL=self.language_BL / self.language_BL.sum().clip(1.0),
        )


AnyBatch = TypeVar("AnyBatch", bound=Batch | StepBatch)


@dataclasses.dataclass(frozen=True)
class Encoded(Generic[AnyBatch]):
    """All examples as one block of rows, in their order; `take` cuts batches out of it."""

    rows: AnyBatch

    def __len__(self) -> int:
        return len(self.rows.tokens_BL)

    def take(self, index_B: np.ndarray) -> AnyBatch:
        """The rows of one step, by their numbers."""
        return jax.tree.map(lambda column: column[index_B], self.rows)


@dataclasses.dataclass(frozen=True)
class TooLong:
    """An example that is too long.

    Attributes:
      prompt_tokens: Tokens of its prompt.
      response_tokens: Tokens of its response, end-of-text included.
      source: As in `Example`.
    """

    prompt_tokens: int
    response_tokens: int
    source: str


def encode(
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    max_prompt_tokens: int,
    max_tokens: int,
) -> tuple[Encoded[Batch], list[TooLong]]:
    """Turns examples into tokens; prompts are encoded as sampling encodes them.

    Args:
      tokenizer: Turns text into tokens.
      examples: The texts to learn.
      max_prompt_tokens: Tokens of the longest prompt allowed.
      max_tokens: Tokens of the longest response allowed, end-of-text included.

    Returns:
      The examples that fit, in their order, and those that are too long, which the caller refuses
      or counts.
    """
    texts, too_long = [], []
    for example in examples:
        prompt = tokenizer.encode_prompt(example.prompt)
        response = [*tokenizer.encode(example.response), tokenizer.end_id]
        if len(prompt) > max_prompt_tokens or len(response) > max_tokens:
            too_long.append(TooLong(len(prompt), len(response), example.source))
        else:
            texts.append((prompt, response))
    return _block(texts, max_prompt_tokens + max_tokens - 1, tokenizer.pad_id), too_long


def encode_steps(
    tokenizer: Tokenizer,
    examples: Sequence[StepExample],
    *,
    max_prompt_tokens: int,
    max_tokens: int,
    ends_only: bool = False,
) -> tuple[Encoded[StepBatch], list[TooLong]]:
    """Turns responses with labelled steps into tokens.

    Args:
      tokenizer: Turns text into tokens.
      examples: The responses to learn from.
      max_prompt_tokens: Tokens of the longest prompt allowed.
      max_tokens: Tokens of the longest response allowed.
      ends_only: Whether only the last token of a step is scored, instead of all its tokens.

    Returns:
      As `encode`.
    """
    texts, too_long = [], []
    for example in examples:
        prompt = tokenizer.encode_prompt(example.prompt)
        response = tokenizer.encode(example.response)
        if len(prompt) > max_prompt_tokens or len(response) > max_tokens:
            too_long.append(TooLong(len(prompt), len(response), example.source))
        else:
            last = tokens_at(tokenizer, example.response, example.ends)
            texts.append((prompt, response, last, example.labels))
    shape = (len(texts), max_prompt_tokens + max_tokens)
    tokens_BL = np.full(shape, tokenizer.pad_id, np.int32)
    labels_BL, weights_BL, language_BL = (np.zeros(shape, np.float32) for _ in range(3))
    segments_BL = np.zeros(shape, np.int32)
    for row, (prompt, response, last, labels) in enumerate(texts):
        start, end = len(prompt), len(prompt) + len(response)
        tokens_BL[row, :end] = [*prompt, *response]
        segments_BL[row, :end] = 1
        language_BL[row, start - 1 : end - 1] = labels[-1] == 1
        for token, label in zip(last, labels, strict=True):
            stop = len(prompt) + token + 1
            labels_BL[row, start:stop] = label
            weights_BL[row, stop - 1 if ends_only else start : stop] = 1.0
            start = max(start, stop)
    return Encoded(StepBatch(tokens_BL, labels_BL, weights_BL, language_BL, segments_BL)), too_long


def _block(
    texts: Sequence[tuple[list[int], list[int]]], length: int, pad_id: int
) -> Encoded[Batch]:
    shape = (len(texts), length)
    tokens_BL = np.full(shape, pad_id, np.int32)
    targets_BL = np.full(shape, pad_id, np.int32)
    weights_BL = np.zeros(shape, np.float32)
    segments_BL = np.zeros(shape, np.int32)
    for row, (prompt, response) in enumerate(texts):
        text = [*prompt, *response]
        end = len(text) - 1
        tokens_BL[row, :end] = text[:-1]
        targets_BL[row, :end] = text[1:]
        weights_BL[row, len(prompt) - 1 : end] = 1.0
        segments_BL[row, :end] = 1
    return Encoded(Batch(tokens_BL, targets_BL, weights_BL, segments_BL))


def too_long_message(
    too_long: Sequence[TooLong], total: int, *, max_prompt_tokens: int, max_tokens: int
) -> str:
    """The message for texts that are too long: how many, the longest, and what to set."""
    worst = max(too_long, key=lambda text: text.prompt_tokens + text.response_tokens)
    return (
        f"{len(too_long)} of {total} training texts are too long, such as that of "
        f"{worst.source!r} with {worst.prompt_tokens} prompt and {worst.response_tokens} response "
        f"tokens; they need generate.max_prompt_tokens="
        f"{max(max_prompt_tokens, *(text.prompt_tokens for text in too_long))} and "
        f"generate.max_tokens={max(max_tokens, *(text.response_tokens for text in too_long))}"
    )


def cut_padding(batch: AnyBatch) -> AnyBatch:
    """The batch without columns that are padding in all rows.

    Its length becomes that of the longest text, rounded up to a multiple of LENGTH_STEP; it never
    grows.
    """
    longest = int(batch.segments_BL.sum(axis=1).max())
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    return jax.tree.map(lambda column: column[:, :length], batch)


def row_order(rows: int, batch: int, step: int, seeds: tuple[int, ...]) -> np.ndarray:
    """Row numbers of one step. Passes go over all rows, shuffled anew for each pass.

    Args:
      rows: Number of examples, at least 1.
      batch: Rows a step.
      step: Step of the phase, from 0.
      seeds: What the order depends on, such as (seed, iteration).
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    index = np.empty(batch, np.int64)
    for epoch in np.unique(positions // rows):
        # The count comes first: NumPy reads [1, 2] and [1, 2, 0] as one seed.
        shuffled = np.random.default_rng([len(seeds), *seeds, int(epoch)]).permutation(rows)
        in_epoch = positions // rows == epoch
        index[in_epoch] = shuffled[positions[in_epoch] % rows]
    return index
