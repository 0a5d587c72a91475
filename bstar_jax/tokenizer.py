"""Text to token ids and back, from three sources behind one interface.

Words for a task whose words are few and known; sentencepiece, trained on a task's own text; a
tokenizer that came with a Hugging Face checkpoint. All three run as a `tokenizer.json`, which
Transformers reads too. Training and sampling encode prompt and
response apart, with no special tokens but the end-of-text that training appends, so the ids of
a row are `encode(prompt) + encode(response) + [end_id]`, however the text came about.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import sentencepiece
import tokenizers
from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import decoders, models, pre_tokenizers

from bstar_jax.config import UserError

_MODEL_FILE = "tokenizer.model"  # of sentencepiece
_JSON_FILE = "tokenizer.json"  # of Hugging Face tokenizers
_SETTINGS_FILE = "tokenizer_config.json"
_PAD, _END = "<pad>", "<end>"
# Decoders that treat every token alone, then join them, then cut off spaces at the beginning.
_JOINING = "((Replace|Metaspace) ?)*((ByteFallback|ByteLevel) ?)?(Fuse ?)?(Strip)?"


class Tokenizer(Protocol):
    """What the rooms that read or write text need of a tokenizer.

    Attributes:
      vocab_size: Ids are below it.
      end_id: End of text.
      pad_id: Fills rows; may equal `end_id`, so padding is told by position, never by id.
      start_id: Stands before the prompt, where the model was trained so; else None.
      fingerprint: SHA-256 of the definition, in hexadecimal: equal where ids mean the same.
    """

    vocab_size: int
    end_id: int
    pad_id: int
    start_id: int | None
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """The ids of a text, no special token added."""
        ...

    def ends(self, text: str) -> list[int]:
        """Where in the text each of its tokens ends, in characters; never falling."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens have none."""
        ...

    def pieces(self) -> list[bytes]:
        """What each token adds to a text, [V]: `decode(ids)` is their concatenation in UTF-8.

        Less spaces at the beginning, which a text may lack; and bytes that are no UTF-8 make
        replacement characters in a text. Special tokens add nothing.

        Raises:
          UserError: If tokens change when they meet.
        """
        ...

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files from which `load` makes an equal tokenizer."""
        ...


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A token for each word; words stand apart by single spaces.

    Example: words ("8", "-", "3") -> vocabulary of 5, with padding 0 and end-of-text 1;
      encode("8 - 3") -> [2, 3, 4].

    Args:
      words: The words, distinct, without spaces.

    Raises:
      ValueError: If a word is empty, holds a space, stands twice or is `<pad>` or `<end>`.
    """
    listed = [_PAD, _END, *words]
    odd = [word for word in words if word.split() != [word] or listed.count(word) > 1]
    if odd:
        raise ValueError(f"words are distinct and hold no spaces; not so: {odd}")
    definition = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}))
    definition.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _JsonTokenizer(definition, end_id=1, pad_id=0, start_id=None)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, path: str | os.PathLike | None = None
) -> Tokenizer:
    """Trains byte-pair pieces on texts; the same input makes the same tokenizer.

    Nothing is normalised: spaces, line ends and every other character come back as they were,
    those not seen in training as bytes. Digits and line ends are pieces of their own.

    Args:
      texts: The text that the pieces should fit.
      vocab_size: Pieces in all, 256 bytes and 3 special ones included.
      path: Where to write sentencepiece's own `.model` file, if anywhere.

    Raises:
      UserError: If the texts are too few for so many pieces, or there are none.
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
            max_sentence_length=max(len(text.encode()) for text in texts) + 1,
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
            f"change tokenizer.vocab_size ({error})"
        ) from error
    if path is not None:
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.getvalue())
    return _from_pieces(model.getvalue())


def load(path: str | os.PathLike) -> Tokenizer:
    """Loads a tokenizer from a sentencepiece `.model` file or a directory.

    A directory holds `tokenizer.json`, as Hugging Face checkpoints do, or `tokenizer.model`, or
    whatever else Transformers can turn into the former.

    Raises:
      UserError: If nothing there is a tokenizer, or it has no end-of-text.
    """
    path = pathlib.Path(path)
    if path.is_dir() and (path / _JSON_FILE).is_file():
        return _load_json(path)
    if path.is_dir() and (path / _MODEL_FILE).is_file():
        return _load_model(path / _MODEL_FILE)
    if path.is_dir():
        return _load_with_transformers(path)
    if path.is_file() and path.name == _JSON_FILE:
        return _load_json(path.parent)
    if path.is_file():
        return _load_model(path)
    raise UserError(
        f"there is no tokenizer at {path}; give a sentencepiece .model file or a directory with "
        f"{_JSON_FILE} or {_MODEL_FILE}"
    )


def check_round_trip(tokenizer: Tokenizer, texts: Iterable[str]) -> None:
    """Refuses a tokenizer that changes texts.

    Raises:
      UserError: With the first text whose decoded form differs, and where.
    """
    for text in texts:
        back = tokenizer.decode(tokenizer.encode(text))
        if back != text:
            at = len(os.path.commonprefix([text, back]))
            raise UserError(
                f"the tokenizer changes text: at character {at}, {text[at : at + 20]!r} comes "
                f"back as {back[at : at + 20]!r}, in {text[max(0, at - 20) : at + 20]!r}; use "
                "another tokenizer, or train one by leaving tokenizer.path empty"
            )


class _JsonTokenizer:
    def __init__(
        self, definition: tokenizers.Tokenizer, *, end_id: int, pad_id: int, start_id: int | None
    ):
        self._definition = definition
        self.end_id, self.pad_id, self.start_id = end_id, pad_id, start_id
        vocabulary = definition.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        content = json.dumps(
            [json.loads(definition.to_str()), end_id, pad_id, start_id], sort_keys=True
        )
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        unknown_id = vocabulary.get(getattr(definition.model, "unk_token", None))
        self._silent = {end_id, pad_id, start_id, unknown_id}
        is_words = isinstance(definition.model, models.WordLevel)
        self._words = frozenset(vocabulary) - {_PAD, _END} if is_words else None

    def encode(self, text: str) -> list[int]:
        if self._words is not None:
            self._check_words(text)
        return self._definition.encode(text, add_special_tokens=False).ids

    def ends(self, text: str) -> list[int]:
        spans = self._definition.encode(text, add_special_tokens=False).offsets
        return list(itertools.accumulate((end for _, end in spans), max))

    def decode(self, ids: Sequence[int]) -> str:
        spoken = [int(token) for token in ids if int(token) not in self._silent]
        return self._definition.decode(spoken, skip_special_tokens=True)

    def pieces(self) -> list[bytes]:
        content = json.loads(self._definition.to_str())
        steps = _decoding_steps(content["decoder"])
        special = {token["id"] for token in content["added_tokens"] if token["special"]}
        names = map(self._definition.id_to_token, range(self.vocab_size))
        return [
            b"" if name is None or index in self._silent | special else _piece(name, steps)
            for index, name in enumerate(names)
        ]

    def save(self, directory: str | os.PathLike) -> None:
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._definition.save(str(directory / _JSON_FILE))
        ids = {"eos_token": self.end_id, "pad_token": self.pad_id, "bos_token": self.start_id}
        settings = {
            name: self._definition.id_to_token(token)
            for name, token in ids.items()
            if token is not None
        }
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        (directory / _SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")

    def _check_words(self, text: str) -> None:
        words = text.split(" ") if text else []
        unknown = [word for word in words if word not in self._words]
        if unknown:
            raise UserError(
                f"{unknown[0]!r} is not a word of the tokenizer, in {text[:80]!r}; its words, "
                f"apart by single spaces, are: {' '.join(sorted(self._words))}"
            )


def _decoding_steps(decoder: dict | None) -> list[dict] | None:
    """What a decoder does to each token before it joins them; None is to join them by spaces.

    Raises:
      UserError: If that is not all it does, but for spaces cut off at the beginning.
    """
    if decoder is None:
        return None
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    order = " ".join(step["type"] for step in steps)
    strips = [(step["content"], step["stop"]) for step in steps if step["type"] == "Strip"]
    patterns = [step["pattern"] for step in steps if step["type"] == "Replace"]
    if (
        not re.fullmatch(_JOINING, order)
        or any(strip != (" ", 0) for strip in strips)
        or any("String" not in pattern for pattern in patterns)
    ):
        raise UserError(
            f"the decoder of the tokenizer ({order}) changes tokens where they meet, so stop "
            "strings cannot be seen as tokens come; leave the stop strings out, or use a tokenizer "
            "whose decoder is ByteLevel, Metaspace or ByteFallback"
        )
    return steps


def _piece(token: str, steps: list[dict] | None) -> bytes:
    if steps is None:
        return b" " + token.encode()
    for step in steps:
        if step["type"] == "Replace":
            token = token.replace(step["pattern"]["String"], step["content"])
        elif step["type"] == "Metaspace":
            token = token.replace(step["replacement"], " ")
        elif step["type"] == "ByteFallback" and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
            return bytes([int(token[3:5], 16)])
        elif step["type"] == "ByteLevel" and set(token) <= _BYTE_OF.keys():
            return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level tokens: a byte's own character, or one past 255 in their order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = (character for character in alphabet if ord(character) >= 256)
    return own | dict(zip(others, sorted(set(range(256)) - set(own.values())), strict=True))


_BYTE_OF = _byte_of_character()


def _load_model(path: pathlib.Path) -> Tokenizer:
    try:
        return _from_pieces(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be used: {error}; give a directory with {_JSON_FILE}, or leave "
            "tokenizer.path empty to train one"
        ) from error


def _from_pieces(model: bytes) -> Tokenizer:
    """The same pieces and ids as sentencepiece's, with its underlined space a plain space.

    Sentencepiece joins the neighbours whose piece has the best score, so every way to cut a
    piece in two is a merge, in the order of the scores, which is that of the ids.

    Raises:
      DecodeError: If the bytes are no sentencepiece model.
      ValueError: If it is of another kind, changes text, or has no end-of-text.
    """
    proto = ModelProto.FromString(model)
    rules, text = proto.trainer_spec, proto.normalizer_spec
    if rules.model_type != rules.BPE or not rules.byte_fallback:
        raise ValueError("its pieces are not byte pairs with byte fallback")
    if text.name != "identity" or text.add_dummy_prefix or text.remove_extra_whitespaces:
        raise ValueError("it changes the spaces or characters of a text")
    if rules.eos_id < 0:
        raise ValueError("it has no end-of-text, and a response could not end")
    pieces = [piece.piece.replace("▁", " ") for piece in proto.pieces]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    joined = [
        piece
        for piece, entry in zip(pieces, proto.pieces, strict=True)
        if entry.type == entry.NORMAL
    ]
    known = set(joined)
    merges = [
        (piece[:at], piece[at:])
        for piece in joined
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
    definition = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=pieces[rules.unk_id], byte_fallback=True)
    )
    # No piece crosses these borders; cutting there first lets equal words be looked up.
    words = tokenizers.Regex(r"\n| +[^ \n]*|[^ \n]+")
    definition.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    definition.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _JsonTokenizer(
        definition,
        end_id=rules.eos_id,
        pad_id=rules.pad_id if rules.pad_id >= 0 else rules.eos_id,
        start_id=rules.bos_id if rules.bos_id >= 0 else None,
    )


def _load_json(directory: pathlib.Path) -> Tokenizer:
    try:
        definition = tokenizers.Tokenizer.from_file(str(directory / _JSON_FILE))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{directory / _JSON_FILE} is not a tokenizer: {error}") from error
    return _with_special_ids(definition, directory)


def _load_with_transformers(directory: pathlib.Path) -> Tokenizer:
    import transformers  # slow to import, and needed by old checkpoints only

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise UserError(f"there is no tokenizer in {directory}: {error}") from error
    definition = getattr(tokenizer, "backend_tokenizer", None)
    if definition is None:
        raise UserError(f"the tokenizer in {directory} has no {_JSON_FILE} form")
    return _with_special_ids(definition, directory)


def _with_special_ids(definition: tokenizers.Tokenizer, directory: pathlib.Path) -> _JsonTokenizer:
    definition.no_padding()  # published files may ask for both
    definition.no_truncation()
    end_id = _special_id(definition, directory, "eos_token")
    if end_id is None:
        raise UserError(
            f"{directory / _SETTINGS_FILE} names no eos_token that {_JSON_FILE} knows; a response "
            "could not end"
        )
    pad_id = _special_id(definition, directory, "pad_token")
    start_id = _special_id(definition, directory, "bos_token")
    begins = definition.encode("", add_special_tokens=True).ids[:1] == [start_id]
    return _JsonTokenizer(
        definition,
        end_id=end_id,
        pad_id=end_id if pad_id is None else pad_id,
        start_id=start_id if begins else None,
    )


def _special_id(definition: tokenizers.Tokenizer, directory: pathlib.Path, name: str) -> int | None:
    """The id of a special token, from the files that checkpoints name it in."""
    for file in (_SETTINGS_FILE, "special_tokens_map.json"):
        if not (directory / file).is_file():
            continue
        token = json.loads((directory / file).read_text(encoding="utf-8")).get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            return definition.token_to_id(content)
    return None


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids that stand before every response: start-of-text where there is one, the prompt.

    Sampling and training both use it, so that a response continues the same tokens in both.
    """
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    return [*start, *tokenizer.encode(prompt)]


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
