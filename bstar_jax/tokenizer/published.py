"""Loads tokenizers as they are published with checkpoints: a directory, or one file."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import TypeGuard

import tokenizers
from google.protobuf.message import DecodeError

from bstar_jax.config import UserError
from bstar_jax.tokenizer.definition import (
    GENERATION_FILE,
    JSON_FILE,
    SETTINGS_FILE,
    TEMPLATE_FILE,
    JsonTokenizer,
    SpecialTokens,
)
from bstar_jax.tokenizer.interface import Tokenizer
from bstar_jax.tokenizer.sentencepieces import from_model

MODEL_FILE = "tokenizer.model"  # of sentencepiece
_NAMED = tuple(f"{name}_token" for name in "bos eos unk sep pad cls mask".split())


def load(path: str | os.PathLike) -> Tokenizer:
    """Loads a tokenizer from a sentencepiece `.model` file or a directory.

    A directory holds a `tokenizer.json`, which is used unchanged; or files that Transformers can
    convert to one, such as `tokenizer.model` with `tokenizer_config.json`; or `tokenizer.model`
    alone.

    Special tokens are those named in `tokenizer_config.json`, else in `special_tokens_map.json`,
    else the `eos_token_id`, `pad_token_id` and `bos_token_id` of `generation_config.json`, else
    those of `config.json`. If there are several `eos_token_id`, all end a response, and the named
    one, else the first, ends the texts of training. Start-of-text precedes prompts if
    `tokenizer.json` puts it there, whatever `add_bos_token` says, as in Transformers.

    Raises:
      UserError: If there is no tokenizer, or it has no end-of-text.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.name == JSON_FILE:
        path = path.parent
    if path.is_file():
        return _load_model(path)
    if (path / JSON_FILE).is_file():
        return _load_json(path)
    if (path / MODEL_FILE).is_file() and not (path / SETTINGS_FILE).is_file():
        return _load_model(path / MODEL_FILE)
    if path.is_dir():
        return _load_with_transformers(path)
    raise UserError(
        f"there is no tokenizer at {path}; give a sentencepiece .model file or a directory with "
        f"{JSON_FILE} or {MODEL_FILE}"
    )


def _load_model(path: pathlib.Path) -> Tokenizer:
    try:
        return from_model(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be used: {error}; give a directory with {JSON_FILE}, or leave "
            "tokenizer.path empty to train one"
        ) from error


def _load_json(directory: pathlib.Path) -> Tokenizer:
    try:
        definition = tokenizers.Tokenizer.from_file(str(directory / JSON_FILE))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{directory / JSON_FILE} is not a tokenizer: {error}") from error
    return _with_special_tokens(definition, directory, {})


def _load_with_transformers(directory: pathlib.Path) -> Tokenizer:
    import transformers  # slow to import, and only old checkpoints need it

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise UserError(f"there is no tokenizer in {directory}: {error}") from error
    definition = getattr(tokenizer, "backend_tokenizer", None)
    if definition is None:
        raise UserError(f"the tokenizer in {directory} has no {JSON_FILE} form")
    known = {name: getattr(tokenizer, name, None) for name in _NAMED}
    return _with_special_tokens(definition, directory, known)


def _with_special_tokens(
    definition: tokenizers.Tokenizer, directory: pathlib.Path, known: Mapping[str, str | None]
) -> Tokenizer:
    """The tokenizer of a directory; `known` names special tokens where its files are silent."""
    definition.no_padding()  # published files may ask for both
    definition.no_truncation()
    settings = _read(directory / SETTINGS_FILE)
    names = {name: token for name, token in known.items() if token}
    names |= _named(_read(directory / "special_tokens_map.json")) | _named(settings)
    ids = {name: _ids(definition, directory, names, name) for name in ("bos", "eos", "pad")}
    if not ids["eos"]:
        raise UserError(
            f"{directory / SETTINGS_FILE} names no eos_token that {JSON_FILE} knows, nor do "
            f"{GENERATION_FILE} and config.json, so a response could not end; name it in one"
        )
    end_id, *more = ids["eos"]
    start = definition.encode("", add_special_tokens=True).ids[:1]
    return JsonTokenizer(
        definition,
        SpecialTokens(
            end_id=end_id,
            pad_id=(ids["pad"] or ids["eos"])[0],
            start_id=start[0] if start and start == ids["bos"][:1] else None,
            more_end_ids=tuple(more),
            names=names,
            chat_template=_chat_template(directory, settings),
        ),
    )


def _named(settings: Mapping) -> dict[str, str]:
    """The special tokens that a file names, either as texts or as records."""
    tokens = {name: settings.get(name) for name in _NAMED}
    texts = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in tokens.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _ids(
    definition: tokenizers.Tokenizer, directory: pathlib.Path, names: Mapping[str, str], name: str
) -> list[int]:
    """The ids of a special token: the named one first, then those of the model's settings."""
    named = definition.token_to_id(names[f"{name}_token"]) if f"{name}_token" in names else None
    found = [] if named is None else [named]
    for file in (GENERATION_FILE, "config.json"):
        listed = _read(directory / file).get(f"{name}_token_id")
        known = [
            token
            for token in (listed if isinstance(listed, list) else [listed])
            if _is_id(token) and definition.id_to_token(token) is not None
        ]
        if known:
            return list(dict.fromkeys([*found, *known]))
    return found


def _is_id(token: object) -> TypeGuard[int]:
    return isinstance(token, int) and not isinstance(token, bool) and token >= 0


def _chat_template(directory: pathlib.Path, settings: Mapping) -> str:
    """The template of chats, of several the default one; "" where there is none."""
    if (directory / TEMPLATE_FILE).is_file():
        return (directory / TEMPLATE_FILE).read_text(encoding="utf-8")
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    return template.get("default", "") if isinstance(template, dict) else template


def _read(path: pathlib.Path) -> dict:
    """The settings in a file; {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings, as {values!r:.40} has no names")
    return values
