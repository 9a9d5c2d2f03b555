"""Turns of a conversation as rows hold them, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train_jobs.data.records import ROLES, Message

Reason = str

NOT_UNICODE = "text that is not valid Unicode"


def read_turns(
    value: Any, column: str, role: str = "role", content: str = "content"
) -> list[Message] | Reason:
    """A list of mappings as messages, or why it is none."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return f"`{column}` is not a list of turns"
    if not all(isinstance(turn.get(role), str) for turn in value):
        return f"a turn without `{role}`"
    return [Message(turn[role], text_or_empty(turn.get(content))) for turn in value]


def fault(messages: Sequence[Message]) -> Reason:
    """Why this is no conversation that ends in an answer; empty when it is one."""
    if not messages:
        return "no messages"
    for message in messages:
        if message.role not in ROLES:
            return f"unknown role `{message.role[:40]}`"
        if message.role in ("assistant", "user") and not is_filled(message.content):
            return "empty answer" if message.role == "assistant" else "empty prompt"
        if has_lone_surrogate(message.content):
            return NOT_UNICODE
    if messages[-1].role != "assistant":
        return "the last message is not an answer"
    return ""


def is_filled(value: Any) -> bool:
    """Whether it is text with something other than white space."""
    return isinstance(value, str) and bool(value.strip())


def has_lone_surrogate(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def text_or_empty(value: Any) -> str:
    """The text, or an empty one in place of anything else."""
    return value if isinstance(value, str) else ""
