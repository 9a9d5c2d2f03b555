"""Rows of preferences: two answers to one prompt, the first of which is the better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from train_jobs.data.records import Message
from train_jobs.data.turns import Reason, fault, read_turns

SAME = "chosen and rejected are the same"


@dataclass(frozen=True, slots=True)
class Preference:
    """Both conversations in full; their first `shared` messages are the prompt."""

    chosen: list[Message]
    rejected: list[Message]
    shared: int


def read_preference(row: Mapping[str, Any]) -> Preference | Reason:
    """`prompt`, `chosen` and `rejected` of a row, or why they are no pair.

    Each is text or a list of turns. Answers that are lists and do not begin with an assistant's turn
    are whole conversations: what both begin with is their prompt, and a `prompt` must be part of it.
    """
    prompt = _prompt(row.get("prompt"))
    if isinstance(prompt, Reason):
        return prompt
    chosen = _conversation(row["chosen"], "chosen", prompt)
    rejected = _conversation(row["rejected"], "rejected", prompt)
    if isinstance(chosen, Reason):
        return chosen
    if isinstance(rejected, Reason):
        return rejected
    return _pair(chosen, rejected, prompt)


def _pair(chosen: list[Message], rejected: list[Message], prompt: list[Message]) -> Preference | Reason:
    if chosen == rejected:
        return SAME
    both = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    shared = [message for message, _ in both]
    if not shared:
        return "chosen and rejected answer different prompts"
    if len(shared) in (len(chosen), len(rejected)):
        return "one answer is the beginning of the other"
    if not _holds(shared, prompt):
        return "chosen and rejected do not begin with `prompt`"
    return Preference(chosen, rejected, len(shared))


def _holds(messages: list[Message], part: list[Message]) -> bool:
    places = range(len(messages) - len(part) + 1)
    return any(messages[place : place + len(part)] == part for place in places)


def _prompt(value: Any) -> list[Message] | Reason:
    if value is None:
        return []
    messages = [Message("user", value)] if isinstance(value, str) else read_turns(value, "prompt")
    if isinstance(messages, Reason):
        return messages
    # A prompt is right when an answer makes a conversation of it.
    return fault([*messages, Message("assistant", "-")]) or messages


def _conversation(value: Any, column: str, prompt: list[Message]) -> list[Message] | Reason:
    turns = [Message("assistant", value)] if isinstance(value, str) else read_turns(value, column)
    if isinstance(turns, Reason):
        return turns
    if not turns or turns[0].role == "assistant":
        if not prompt:
            return "no value in `prompt`"
        turns = [*prompt, *turns]
    wrong = fault(turns)
    return f"{wrong} in `{column}`" if wrong else turns
