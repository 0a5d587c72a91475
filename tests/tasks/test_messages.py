"""Chats are read whole, or refused by what they hold."""

import pytest

from bstar_jax.config import UserError
from bstar_jax.tasks.messages import read_messages
from bstar_jax.tasks.record import Record

ASK = {"role": "user", "content": "1 + 1?"}


def read(value):
    return read_messages(Record("F, row 0", 0, {"prompt": value}), "prompt")


def test_roles_and_contents_in_their_order():
    chat = [
        {"role": "system", "content": "Be short.", "name": None},
        ASK,
        {"role": "assistant", "content": "2", "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": text} for text in ("And ", "3?")]},
    ]
    assert read(chat) == (
        ("system", "Be short."),
        ("user", "1 + 1?"),
        ("assistant", "2"),
        ("user", "And 3?"),
    )
    assert read([ASK]) == (("user", "1 + 1?"),)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([], "holds an empty list; the question is text or a list of chat messages"),
        ({"role": "user"}, "holds an object; the question is text or"),
        (["1 + 1?"], "message 0 is text; messages have role and content"),
        (
            [{"from": "human", "value": "1 + 1?"}],
            "message 0 has 'from' and 'value', as in ShareGPT's form; messages have role and conte",
        ),
        ([ASK, {"role": "user"}], "message 1 has 'role'; messages have role and content"),
        ([{}], "message 0 has nothing; messages"),
        ([{"role": "tool", "content": "2"}, ASK], "has the role 'tool'; tools are not supported"),
        ([{"role": "human", "content": "2"}], "message 0 has the role 'human'; it is system, user"),
        (
            [ASK, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}, ASK],
            "message 1 has 'tool_calls'; tools are not supported",
        ),
        (
            [ASK, {"role": "assistant", "content": "2"}],
            "message 1, the last, is the assistant's, but a prompt ends with the user's; give the",
        ),
        ([{"role": "system", "content": "s"}], "ends with a message of the system; a prompt ends"),
        ([ASK, {"role": "system", "content": "s"}, ASK], "message 1 is a system message; it stand"),
        ([{"role": "user", "content": " \n"}], "the last message is empty; it asks the question"),
        ([{"role": "user", "content": None}], "message 0 has null as its content; it is text"),
        (
            [{"role": "user", "content": ["1"]}],
            "message 0 has text as a part; parts have type,",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "message 0 has a part of type 'image_url'; only texts are read, no images",
        ),
        (
            [{"role": "user", "content": [{"image": "x", "text": None}]}],
            "message 0 has a part of type 'image'; only texts are read",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0 has a part without a text"),
        ([{"role": "user", "content": "1 \ud800?"}], "message 0 holds half of a character"),
    ],
)
def test_what_no_prompt_can_have_is_refused_by_name(chat, message):
    with pytest.raises(UserError) as caught:
        read(chat)
    assert str(caught.value).startswith("F, row 0: field 'prompt'")
    assert message in str(caught.value)
