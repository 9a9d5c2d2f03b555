"""The text of a request's prompt, as far as replicas' prefix caches can tell requests apart by it."""

from __future__ import annotations

from typing import Any

import msgspec

LONGEST = 16_384
"""Characters that are looked at: as many as ten pages."""

LARGEST_BODY = 1024 * 1024
"""Larger bodies have no text: taking it out would hold up the gateway for milliseconds."""

_LOOKS = 1024
"""Messages, parts and tokens that are looked at."""


class _Message(msgspec.Struct):
    content: Any = None


class _Body(msgspec.Struct):
    """Chat has messages, completions a prompt, and responses an input."""

    messages: list[_Message] | None = None
    prompt: str | list[Any] | None = None
    input: str | list[Any] | None = None


_body = msgspec.json.Decoder(_Body)


def prompt_text(body: bytes) -> str:
    """Its beginning; empty where there is none, as for token ids."""
    if len(body) > LARGEST_BODY:
        return ""
    try:
        asked = _body.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Whoever sends nonsense is refused by the replica, whichever it is.
        return ""
    return _text(asked.prompt or asked.input or asked.messages)[:LONGEST]


def _text(value: Any) -> str:
    pieces: list[str] = []
    size, ahead = 0, [value]
    for _ in range(_LOOKS):
        if not ahead or size >= LONGEST:
            break
        value = ahead.pop()
        if isinstance(value, str):
            pieces.append(value)
            size += len(value)
        elif isinstance(value, list):
            ahead += value[_LOOKS - 1 :: -1]
        elif isinstance(value, _Message):
            ahead.append(value.content)
        elif isinstance(value, dict):
            ahead.append(value.get("text") or value.get("content"))
    return "".join(pieces)
