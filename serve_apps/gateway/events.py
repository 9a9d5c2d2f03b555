"""Cutting a stream of server-sent events between events, never within one."""

from __future__ import annotations

_ENDS = (b"\n\n", b"\r\n\r\n")
_LONGEST_END = 4


class EventFramer:
    """Holds back an unfinished event, so that a stream which breaks can end with a whole one.

    The bytes stay as they are: everything pushed comes out again, in order.
    """

    def __init__(self) -> None:
        self._held = bytearray()

    def push(self, chunk: bytes) -> bytes:
        """What may be passed on now: all up to the end of the last whole event."""
        if not self._held and chunk.endswith(_ENDS):
            return chunk
        searched_from = max(0, len(self._held) - _LONGEST_END + 1)
        self._held += chunk
        cut = max(self._end(mark, searched_from) for mark in _ENDS)
        ready = bytes(self._held[:cut])
        del self._held[:cut]
        return ready

    def rest(self) -> bytes:
        """What is held when the stream has ended in good order."""
        return bytes(self._held)

    def _end(self, mark: bytes, start: int) -> int:
        found = self._held.rfind(mark, start)
        return found + len(mark) if found >= 0 else 0
