"""Tokenizers that are made here: from a fixed vocabulary, or trained on a task's text."""

from __future__ import annotations

import io
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers

from bstar_jax.config import UserError
from bstar_jax.tokenizer.definition import END, PAD, JsonTokenizer, SpecialTokens
from bstar_jax.tokenizer.interface import Tokenizer
from bstar_jax.tokenizer.sentencepieces import from_model


def word_tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """A tokenizer with one token for each word of texts whose words are separated by single spaces.

    Example: vocabulary ("8", "-", "3") -> 5 tokens, with padding 0 and end-of-text 1;
      encode("8 - 3") -> [2, 3, 4].

    Args:
      vocabulary: The words, distinct and without spaces.

    Raises:
      ValueError: If a word is empty, contains a space, occurs twice or is `<pad>` or `<end>`.
    """
    listed = [PAD, END, *vocabulary]
    odd = [word for word in vocabulary if word.split() != [word] or listed.count(word) > 1]
    if odd:
        raise ValueError(f"words are distinct and hold no spaces; not so: {odd}")
    definition = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}))
    definition.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return JsonTokenizer(definition, SpecialTokens(end_id=1, pad_id=0, start_id=None))


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, path: str | os.PathLike | None = None
) -> Tokenizer:
    """Trains byte-pair pieces on texts; the same input gives the same tokenizer.

    Nothing is normalised: spaces, line ends and all other characters are decoded unchanged, and
    characters that training did not see are encoded as bytes. Digits and line ends are pieces of
    their own.

    Args:
      texts: The texts that the pieces should fit.
      vocab_size: Number of pieces, 256 bytes and 3 special ones included.
      path: Where to write sentencepiece's own `.model` file, if anywhere.

    Raises:
      UserError: If there are no texts, or too few for so many pieces.
    """
    texts = [text for text in texts if text]
    if not texts:
        raise UserError("there is no text to train a tokenizer on; is task.fields right?")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=1.0,
            split_digits=True,
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=max(10, *(len(text.encode()) + 1 for text in texts)),
            num_threads=1,
            pad_id=0,
            unk_id=1,
            eos_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"no tokenizer of {vocab_size} pieces can be trained on these {len(texts)} texts; "
            f"{_possible_size(str(error))} ({error})"
        ) from error
    if path is not None:
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.getvalue())
    return from_model(model.getvalue())


def _possible_size(message: str) -> str:
    """Returns the remedy that a message of the trainer implies."""
    size = re.search(r"value <= (\d+)", message) or re.search(r"\d+ vs (\d+)", message)
    return f"set tokenizer.vocab_size={size[1]}" if size else "change tokenizer.vocab_size"
