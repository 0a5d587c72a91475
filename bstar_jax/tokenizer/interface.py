"""What a tokenizer is to the rooms that read or write text, and what they do with one."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Sequence
from typing import Protocol

from bstar_jax.config import UserError


class Tokenizer(Protocol):
    """What the rooms that read or write text need of a tokenizer.

    Attributes:
      vocab_size: Ids are below it.
      end_id: End of text, which training puts behind every response.
      end_ids: All that end a response when they are drawn, `end_id` first: chat models end a turn
        otherwise than a text.
      pad_id: Fills rows; may equal `end_id`, so padding is told by position, never by id.
      start_id: Stands before the prompt, where the model was trained so; else None.
      special: How special tokens are written, where there are any that a text could be taken for.
      fingerprint: SHA-256 of the definition, in hexadecimal: equal where ids mean the same.
    """

    vocab_size: int
    end_id: int
    end_ids: tuple[int, ...]
    pad_id: int
    start_id: int | None
    special: frozenset[str]
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """The ids of a text that goes on from another one; special tokens in it are plain text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts."""
        ...

    def encode_prompt(self, prompt: str) -> list[int]:
        """The ids that stand before every response, as the model's own tokenizer makes them.

        Start-of-text comes first where there is one. Sampling and training both use it, so that a
        response continues the same tokens in both.
        """
        ...

    def ends(self, text: str) -> list[int]:
        """Where in the text each token of `encode` ends, in characters; never falling."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that go on from others; special tokens have none."""
        ...

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of many rows of ids."""
        ...

    def pieces(self) -> list[bytes]:
        """What each token adds to a text, [V]: `decode(ids)` is their concatenation in UTF-8.

        Less a space at the beginning, where tokens are words; and bytes that are no UTF-8 make
        replacement characters in a text. Special tokens add nothing.

        Raises:
          UserError: If tokens change when they meet.
        """
        ...

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files from which `load` makes an equal tokenizer."""
        ...


def tokens_at(tokenizer: Tokenizer, text: str, places: Sequence[int]) -> list[int]:
    """The index of the token that holds the character before each place.

    Where a token goes on beyond the place, as one of several line ends may, it is that token.

    Example: words "8 - 3 = 5 . # 5", places [11, 15] -> [5, 7].

    Args:
      tokenizer: What cuts the text into tokens.
      text: Text of one token at least.
      places: From 1 to the length of the text.
    """
    ends = tokenizer.ends(text)
    return [min(bisect.bisect_left(ends, place), len(ends) - 1) for place in places]


def check_round_trip(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Refuses a tokenizer that changes texts.

    Some do: Qwen's writes accents in one character (Unicode NFC), Llama 2's and Gemma's take "▁"
    for a space.

    Raises:
      UserError: With the first text whose decoded form differs, and where.
    """
    texts = list(texts)
    backs = tokenizer.decode_batch(tokenizer.encode_batch(texts))
    for text, back in zip(texts, backs, strict=True):
        if back != text:
            at = len(os.path.commonprefix([text, back]))
            raise UserError(
                f"the tokenizer changes text: at character {at}, {text[at : at + 20]!a} comes "
                f"back as {back[at : at + 20]!a}, in {text[max(0, at - 20) : at + 20]!r}; write "
                "the text otherwise, use another tokenizer, or train one by leaving "
                "tokenizer.path empty"
            )
