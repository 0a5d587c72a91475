"""Converts a sentencepiece `.model` to a `tokenizer.json` with the same pieces and ids."""

from __future__ import annotations

from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bstar_jax.tokenizer.definition import JsonTokenizer, SpecialTokens
from bstar_jax.tokenizer.interface import Tokenizer

ModelProto: Any = vars(sentencepiece_model_pb2)["ModelProto"]  # protobuf makes it at import
_SPACE = "▁"  # a space as pieces write it


def from_model(model: bytes) -> Tokenizer:
    """The tokenizer in the bytes of a `.model` file.

    Raises:
      DecodeError: If the bytes are not a sentencepiece model.
      ValueError: If it is of another kind, changes text, or has no end-of-text.
    """
    proto = ModelProto.FromString(model)
    rules, text = proto.trainer_spec, proto.normalizer_spec
    if rules.model_type not in (rules.BPE, rules.UNIGRAM):
        raise ValueError("its pieces are neither byte pairs nor unigrams")
    if not rules.byte_fallback:
        raise ValueError("it has no byte fallback, so characters without a piece would be lost")
    if text.precompiled_charsmap or text.remove_extra_whitespaces or not text.escape_whitespaces:
        raise ValueError("it changes the spaces or characters of a text")
    if rules.eos_id < 0:
        raise ValueError("it has no end-of-text, so a response could not end")
    symbols = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    atomic = [piece.piece for piece in proto.pieces if _is_atomic(piece)]
    if atomic and text.add_dummy_prefix and rules.model_type == rules.BPE:
        raise ValueError(f"it has symbols that are no byte pairs, such as {atomic[0]!r}")
    is_ours = (rules.model_type, symbols, text.add_dummy_prefix) == (rules.BPE, ["\n"], False)
    is_ours = is_ours and rules.split_by_whitespace and not rules.treat_whitespace_as_suffix
    special = SpecialTokens(
        end_id=rules.eos_id,
        pad_id=rules.pad_id if rules.pad_id >= 0 else rules.eos_id,
        start_id=rules.bos_id if rules.bos_id >= 0 else None,
    )
    return JsonTokenizer(_ours(proto) if is_ours else _published(proto), special)


def _ours(proto: Any) -> tokenizers.Tokenizer:
    """Pieces as `train_sentencepiece` makes them; "▁" becomes a plain space."""
    pieces = [piece.piece.replace(_SPACE, " ") for piece in proto.pieces]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    joined = [
        piece
        for piece, entry in zip(pieces, proto.pieces, strict=True)
        if entry.type == entry.NORMAL
    ]
    unknown = pieces[proto.trainer_spec.unk_id]
    definition = tokenizers.Tokenizer(
        models.BPE(vocabulary, _merges(joined), unk_token=unknown, byte_fallback=True)
    )
    # No piece crosses these borders; splitting there first lets the library cache equal words.
    words = tokenizers.Regex(r"\n| +[^ \n]*|[^ \n]+")
    definition.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    definition.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return definition


def _published(proto: Any) -> tokenizers.Tokenizer:
    """Pieces of a published checkpoint, in the form of Llama 2's `tokenizer.json`."""
    rules, pieces = proto.trainer_spec, proto.pieces
    is_unigram = rules.model_type == rules.UNIGRAM
    definition = tokenizers.Tokenizer(_unigrams(proto) if is_unigram else _pairs(proto))
    prefix = [normalizers.Prepend(_SPACE)] if proto.normalizer_spec.add_dummy_prefix else []
    definition.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    definition.decoder = decoders.Sequence([*steps, *strip])
    special = [piece for piece in pieces if piece.type in (piece.CONTROL, piece.UNKNOWN)]
    definition.add_special_tokens([AddedToken(each.piece, normalized=False) for each in special])
    atomic = [] if is_unigram else [piece for piece in pieces if _is_atomic(piece)]
    definition.add_tokens([AddedToken(each.piece, normalized=False) for each in atomic])
    return definition


def _pairs(proto: Any) -> models.Model:
    """The byte pairs of a model."""
    rules, pieces = proto.trainer_spec, proto.pieces
    vocabulary = {piece.piece: index for index, piece in enumerate(pieces)}
    kinds = (pieces[0].NORMAL, pieces[0].USER_DEFINED)
    joined = [piece for piece in pieces if piece.type in kinds and not _is_atomic(piece)]
    joined.sort(key=lambda piece: -piece.score)
    return models.BPE(
        vocabulary,
        _merges([piece.piece for piece in joined]),
        unk_token=pieces[rules.unk_id].piece,
        fuse_unk=True,
        byte_fallback=True,
    )


def _unigrams(proto: Any) -> models.Model:
    """The unigrams of a model."""
    best = max(piece.score for piece in proto.pieces if piece.type == piece.NORMAL)

    def score(piece: Any) -> float:
        if piece.type == piece.USER_DEFINED:
            return len(piece.piece.encode()) * best - 0.1  # as sentencepiece scores them
        # The library looks for every piece in a text, sentencepiece only for those that are text.
        return piece.score if piece.type == piece.NORMAL else -1e9

    scored = [(piece.piece, score(piece)) for piece in proto.pieces]
    return models.Unigram(scored, proto.trainer_spec.unk_id, byte_fallback=True)


def _is_atomic(piece: Any) -> bool:
    """Whether a piece is looked up in the text before all others; pieces with spaces are not."""
    return piece.type == piece.USER_DEFINED and _SPACE not in piece.piece


def _merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Every way to split a piece into two pieces, the best piece first.

    Sentencepiece joins the neighbours whose joint piece has the best score. So each split is a
    merge, and merges are in the order of the scores.
    """
    known = set(pieces)
    return [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
