"""Prompts that are chats: lists of messages, each with a role and a content.

    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "1 + 1?"}]

A content is a text, or a list of parts that are texts, {"type": "text", "text": "..."}, which are
joined. The last message is the user's, since the model's response follows it.
"""

from __future__ import annotations

from bstar_jax.config import UserError
from bstar_jax.records.query import Messages
from bstar_jax.tasks.record import Record
from bstar_jax.tasks.values import is_whole, kind, listed

ROLES = ("system", "user", "assistant")
_FORMS = "messages have role and content"


def read_messages(record: Record, name: str) -> Messages:
    """Reads a field that is a list of chat messages.

    Args:
      record: The record.
      name: Name of the field, or path to it.

    Returns:
      The role and the content of each message.

    Raises:
      UserError: If it is no such list, or holds what a prompt cannot have: an image, a tool, a last
        turn of the assistant.
    """
    value = record.value(name, "question")
    if not isinstance(value, list) or not value:
        held = "an empty list" if value == [] else kind(value)
        raise record.error(name, f" holds {held}; the question is text or a list of chat messages")
    messages = tuple(_message(record, name, place, each) for place, each in enumerate(value))
    roles = [role for role, _ in messages]
    if "system" in roles[1:]:
        raise record.error(
            name, f": message {roles.index('system', 1)} is a system message; it stands first"
        )
    if roles[-1] == "assistant":
        raise record.error(
            name,
            f": message {len(roles) - 1}, the last, is the assistant's, but a prompt ends with the "
            "user's; give the messages before it as the prompt, and its text as the solution",
        )
    if roles[-1] != "user":
        raise record.error(
            name, f" ends with a message of the {roles[-1]}; a prompt ends with the user's"
        )
    if not messages[-1][1].strip():
        raise record.error(name, ": the last message is empty; it asks the question")
    return messages


def refuse_pairs(record: Record, question: str) -> None:
    """Refuses records that hold two responses of which one is preferred.

    Args:
      record: The record.
      question: Name of the field with the question.

    Raises:
      UserError: If it does.
    """
    if record.knows("chosen") and record.knows("rejected"):
        raise UserError(
            f"{record.place}: 'chosen' and 'rejected' are a preference pair, which no reward "
            f"grades; give records with a question ({question!r}) and its reference answer"
        )


def _message(record: Record, name: str, place: int, value: object) -> tuple[str, str]:
    where = f": message {place}"
    if not isinstance(value, dict):
        raise record.error(name, f"{where} is {kind(value)}; {_FORMS}")
    if not {"role", "content"} <= value.keys():
        held = " and ".join(map(repr, value)) or "nothing"
        form = ", as in ShareGPT's form" if {"from", "value"} <= value.keys() else ""
        raise record.error(name, f"{where} has {held}{form}; {_FORMS}")
    role = value["role"]
    if role not in ROLES:
        told = "; tools are not supported" if role in ("tool", "function", "ipython") else ""
        raise record.error(name, f"{where} has the role {role!r}{told}; it is {', '.join(ROLES)}")
    if value.get("tool_calls"):
        raise record.error(name, f"{where} has 'tool_calls'; tools are not supported")
    return str(role), _content(record, name, where, value["content"])


def _content(record: Record, name: str, where: str, content: object) -> str:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise record.error(name, f"{where} has {kind(content)} as its content; it is text")
    texts = []
    for part in content:
        if not isinstance(part, dict):
            raise record.error(name, f"{where} has {kind(part)} as a part; parts have type, text")
        if part.get("type") != "text":
            held = part.get("type") or listed([key for key in part if part[key] is not None])
            raise record.error(
                name,
                f"{where} has a part of type {held!r}; only texts are read, no images",
            )
        if not isinstance(part.get("text"), str):
            raise record.error(name, f"{where} has a part without a text")
        if not is_whole(part["text"]):
            raise record.error(name, f"{where} holds half of a character, as \\ud800 is")
        texts.append(part["text"])
    return "".join(texts)
