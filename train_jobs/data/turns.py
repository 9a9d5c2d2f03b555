"""Turns of a conversation as rows hold them, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train_jobs.data.records import ROLES, Message

Reason = str

NOT_UNICODE = "text that is not valid Unicode"
_CALLS = ("tool_calls", "function_call")
# Others may say nothing: a tool that gave nothing, a system message in place of the chat template's own.
_FILLED = {"assistant": "empty answer", "user": "empty prompt"}


def read_turns(
    value: Any, column: str, role: str = "role", content: str = "content"
) -> list[Message] | Reason:
    """A list of mappings as messages, or why it is none.

    Content may be a list of parts, as OpenAI's API takes it, all of which are text. Nothing that a turn
    says is left out: what is not text is a reason.
    """
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return f"`{column}` is not a list of turns"
    if not all(isinstance(turn.get(role), str) for turn in value):
        return f"a turn without `{role}`"
    messages: list[Message] = []
    for turn in value:
        if called := next((key for key in _CALLS if turn.get(key)), None):
            return f"a turn with `{called}`, which cannot be trained on"
        text = _text_of(turn.get(content))
        if text is None:
            return f"a turn whose `{content}` is not text"
        messages.append(Message(turn[role], text))
    return messages


def _text_of(content: Any) -> str | None:
    """The text of a turn's content, empty where there is none; None for what is not all text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts = [_text_of_part(part) for part in content]
    return None if None in texts else "".join(text for text in texts if text is not None)


def _text_of_part(part: Any) -> str | None:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        return None
    return str(part["text"])


def fault(messages: Sequence[Message]) -> Reason:
    """Why this is no conversation that ends in an answer; empty when it is one."""
    if not messages:
        return "no messages"
    for message in messages:
        if message.role not in ROLES:
            return f"unknown role `{message.role[:40]}`"
        if message.role in _FILLED and not is_filled(message.content):
            return _FILLED[message.role]
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


def not_text(row: Mapping[str, Any], columns: Iterable[str]) -> Reason:
    """Which of these columns has a value that is not text; empty when none has."""
    wrong = [column for column in columns if not isinstance(row.get(column), str | None)]
    return f"`{wrong[0]}` is not text" if wrong else ""
