"""Prompts as a user's turn of a chat, for models that were trained on chats.

In the task, in stored rollouts and in messages a prompt stays plain text. It becomes a turn when
it is encoded, in the same way for sampling, training and the process reward model. So rollouts
read well, and training sees the tokens that sampling saw.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from bstar_jax.config import UserError
from bstar_jax.tokenizer.definition import JsonTokenizer
from bstar_jax.tokenizer.interface import Tokenizer

# Templates may ask for the date, but a run that is resumed tomorrow must see the same prompts.
_TODAY = {
    "%d": "26", "%m": "07", "%Y": "2024", "%y": "24", "%b": "Jul", "%B": "July", "%A": "Friday",
    "%a": "Fri", "%H": "12", "%M": "00", "%S": "00",
}  # fmt: skip


def for_chat(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that turns every prompt into a user's message and opens the assistant's turn.

    Example (Qwen): "3 + 4 = ?" becomes the ids of

        <|im_start|>user
        3 + 4 = ?<|im_end|>
        <|im_start|>assistant

    and a line end. `end_id` becomes the token with which the template ends the assistant's turn,
    if that is among `end_ids`. A template that asks for the date gets 26 July 2024, the default of
    Llama's templates, so that a prompt is the same on every day. Special tokens in a prompt are
    plain text and start no turn.

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
    """See `for_chat`. Only prompts differ from the plain tokenizer; `save` writes the same."""

    def __init__(self, plain: JsonTokenizer):
        self._plain = plain
        self.vocab_size, self.pad_id, self.special = plain.vocab_size, plain.pad_id, plain.special
        self.fingerprint = plain.fingerprint
        self.start_id: int | None = None  # the template writes start-of-text where it wants it
        self.encode, self.encode_batch, self.ends = plain.encode, plain.encode_batch, plain.ends
        self.decode, self.decode_batch = plain.decode, plain.decode_batch
        self.pieces, self.save = plain.pieces, plain.save
        self.end_id = self._end_of_turn()
        self.end_ids = tuple(dict.fromkeys([self.end_id, *plain.end_ids]))

    def encode_prompt(self, prompt: str) -> list[int]:
        # A mark inside each special token keeps it plain text; the text is split there afterwards.
        private_use = map(chr, range(0xE000, 0xF900))
        mark = next(mark for mark in private_use if mark not in prompt + self._template)
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
        _, _, after = self._render(turns, opened=False).rpartition("Answer")
        ids = self._plain.encode_marked(after, continues=True)
        return next((token for token in ids if token in self._plain.end_ids), self._plain.end_id)

    def _render(self, turns: Sequence[tuple[str, str]], *, opened: bool) -> str:
        """The text of a chat; `opened` begins the assistant's turn at its end."""
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
    """The template with a fixed date, defined in a first line that renders to nothing."""
    if "strftime_now" not in template:
        return template
    steps = "".join(f" | replace({form!r}, {text!r})" for form, text in _TODAY.items())
    return f"{{% macro strftime_now(form) %}}{{{{ form{steps} }}}}{{% endmacro %}}\n{template}"


@functools.cache
def _renderer() -> tuple[Callable, type[Exception]]:
    """The function of Transformers that renders templates in a sandbox, and what it raises.

    It is imported only when it is needed, as importing Transformers is slow.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template, TemplateError
