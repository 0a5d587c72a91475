"""A tokenizer defined by a `tokenizer.json`, for prompts and for texts that continue them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import tokenizers
from tokenizers import models

from bstar_jax.config import UserError
from bstar_jax.tokenizer.interface import Prompt
from bstar_jax.tokenizer.pieces import decoding_steps, piece

JSON_FILE = "tokenizer.json"  # definition of a Hugging Face tokenizer
SETTINGS_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"
PAD, END = "<pad>", "<end>"  # of word tokenizers
_TEXTS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a model, and the template of its chats.

    Attributes:
      end_id: As in `Tokenizer`.
      pad_id: As in `Tokenizer`.
      start_id: As in `Tokenizer`.
      more_end_ids: Other tokens that end a response.
      names: The tokens that chat templates know by name, such as "bos_token": "<s>".
      chat_template: The template of chats, in Jinja; "" where there is none.
    """

    end_id: int
    pad_id: int
    start_id: int | None
    more_end_ids: tuple[int, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    chat_template: str = ""


class JsonTokenizer:
    """A `Tokenizer` that runs a `tokenizer.json`."""

    def __init__(self, definition: tokenizers.Tokenizer, tokens: SpecialTokens):
        """Takes over the definition, which nobody else may change from then on.

        Args:
          definition: The content of the `tokenizer.json`.
          tokens: Its special tokens.
        """
        self.definition, self.tokens = definition, tokens
        self.end_id, self.pad_id, self.start_id = tokens.end_id, tokens.pad_id, tokens.start_id
        self.end_ids = (tokens.end_id, *tokens.more_end_ids)
        vocabulary = definition.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        content = json.loads(definition.to_str())
        self.fingerprint = _fingerprint(content, tokens)
        added = [token for token in content["added_tokens"] if token["special"]]
        self._special_ids = {token["content"]: token["id"] for token in added}
        self.special = frozenset(self._special_ids)
        unknown = getattr(definition.model, "unk_token", None)
        unknown_id = None if unknown is None else vocabulary.get(unknown)
        self._silent = {*self.end_ids, self.pad_id, self.start_id, unknown_id}
        continued = _continued(content)
        self._decoder = continued["decoder"]
        self._continued = self._as_plain_text(content, continued)
        has_prefix = any(continued[part] != content[part] for part in _PREFIXING)
        self._prompts = self._as_plain_text(content, content) if has_prefix else self._continued
        is_word_level = isinstance(definition.model, models.WordLevel)
        self._words = frozenset(vocabulary) - {PAD, END} if is_word_level else None

    def encode(self, text: str) -> list[int]:
        """As `Tokenizer.encode`."""
        self._check_words(text)
        return self._continued.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `Tokenizer.encode_batch`."""
        for text in texts:
            self._check_words(text)
        encode = functools.partial(self._continued.encode_batch_fast, add_special_tokens=False)
        return [encoding.ids for part in _parts(texts) for encoding in encode(part)]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """As `Tokenizer.encode_prompt`; one lone message of the user is a plain text."""
        if not isinstance(prompt, str):
            if len(prompt) > 1:
                raise UserError(
                    f"a chat of {len(prompt)} messages, but the tokenizer has no chat template; "
                    "give tokenizer.path of a chat model"
                )
            prompt = "".join(text for _, text in prompt)
        self._check_words(prompt)
        start = [] if self.start_id is None else [self.start_id]
        return [*start, *self._prompts.encode(prompt, add_special_tokens=False).ids]

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The id of each special token by its text."""
        return self._special_ids

    def encode_marked(self, text: str, *, continues: bool) -> list[int]:
        """The ids of a text in which special tokens are special.

        Args:
          text: The text.
          continues: Whether it continues another one.
        """
        if not continues:
            return self.definition.encode(text, add_special_tokens=False).ids
        parts = self._special_pattern.split(text)
        plain = self.encode_batch(parts[::2])
        marked = [[self._special_ids[token]] for token in parts[1::2]]
        pairs = itertools.zip_longest(plain, marked, fillvalue=())
        return [token for pair in pairs for part in pair for token in part]

    def ends(self, text: str) -> list[int]:
        """As `Tokenizer.ends`."""
        spans = self._continued.encode(text, add_special_tokens=False).offsets
        return list(itertools.accumulate((end for _, end in spans), max))

    def decode(self, ids: Sequence[int]) -> str:
        """As `Tokenizer.decode`."""
        return self._continued.decode(self._with_text(ids), skip_special_tokens=True)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """As `Tokenizer.decode_batch`."""
        decode = functools.partial(self._continued.decode_batch, skip_special_tokens=True)
        return [text for part in _parts(rows) for text in decode(list(map(self._with_text, part)))]

    def pieces(self) -> list[bytes]:
        """As `Tokenizer.pieces`."""
        steps = decoding_steps(self._decoder)
        silent = self._silent | set(self._special_ids.values())
        names = map(self.definition.id_to_token, range(self.vocab_size))
        return [
            b"" if name is None or index in silent else piece(name, steps)
            for index, name in enumerate(names)
        ]

    def save(self, directory: str | os.PathLike) -> None:
        """As `Tokenizer.save`."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.definition.save(str(directory / JSON_FILE))
        ids = {"eos_token": self.end_id, "pad_token": self.pad_id, "bos_token": self.start_id}
        settings = {
            name: self.definition.id_to_token(token)
            for name, token in ids.items()
            if token is not None
        }
        settings = {**self.tokens.names, **settings, "tokenizer_class": "PreTrainedTokenizerFast"}
        _write_json(directory / SETTINGS_FILE, settings)
        if self.tokens.more_end_ids:
            _write_json(directory / GENERATION_FILE, {"eos_token_id": list(self.end_ids)})
        if self.tokens.chat_template:
            (directory / TEMPLATE_FILE).write_text(self.tokens.chat_template, encoding="utf-8")

    @functools.cached_property
    def _special_pattern(self) -> re.Pattern:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def _as_plain_text(self, content: dict, changed: dict) -> tokenizers.Tokenizer:
        """The definition with `changed` for `content`, which reads special tokens as plain text."""
        if changed == content and not self.special:
            return self.definition
        definition = tokenizers.Tokenizer.from_str(json.dumps(changed))
        definition.encode_special_tokens = True
        return definition

    def _with_text(self, ids: Sequence[int]) -> list[int]:
        """The ids that have a text."""
        return [int(token) for token in ids if int(token) not in self._silent]

    def _check_words(self, text: str) -> None:
        if not text or self._words is None:
            return
        unknown = [word for word in text.split(" ") if word not in self._words]
        if unknown:
            raise UserError(
                f"{unknown[0]!r} is not a word of the tokenizer, in {text[:80]!r}; its words, "
                f"separated by single spaces, are: {' '.join(sorted(self._words))}"
            )


_PREFIXING = ("normalizer", "pre_tokenizer")
"""The parts of a definition that may add a space before a text."""


def _continued(content: dict) -> dict:
    """The definition for texts that continue others: no space is added before them or removed.

    Example: Llama 2 encodes the text "7" as "▁7", and decodes "▁7" to "7". After "3 + 4 =" the
    text " 7" is "▁7" and "7" is "7", both ways.

    Post-processors are left out, as they may shorten the spans of tokens by their spaces.
    """
    changed = {part: _without_prefix(content[part]) for part in (*_PREFIXING, "decoder")}
    return {**content, **changed, "post_processor": None}


def _without_prefix(part: dict | None) -> dict | None:
    """A normalizer, pre-tokenizer or decoder without the steps that add or remove a space."""
    if part is None:
        return None
    kind = part["type"]
    if kind == "Sequence":
        name = next(name for name in part if name != "type")
        kept = [_without_prefix(step) for step in part[name]]
        return {**part, name: [step for step in kept if step is not None]}
    is_strip = kind == "Strip" and (part.get("content"), part.get("stop")) == (" ", 0)
    if kind == "Prepend" or is_strip:
        return None
    if kind == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if kind == "ByteLevel":
        return {**part, "add_prefix_space": False}
    return part


def _fingerprint(content: dict, tokens: SpecialTokens) -> str:
    parts: list = [content, tokens.end_id, tokens.pad_id, tokens.start_id]
    if tokens.more_end_ids or tokens.chat_template:
        parts.append([tokens.more_end_ids, tokens.chat_template])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _parts(items: Sequence) -> list[Sequence]:
    """The items, a limited number at a time."""
    return [items[start : start + _TEXTS_AT_ONCE] for start in range(0, len(items), _TEXTS_AT_ONCE)]


def _write_json(path: pathlib.Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
