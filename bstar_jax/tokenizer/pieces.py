"""The bytes that a token of a `tokenizer.json` adds to a text, whatever its neighbours are."""

from __future__ import annotations

import re

from tokenizers import pre_tokenizers

from bstar_jax.config import UserError

# Decoders that change each token on its own, then join them.
_JOINING = "((Replace|Metaspace) ?)*((ByteFallback|ByteLevel) ?)?(Fuse)?"


def decoding_steps(decoder: dict | None) -> list[dict] | None:
    """The steps that a decoder applies to each token before it joins them.

    Args:
      decoder: The decoder as `tokenizer.json` has it, for texts that continue others.

    Returns:
      The steps; None where tokens are joined by spaces.

    Raises:
      UserError: If the decoder does more than that.
    """
    if decoder is None:
        return None
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    order = " ".join(step["type"] for step in steps)
    patterns = [step["pattern"] for step in steps if step["type"] == "Replace"]
    if not re.fullmatch(_JOINING, order) or any("String" not in pattern for pattern in patterns):
        raise UserError(
            f"the decoder of the tokenizer ({order}) changes tokens where they meet, so stop "
            "strings cannot be seen as tokens come; leave the stop strings out, or use a tokenizer "
            "whose decoder is ByteLevel, Metaspace or ByteFallback"
        )
    return steps


def piece(token: str, steps: list[dict] | None) -> bytes:
    r"""The bytes of one token.

    Example: steps of Llama 2, "▁cats" -> b" cats", "<0x0A>" -> b"\n".
    """
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
    """The alphabet of byte-level tokens: a byte's own character, or one above 255, in order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = (character for character in alphabet if ord(character) >= 256)
    return own | dict(zip(others, sorted(set(range(256)) - set(own.values())), strict=True))


_BYTE_OF = _byte_of_character()
