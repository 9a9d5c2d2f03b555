"""What a gateway knows of a stream while it passes on its events."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from serve_apps.gateway.tokens import in_events
from serve_apps.replay.wire import End, Resume, Way, part

DONE = b"data: [DONE]\n\n"
MARK = b": linnet-continued sampled\n\n"
"""Told to the caller where the rest of a sampled answer was drawn by another replica."""

_ENDING = 3
"""Events that end a stream: the one with the reason, the one with the usage, `[DONE]`."""

_CREATED = re.compile(rb'"created":\s*(\d+)')


class Listener(Protocol):
    """Whoever wants to see what an answer says."""

    def add_events(self, events: bytes) -> None:
        """Whole events of a stream."""
        ...

    def add(self, answer: bytes) -> None:
        """A whole answer."""
        ...


class Stream:
    """Takes the tokens out of a stream's comments and keeps them, in case its replica is lost.

    `listeners` are given the events that go to the caller.
    """

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._listeners = listeners
        self._last: deque[bytes] = deque(maxlen=_ENDING)
        self.is_done = False
        self.sampled = False
        self._way = Way.NONE
        self._steps: list[list[int]] = []
        self._end: End | None = None
        self._passed = 0
        self._created: int | None = None
        self._usage: int | None = None

    def take(self, ready: bytes) -> bytes:
        """Whole events as a replica sent them; returns those that are for the caller."""
        events, told = part(ready)
        for one in told:
            if one.way is not None:
                self._way, self.sampled = one.way, one.sampled
            self._steps += one.steps
            self._end = one.end or self._end
        if events:
            self._passed += events.count(b"\n\n")
            self._last.append(events)
            self.is_done = events.endswith(DONE)
            if self._created is None and (found := _CREATED.search(events)):
                self._created = int(found[1])
            for listener in self._listeners:
                listener.add_events(events)
            if b'"usage"' in events:
                self._usage = in_events(events) or self._usage
        return events

    def spent(self, prompt: int) -> int:
        """Tokens so far: the stream's own `usage`, else `prompt` and what it has told, else shown."""
        return self._usage or prompt + (sum(map(len, self._steps)) or self._passed)

    def resume(self) -> Resume | None:
        """What another replica needs to go on; None where it cannot."""
        if self._way is Way.NONE or self.is_done:
            return None
        return Resume(self._way, self._steps, self._passed, self._created, self._end)

    def last_events(self) -> bytes:
        """What was passed on last, `[DONE]` and at least the two events before it."""
        return b"".join(self._last)

    def told_tokens(self) -> int | None:
        """Tokens of the answer so far; None where its replica does not tell them."""
        return None if self._way is Way.NONE else sum(map(len, self._steps))

    def told_reason(self) -> str:
        """Why the answer ended, in vLLM's words; empty where its replica has not told."""
        return self._end.finish_reason if self._end else ""
