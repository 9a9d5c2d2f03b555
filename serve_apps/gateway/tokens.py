"""How many tokens a request may take, and how many it took: from what passes through the gateway."""

from __future__ import annotations

from typing import Annotated

import msgspec

from serve_apps.gateway.routes import GENERATING

ASSUMED_ANSWER = 1024
"""Tokens reserved for an answer whose request sets no maximum."""

_BYTES_PER_TOKEN = 4
_DATA = b"data:"
_USAGE = b'"usage"'

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Maxima(msgspec.Struct, frozen=True):
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    max_output_tokens: _Count | None = None
    n: _Count | None = None


class _Usage(msgspec.Struct, frozen=True):
    total_tokens: _Count = 0


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage | None = None


class _Event(msgspec.Struct, frozen=True):
    """A chunk has its `usage` itself, an event of /v1/responses has it in `response`."""

    usage: _Usage | None = None
    response: _Answer | None = None


_maxima = msgspec.json.Decoder(_Maxima, strict=False)
_answer = msgspec.json.Decoder(_Answer)
_event = msgspec.json.Decoder(_Event)


def of_prompt(body: bytes) -> int:
    """About how many tokens a request's body holds."""
    return -(-len(body) // _BYTES_PER_TOKEN)


def estimate(route: str, body: bytes) -> int:
    """What a request may take: its prompt, and as many answers as it asks for, as long as they may get."""
    if route not in GENERATING:
        return of_prompt(body)
    try:
        asked = _maxima.decode(body)
    except msgspec.DecodeError:
        # Whoever sends nonsense is refused by the replica, and then nothing is spent.
        asked = _Maxima()
    maxima = (asked.max_completion_tokens, asked.max_tokens, asked.max_output_tokens)
    longest = next((tokens for tokens in maxima if tokens is not None), ASSUMED_ANSWER)
    return of_prompt(body) + longest * max(1, asked.n or 1)


def in_answer(status: int, answer: bytes, body: bytes) -> int:
    """What a whole answer took: its `usage`, else the request's prompt; nothing for an error."""
    if status >= 400:
        return 0
    try:
        usage = _answer.decode(answer).usage
    except msgspec.DecodeError:
        usage = None
    return of_prompt(body) if usage is None else usage.total_tokens


def in_events(events: bytes) -> int | None:
    """What the newest of these events says that its stream took; None where none says it."""
    found: int | None = None
    for line in events.splitlines():
        if line.startswith(_DATA) and _USAGE in line:
            usage = _decoded(line.removeprefix(_DATA))
            found = found if usage is None else usage.total_tokens
    return found


def _decoded(event: bytes) -> _Usage | None:
    try:
        told = _event.decode(event)
    except msgspec.DecodeError:
        return None
    return told.usage or (told.response.usage if told.response is not None else None)
