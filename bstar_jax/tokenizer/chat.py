"""Prompts as a user's turn of a chat, for models that were trained on chats.

A prompt stays the plain text that it is, in the task, in stored rollouts and in messages; it
becomes a turn when it is encoded, which sampling, training and the process model do alike. So
rollouts read well, and training sees the tokens that sampling saw.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from bstar_jax.config import UserError
from bstar_jax.tokenizer.definition import JsonTokenizer
from bstar_jax.tokenizer.interface import Tokenizer

# Templates may ask for the date; a run that goes on tomorrow must see the same prompts.
_TODAY = {
    "%d": "26", "%m": "07", "%Y": "2024", "%y": "24", "%b": "Jul", "%B": "July", "%A": "Friday",
    "%a": "Fri", "%H": "12", "%M": "00", "%S": "00",
}  # fmt: skip


def for_chat(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with every prompt as a user's message, and the assistant's turn opened.

    Example (Qwen): "3 + 4 = ?" becomes the ids of

        <|im_start|>user
        3 + 4 = ?<|im_end|>
        <|im_start|>assistant

    and a line end. `end_id` becomes the token that the template ends the assistant's turn with,
    where that is among `end_ids`. Where a template asks for the date, it is 26 July 2024, the date
    that Llama's take for want of another: a prompt is the same on every day. Special tokens
    written in a prompt are plain text, not turns of their own.

    Raises:
      UserError: If the tokenizer has no chat template, or the template refuses a user's message.
    """
    if not isinstance(tokenizer, JsonTokenizer) or not tokenizer.tokens.chat_template:
        raise UserError(
            "task.chat_template is True, but the tokenizer has no chat template; give "
            "tokenizer.path of a chat model (chat_template in tokenizer_config.json, or "
            "chat_template.jinja), or set task.chat_template=False"
        )
    return _ChatTokenizer(tokenizer)


class _ChatTokenizer:
    """See `for_chat`. What is no prompt is as without chat; so is what `save` writes."""

    def __init__(self, plain: JsonTokenizer):
        self._plain = plain
        self.vocab_size, self.pad_id, self.special = plain.vocab_size, plain.pad_id, plain.special
        self.fingerprint = plain.fingerprint
        self.start_id = None  # the template writes it, where it wants it
        self.encode, self.encode_batch, self.ends = plain.encode, plain.encode_batch, plain.ends
        self.decode, self.decode_batch = plain.decode, plain.decode_batch
        self.pieces, self.save = plain.pieces, plain.save
        self.end_id = self._end_of_turn()
        self.end_ids = tuple(dict.fromkeys([self.end_id, *plain.end_ids]))

    def encode_prompt(self, prompt: str) -> list[int]:
        private = map(chr, range(0xE000, 0xF900))
        mark = next(mark for mark in private if mark not in prompt + self._template)
        message = prompt
        for token in sorted(self.special, key=len, reverse=True):
            message = message.replace(token, token[0] + mark + token[1:])
        first, *others = self._render([("user", message)], opened=True).split(mark)
        ids = self._plain.encode_marked(first, continues=False)
        for part in others:
            ids += self._plain.encode_marked(part, continues=True)
        return ids

    @property
    def _template(self) -> str:
        return self._plain.tokens.chat_template

    def _end_of_turn(self) -> int:
        turns = [("user", "Question"), ("assistant", "Answer")]
        _, _, behind = self._render(turns, opened=False).rpartition("Answer")
        ids = self._plain.encode_marked(behind, continues=True)
        return next((token for token in ids if token in self._plain.end_ids), self._plain.end_id)

    def _render(self, turns: Sequence[tuple[str, str]], *, opened: bool) -> str:
        """The text of a chat; with `opened` the assistant's turn begins behind it."""
        render, error_type = _renderer()
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return render(
                [messages],
                chat_template=_dated(self._template),
                add_generation_prompt=opened,
                **self._plain.tokens.names,
            )[0][0]
        except error_type as error:
            raise UserError(
                f"the chat template of the tokenizer cannot write {turns[0][1][:80]!r} as a user's "
                f"message: {error}; set task.chat_template=False, or use another tokenizer"
            ) from error


def _dated(template: str) -> str:
    """The template with a date of ours, in a first line that vanishes."""
    if "strftime_now" not in template:
        return template
    steps = "".join(f" | replace({form!r}, {text!r})" for form, text in _TODAY.items())
    return f"{{% macro strftime_now(form) %}}{{{{ form{steps} }}}}{{% endmacro %}}\n{template}"


@functools.cache
def _renderer():
    """The sandbox of Transformers for templates, and what it raises; slow to import."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template, TemplateError
