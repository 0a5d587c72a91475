"""The interface of tokenizers, and functions that work with any of them."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Sequence
from typing import Protocol

from bstar_jax.config import UserError

Prompt = str | tuple[tuple[str, str], ...]
"""A text, or a chat: the role and the content of each message."""


def as_prompt(value: str | Sequence) -> Prompt:
    """Returns a prompt that was written as JSON, which has no tuples."""
    return value if isinstance(value, str) else tuple((role, text) for role, text in value)


class Tokenizer(Protocol):
    """The methods of a tokenizer that other rooms use.

    Attributes:
      vocab_size: Size of the vocabulary; ids are below it.
      end_id: End-of-text, which training puts after every response.
      end_ids: All tokens that end a response when they are sampled, `end_id` first. Chat models
        end a turn with another token than a text.
      pad_id: Fills rows. It may equal `end_id`, so padding is recognized by position, never by id.
      start_id: Start-of-text, which precedes the prompt if the model was trained so; else None.
      special: The special tokens as text.
      fingerprint: SHA-256 of the definition, in hexadecimal; equal where ids mean the same.
    """

    vocab_size: int
    end_id: int
    end_ids: tuple[int, ...]
    pad_id: int
    start_id: int | None
    special: frozenset[str]
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Encodes a text that continues another one. Special tokens in it are plain text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes many texts as `encode` does."""
        ...

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt, as the model's own tokenizer makes them.

        Start-of-text comes first if there is one. A chat is written by the chat template. Sampling
        and training both call this, so a response continues the same tokens in both.

        Raises:
          UserError: If it is a chat, and there is no template.
        """
        ...

    def ends(self, text: str) -> list[int]:
        """Returns the end of each token of `encode` in the text, in characters, in order."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that continue others; special tokens have no text."""
        ...

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of many rows of ids."""
        ...

    def pieces(self) -> list[bytes]:
        """The bytes that each token adds to a text, [V].

        The bytes of ids in a row, read as UTF-8, are `decode(ids)`, with two exceptions: a word
        tokenizer decodes without the space before the first word, and bytes that are not UTF-8
        become replacement characters. Special tokens add nothing.

        Raises:
          UserError: If what a token adds depends on its neighbours.
        """
        ...

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files from which `load` makes an equal tokenizer."""
        ...


def tokens_at(tokenizer: Tokenizer, text: str, positions: Sequence[int]) -> list[int]:
    """The index of the token that holds the last character before each position.

    This holds for a token that extends beyond the position too, such as one of several line ends.

    Example: words "8 - 3 = 5 . # 5", positions [11, 15] -> [5, 7].

    Args:
      tokenizer: Splits the text into tokens.
      text: A text of at least one token.
      positions: Positions in characters, from 1 to the length of the text.
    """
    ends = tokenizer.ends(text)
    return [min(bisect.bisect_left(ends, at), len(ends) - 1) for at in positions]


def check_round_trip(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Refuses a tokenizer that changes any of these texts.

    Some do: Qwen's joins letters and accents into one character (Unicode NFC), Llama 2's and
    Gemma's read "▁" as a space.

    Raises:
      UserError: With the first text that does not decode to itself, and where it differs.
    """
    texts = list(texts)
    decoded = tokenizer.decode_batch(tokenizer.encode_batch(texts))
    for text, back in zip(texts, decoded, strict=True):
        if back != text:
            at = len(os.path.commonprefix([text, back]))  # noqa: RUF071  (texts, not paths)
            raise UserError(
                f"the tokenizer changes text: at character {at}, {text[at : at + 20]!a} comes "
                f"back as {back[at : at + 20]!a}, in {text[max(0, at - 20) : at + 20]!r}; "
                "change the text, use another tokenizer, or train one by leaving "
                "tokenizer.path empty"
            )
