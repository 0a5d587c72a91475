"""A sentencepiece `.model` as a `tokenizer.json`, of the same pieces and ids."""

from __future__ import annotations

import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bstar_jax.tokenizer.definition import JsonTokenizer, Special
from bstar_jax.tokenizer.interface import Tokenizer

_SPACE = "▁"  # how pieces write a space


def from_model(model: bytes) -> Tokenizer:
    """The tokenizer of a `.model` file's bytes.

    Raises:
      DecodeError: If the bytes are no sentencepiece model.
      ValueError: If it is of another kind, changes text, or has no end-of-text.
    """
    proto = ModelProto.FromString(model)
    rules, text = proto.trainer_spec, proto.normalizer_spec
    if rules.model_type not in (rules.BPE, rules.UNIGRAM):
        raise ValueError("its pieces are neither byte pairs nor unigrams")
    if not rules.byte_fallback:
        raise ValueError("it has no byte fallback, and characters without a piece would be lost")
    if text.precompiled_charsmap or text.remove_extra_whitespaces or not text.escape_whitespaces:
        raise ValueError("it changes the spaces or characters of a text")
    if rules.eos_id < 0:
        raise ValueError("it has no end-of-text, and a response could not end")
    symbols = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    given = [piece.piece for piece in proto.pieces if _is_given(piece)]
    if given and text.add_dummy_prefix and rules.model_type == rules.BPE:
        raise ValueError(f"it has symbols that are no byte pairs, such as {given[0]!r}")
    is_own = (rules.model_type, symbols, text.add_dummy_prefix) == (rules.BPE, ["\n"], False)
    is_own = is_own and rules.split_by_whitespace and not rules.treat_whitespace_as_suffix
    special = Special(
        end_id=rules.eos_id,
        pad_id=rules.pad_id if rules.pad_id >= 0 else rules.eos_id,
        start_id=rules.bos_id if rules.bos_id >= 0 else None,
    )
    return JsonTokenizer(_own(proto) if is_own else _published(proto), special)


def _own(proto: ModelProto) -> tokenizers.Tokenizer:
    """Pieces as they are trained here, with the underlined space a plain space."""
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
    # No piece crosses these borders; cutting there first lets equal words be looked up.
    words = tokenizers.Regex(r"\n| +[^ \n]*|[^ \n]+")
    definition.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    definition.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return definition


def _published(proto: ModelProto) -> tokenizers.Tokenizer:
    """Pieces of a checkpoint, in the form in which the `tokenizer.json` of Llama 2 has them."""
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
    given = [] if is_unigram else [piece for piece in pieces if _is_given(piece)]
    definition.add_tokens([AddedToken(each.piece, normalized=False) for each in given])
    return definition


def _pairs(proto: ModelProto) -> models.Model:
    rules, pieces = proto.trainer_spec, proto.pieces
    vocabulary = {piece.piece: index for index, piece in enumerate(pieces)}
    kinds = (pieces[0].NORMAL, pieces[0].USER_DEFINED)
    joined = [piece for piece in pieces if piece.type in kinds and not _is_given(piece)]
    joined.sort(key=lambda piece: -piece.score)
    return models.BPE(
        vocabulary,
        _merges([piece.piece for piece in joined]),
        unk_token=pieces[rules.unk_id].piece,
        fuse_unk=True,
        byte_fallback=True,
    )


def _unigrams(proto: ModelProto) -> models.Model:
    best = max(piece.score for piece in proto.pieces if piece.type == piece.NORMAL)

    def score(piece) -> float:
        if piece.type == piece.USER_DEFINED:
            return len(piece.piece.encode()) * best - 0.1  # as sentencepiece scores them
        # The library looks for every piece in a text; sentencepiece for those that are text.
        return piece.score if piece.type == piece.NORMAL else -1e9

    scored = [(piece.piece, score(piece)) for piece in proto.pieces]
    return models.Unigram(scored, proto.trainer_spec.unk_id, byte_fallback=True)


def _is_given(piece) -> bool:
    """Whether a piece is looked for in the text before all others; those of spaces are joined."""
    return piece.type == piece.USER_DEFINED and _SPACE not in piece.piece


def _merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Every way to cut a piece in two, the best piece first.

    Sentencepiece joins the neighbours whose piece has the best score, so each is a merge, in the
    order of the scores.
    """
    known = set(pieces)
    return [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
