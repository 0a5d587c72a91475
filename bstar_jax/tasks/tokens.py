"""The tokenizer that a run of a task uses, before the run has stored it."""

from __future__ import annotations

import pathlib

from bstar_jax import tokenizer as tokenizers
from bstar_jax.config import Config, UserError
from bstar_jax.tasks.task import LoadedTask
from bstar_jax.tokenizer import Tokenizer, check_round_trip


def choose_tokenizer(
    config: Config, task: LoadedTask, checkpoint: pathlib.Path | None
) -> Tokenizer:
    """Loads or trains the tokenizer, and checks it on the task's text.

    Args:
      config: Names it, or says how large one that is trained may be.
      task: Its text; the tokenizer that it brings, or its few words.
      checkpoint: The directory of the checkpoint that the run starts from; None for none.

    Raises:
      UserError: If it cannot be read or trained, changes a text, or has no chat template where
        prompts are chats.
    """
    path = config.tokenizer.path or task.tokenizer
    if checkpoint and not config.tokenizer.path:
        path = checkpoint
    if not path and _needs_template(config, task):
        raise UserError(
            "prompts are chats, but a tokenizer that is trained here has no chat template; give "
            "tokenizer.path of a chat model"
        )
    if path:
        tokenizer = tokenizers.load(path)
    elif task.vocabulary:
        tokenizer = tokenizers.word_tokenizer(task.vocabulary)
    else:
        tokenizer = tokenizers.train_sentencepiece(texts(task), config.tokenizer.vocab_size)
    return check_tokenizer(config, task, tokenizer)


def check_tokenizer(config: Config, task: LoadedTask, tokenizer: Tokenizer) -> Tokenizer:
    """Has prompts written by the chat template where they are to be, and checks the task's text.

    Raises:
      UserError: If the tokenizer changes a text, or there is no template that could be used.
    """
    tokenizer = _with_template(config, task, tokenizer)
    check_round_trip(tokenizer, texts(task))
    _check_special(tokenizer, config)
    return tokenizer


def texts(task: LoadedTask) -> list[str]:
    """Lists all text that may be trained on: no text of held-out or calibration queries."""
    queries = (*task.splits["sft"], *task.splits["train"])
    every = (
        (query.prompt, *(text for _, text in query.messages), query.solution, *query.more_solutions)
        for query in queries
    )
    return list(dict.fromkeys(text for texts in every for text in texts if text))


def _with_template(config: Config, task: LoadedTask, tokenizer: Tokenizer) -> Tokenizer:
    """Has prompts written by the chat template, if they are chats or the config says so."""
    always, variables = config.task.chat_template, config.task.template_variables
    has_template = bool(getattr(getattr(tokenizer, "tokens", None), "chat_template", ""))
    has_chats = any(query.messages for query in task.query_by_id.values())
    if _needs_template(config, task) or (has_chats and has_template):
        read = tokenizers.read_variables(variables)
        return tokenizers.for_chat(tokenizer, always=always, variables=read)
    if variables:
        raise UserError(
            f"task.template_variables is {variables!r}, but no prompt is a chat; set "
            "task.chat_template=True, or drop it"
        )
    return tokenizer


def _needs_template(config: Config, task: LoadedTask) -> bool:
    """Whether prompts can only be written by a template; a lone message may be a plain text."""
    chats = (query.messages for query in task.query_by_id.values())
    return config.task.chat_template or any(len(messages) > 1 for messages in chats)


def _check_special(tokenizer: Tokenizer, config: Config) -> None:
    """Refuses special tokens in settings, where they would be read as plain text."""
    values = {"generate.stop": config.generate.stop}
    for source, settings in config.task.all_sources().items():
        place = f"task.sources.{source}" if source else "task"
        values |= {f"{place}.prompt": (settings.prompt,)}
        values |= {f"{place}.hint_prompt": (settings.hint_prompt,)}
    for name, texts in values.items():
        found = [token for token in tokenizer.special if any(token in text for text in texts)]
        if found:
            raise UserError(
                f"{name} contains {found[0]!r}, a special token, but text never becomes one; take "
                "it out: task.chat_template=True writes the turns of a chat, and a response ends "
                "at every eos_token_id of the tokenizer's generation_config.json"
            )
