"""The shapes of training data that are recognised by their columns, and how a row of each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

from cluster.errors import ConfigError, did_you_mean
from train_jobs.data.preferences import read_preference
from train_jobs.data.records import ROLES, Dropped, Example, Message, Pair, Place
from train_jobs.data.turns import (
    NOT_UNICODE,
    Reason,
    fault,
    has_lone_surrogate,
    is_filled,
    not_text,
    read_turns,
)

Row = Mapping[str, Any]


class Format(StrEnum):
    """A shape of training data."""

    PREFERENCES = "preferences"
    MESSAGES = "messages"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt-completion"
    TEXT = "text"


NEEDED_COLUMNS: dict[Format, tuple[str, ...]] = {
    Format.PREFERENCES: ("chosen", "rejected"),
    Format.MESSAGES: ("messages",),
    Format.SHAREGPT: ("conversations",),
    Format.ALPACA: ("instruction", "output"),
    Format.PROMPT_COMPLETION: ("prompt", "completion"),
    Format.TEXT: ("text",),
}

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    **{role: role for role in ROLES},
}


def recognise(columns: Iterable[str], source: str, wanted: Iterable[Format] = ()) -> Format:
    """The first format whose needed columns are all there, of those `wanted` if one of them fits.

    Raises ConfigError, naming the columns of `source` and the sets that would be accepted.
    """
    found = set(columns)
    for data_format in (*wanted, *NEEDED_COLUMNS):
        if found.issuperset(NEEDED_COLUMNS[data_format]):
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


def convert(row: Row, data_format: Format, *, index: int, file: str = "") -> Example | Pair | Dropped:
    """One row as an Example, or as a Pair when these are preferences.

    Dropped, with the reason, when an answer or a needed value is empty.
    """
    place = Place(index, file, "" if row.get("id") is None else str(row["id"]))
    absent = [column for column in NEEDED_COLUMNS[data_format] if row.get(column) is None]
    if absent:
        return place.dropped(f"no value in `{absent[0]}`")
    if data_format is Format.TEXT:
        return _text(row["text"], place)
    if data_format is Format.PREFERENCES:
        return _pair(row, place)
    messages = _READERS[data_format](row)
    if isinstance(messages, Reason):
        return place.dropped(messages)
    wrong = fault(messages)
    return place.dropped(wrong) if wrong else place.example(messages)


def _text(text: Any, place: Place) -> Example | Dropped:
    if not isinstance(text, str):
        return place.dropped("`text` is not text")
    if not is_filled(text):
        return place.dropped("empty text")
    if has_lone_surrogate(text):
        return place.dropped(NOT_UNICODE)
    return place.example([], text=text)


def _pair(row: Row, place: Place) -> Pair | Dropped:
    found = read_preference(row)
    if isinstance(found, Reason):
        return place.dropped(found)
    return Pair(*(place.example(side, given=found.shared) for side in (found.chosen, found.rejected)))


def _from_messages(row: Row) -> list[Message] | Reason:
    return read_turns(row["messages"], "messages")


def _from_sharegpt(row: Row) -> list[Message] | Reason:
    turns = read_turns(row["conversations"], "conversations", "from", "value")
    if isinstance(turns, Reason):
        return turns
    return [Message(_SHAREGPT_ROLES.get(turn.role, turn.role), turn.content) for turn in turns]


def _from_alpaca(row: Row) -> list[Message] | Reason:
    if wrong := not_text(row, ("instruction", "input", "output")):
        return wrong
    instruction, given = row["instruction"], row.get("input")
    if not is_filled(instruction):
        return "empty prompt"
    prompt = f"{instruction}\n\n{given}" if is_filled(given) else instruction
    return [Message("user", prompt), Message("assistant", row["output"])]


def _from_prompt_completion(row: Row) -> list[Message] | Reason:
    if wrong := not_text(row, ("prompt", "completion")):
        return wrong
    return [Message("user", row["prompt"]), Message("assistant", row["completion"])]


_READERS: dict[Format, Callable[[Row], list[Message] | Reason]] = {
    Format.MESSAGES: _from_messages,
    Format.SHAREGPT: _from_sharegpt,
    Format.ALPACA: _from_alpaca,
    Format.PROMPT_COMPLETION: _from_prompt_completion,
}
