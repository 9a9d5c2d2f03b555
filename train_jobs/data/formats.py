"""The shapes of training data that are recognised by their columns, and how a row of each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from cluster.errors import ConfigError, did_you_mean
from train_jobs.data.records import ROLES, Dropped, Example, Message

Row = Mapping[str, Any]
Reason = str


class Format(StrEnum):
    """A shape of training data."""

    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt-completion"
    TEXT = "text"


NEEDED_COLUMNS: dict[Format, tuple[str, ...]] = {
    Format.MESSAGES: ("messages",),
    Format.SHAREGPT: ("conversations",),
    Format.ALPACA: ("instruction", "output"),
    Format.PROMPT_COMPLETION: ("prompt", "completion"),
    Format.TEXT: ("text",),
}

_NOT_UNICODE = "text that is not valid Unicode"

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    **{role: role for role in ROLES},
}


def recognise(columns: Iterable[str], source: str) -> Format:
    """The first format whose needed columns are all there.

    Raises ConfigError, naming the columns of `source` and the sets that would be accepted.
    """
    found = set(columns)
    for data_format, needed in NEEDED_COLUMNS.items():
        if found.issuperset(needed):
            return data_format
    accepted = "; ".join(f"{name}: {' + '.join(needed)}" for name, needed in NEEDED_COLUMNS.items())
    raise ConfigError(
        f"{source} has the columns {', '.join(sorted(found)) or '(none)'}, which make no known format."
        f"{_nearest(found)}",
        code="data.unknown_format",
        hint=f"Accepted sets of columns: {accepted}.",
    )


def _nearest(found: set[str]) -> str:
    for data_format, needed in NEEDED_COLUMNS.items():
        missing = set(needed) - found
        if len(missing) < len(needed):
            return f" For {data_format} the column `{missing.pop()}` is missing."
    known = {column for needed in NEEDED_COLUMNS.values() for column in needed}
    suggestions = (did_you_mean(column, known) for column in sorted(found))
    return next(filter(None, suggestions), "")


def convert(row: Row, data_format: Format, *, index: int, file: str = "") -> Example | Dropped:
    """One row as an Example; or Dropped, with the reason, when its answer or a needed value is empty."""
    absent = [column for column in NEEDED_COLUMNS[data_format] if row.get(column) is None]
    if absent:
        return Dropped(index, f"no value in `{absent[0]}`", file)
    name = row.get("id")
    identity = str(name) if name not in (None, "") else f"{file}:{index}"
    if data_format is Format.TEXT:
        text = row["text"]
        if not _filled(text):
            return Dropped(index, "empty text", file)
        if _has_lone_surrogate(text):
            return Dropped(index, _NOT_UNICODE, file)
        return Example([], identity, text=text, index=index, file=file)
    messages = _READERS[data_format](row)
    fault = messages if isinstance(messages, Reason) else _fault(messages)
    if fault or isinstance(messages, Reason):
        return Dropped(index, fault, file)
    return Example(messages, identity, index=index, file=file)


def _fault(messages: Sequence[Message]) -> Reason:
    if not messages:
        return "no messages"
    for message in messages:
        if message.role not in ROLES:
            return f"unknown role `{message.role[:40]}`"
        if message.role in ("assistant", "user") and not _filled(message.content):
            return "empty answer" if message.role == "assistant" else "empty prompt"
        if _has_lone_surrogate(message.content):
            return _NOT_UNICODE
    if messages[-1].role != "assistant":
        return "the last message is not an answer"
    return ""


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _has_lone_surrogate(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _from_messages(row: Row) -> list[Message] | Reason:
    return _turns(row["messages"], "messages", "role", "content")


def _from_sharegpt(row: Row) -> list[Message] | Reason:
    turns = _turns(row["conversations"], "conversations", "from", "value")
    if isinstance(turns, Reason):
        return turns
    return [Message(_SHAREGPT_ROLES.get(turn.role, turn.role), turn.content) for turn in turns]


def _turns(value: Any, column: str, role: str, content: str) -> list[Message] | Reason:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return f"`{column}` is not a list of turns"
    if not all(isinstance(turn.get(role), str) for turn in value):
        return f"a turn without `{role}`"
    return [Message(turn[role], _text(turn.get(content))) for turn in value]


def _from_alpaca(row: Row) -> list[Message] | Reason:
    instruction, given = _text(row["instruction"]), _text(row.get("input"))
    if not _filled(instruction):
        return "empty prompt"
    prompt = f"{instruction}\n\n{given}" if _filled(given) else instruction
    return [Message("user", prompt), Message("assistant", _text(row["output"]))]


def _from_prompt_completion(row: Row) -> list[Message] | Reason:
    return [Message("user", _text(row["prompt"])), Message("assistant", _text(row["completion"]))]


_READERS: dict[Format, Callable[[Row], list[Message] | Reason]] = {
    Format.MESSAGES: _from_messages,
    Format.SHAREGPT: _from_sharegpt,
    Format.ALPACA: _from_alpaca,
    Format.PROMPT_COMPLETION: _from_prompt_completion,
}
