"""Prompts as a user's turn of a chat, for models that were trained on chats.

In the task, in stored rollouts and in messages a prompt stays plain text. It becomes a turn when
it is encoded, in the same way for sampling, training and the process reward model. So rollouts
read well, and training sees the tokens that sampling saw.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from bstar_jax.config import UserError
from bstar_jax.tokenizer.definition import JsonTokenizer
from bstar_jax.tokenizer.interface import Prompt, Tokenizer

# Templates may ask for the date, but a run that is resumed tomorrow must see the same prompts.
_TODAY = {
    "%d": "26", "%m": "07", "%Y": "2024", "%y": "24", "%b": "Jul", "%B": "July", "%A": "Friday",
    "%a": "Fri", "%H": "12", "%M": "00", "%S": "00",
}  # fmt: skip
# What a template gets in any case.
_GIVEN = {
    "messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "raise_exception",
    "strftime_now", "namespace", "range", "loop", "true", "false", "none", "True", "False", "None",
}  # fmt: skip


def for_chat(
    tokenizer: Tokenizer, *, always: bool = True, variables: Mapping[str, object] | None = None
) -> Tokenizer:
    """A tokenizer that writes prompts by the chat template, and opens the assistant's turn.

    Example (Qwen): "3 + 4 = ?" becomes the ids of

        <|im_start|>user
        3 + 4 = ?<|im_end|>
        <|im_start|>assistant

    and a line end. `end_id` becomes the token with which the template ends the assistant's turn,
    if that is among `end_ids`. A template that asks for the date gets 26 July 2024, the default of
    Llama's templates, so that a prompt is the same on every day. Special tokens in a message are
    plain text and start no turn.

    Args:
      tokenizer: The tokenizer.
      always: Whether a plain text becomes a user's message too; otherwise only chats are written
        by the template.
      variables: Variables of the template, such as {"enable_thinking": False}.

    Raises:
      UserError: If the tokenizer has no chat template, the template refuses a user's message, or
        it does not read one of the variables.
    """
    if not isinstance(tokenizer, JsonTokenizer) or not tokenizer.tokens.chat_template:
        asked = "task.chat_template is True" if always else "prompts are chats"
        raise UserError(
            f"{asked}, but the tokenizer has no chat template; give tokenizer.path of a chat model "
            "(chat_template in tokenizer_config.json, or chat_template.jinja), or set "
            "task.chat_template=False"
        )
    _check_variables(variables or {}, tokenizer.tokens.chat_template)
    return _ChatTokenizer(tokenizer, always, variables or {})


def read_variables(text: str) -> dict[str, object]:
    """Reads the setting `task.template_variables`.

    Example: "enable_thinking=False, tone='dry'" -> {"enable_thinking": False, "tone": "dry"}.

    Raises:
      UserError: If it is no list of NAME=VALUE, each value one that Python writes.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(not key.arg for key in call.keywords):
            raise ValueError("not NAME=VALUE")
        return {str(key.arg): ast.literal_eval(key.value) for key in call.keywords}
    except (SyntaxError, ValueError, TypeError) as error:
        raise UserError(
            f"task.template_variables is {text!r}; it takes NAME=VALUE between commas, with values "
            "as Python writes them: enable_thinking=False, tone='dry'"
        ) from error


def show(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, bool]]:
    r"""Returns the text of tokens in parts, each with whether it is a special token.

    Example (Qwen): [("<|im_start|>", True), ("user\n3 + 4 = ?", False), ("<|im_end|>", True), ...].
    """
    plain = tokenizer._plain if isinstance(tokenizer, _ChatTokenizer) else tokenizer
    names = {token: text for text, token in getattr(plain, "special_ids", {}).items()}
    parts: list[tuple[str, bool]] = []
    for is_special, group in itertools.groupby(ids, lambda token: token in names):
        run = list(group)
        texts = [names[token] for token in run] if is_special else [tokenizer.decode(run)]
        parts += [(text, is_special) for text in texts]
    return parts


def _check_variables(variables: Mapping[str, object], template: str) -> None:
    if not variables:
        return
    from jinja2 import Environment, meta

    parsed = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(
        re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    )
    read = meta.find_undeclared_variables(parsed)
    known = sorted(read - _GIVEN)
    for name in variables:
        if name not in known:
            listed = ", ".join(known) or "no variable"
            raise UserError(
                f"task.template_variables sets {name!r}, but the chat template does not read it; "
                f"it reads {listed}"
            )


class _ChatTokenizer:
    """See `for_chat`. Only prompts differ from the plain tokenizer; `save` writes the same."""

    def __init__(self, plain: JsonTokenizer, always: bool, variables: Mapping[str, object]):
        self._plain, self._always, self._variables = plain, always, dict(variables)
        self.vocab_size, self.pad_id, self.special = plain.vocab_size, plain.pad_id, plain.special
        self.fingerprint = plain.fingerprint
        self.start_id: int | None = None  # the template writes start-of-text where it wants it
        self.encode, self.encode_batch, self.ends = plain.encode, plain.encode_batch, plain.ends
        self.decode, self.decode_batch = plain.decode, plain.decode_batch
        self.pieces, self.save = plain.pieces, plain.save
        self.end_id = self._end_of_turn()
        self.end_ids = tuple(dict.fromkeys([self.end_id, *plain.end_ids]))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str) and not self._always:
            return self._plain.encode_prompt(prompt)
        turns = (("user", prompt),) if isinstance(prompt, str) else prompt
        # A mark inside each special token keeps it plain text; the text is split there afterwards.
        private_use = map(chr, range(0xE000, 0xF900))
        texts = "".join(text for _, text in turns) + self._template
        mark = next(mark for mark in private_use if mark not in texts)
        marked = [(role, self._with_marks(text, mark)) for role, text in turns]
        first, *others = self._render(marked, opened=True).split(mark)
        ids = self._plain.encode_marked(first, continues=False)
        for part in others:
            ids += self._plain.encode_marked(part, continues=True)
        return ids

    def _with_marks(self, text: str, mark: str) -> str:
        for token in sorted(self.special, key=len, reverse=True):
            text = text.replace(token, token[0] + mark + token[1:])
        return text

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
                **{**self._plain.tokens.names, **self._variables},
            )[0][0]
        except error_type as error:
            raise UserError(
                f"the chat template of the tokenizer cannot write {turns[0][1][:80]!r} as a "
                f"message of the {turns[0][0]}: {error}; set task.chat_template=False, leave out "
                "task.system, or use another tokenizer"
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
