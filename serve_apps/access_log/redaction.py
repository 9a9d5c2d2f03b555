"""Prompts and answers as they may be kept: cut, and with the secrets replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence

REDACTED = "[redacted]"

MARGIN = 1024
"""Bytes that are looked at beyond the cut, so that a secret which lies on it is still known as one."""

_ESCAPE = re.compile(r"(\\\\)|\\u([0-9a-fA-F]{4})")


class Redaction:
    """Takes texts of up to `max_bytes + MARGIN` bytes; what it returns has `max_bytes` at most."""

    def __init__(self, patterns: Sequence[str], max_bytes: int) -> None:
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._max_bytes = max_bytes

    def text(self, text: str) -> str:
        """Plain text."""
        return self._redacted(text, len(clipped(text, self._max_bytes)))

    def body(self, text: str) -> str:
        """A JSON text; characters that it spells as `\\uXXXX` are read as what they stand for."""
        return self._redacted(_spelled_out(text), len(_spelled_out(clipped(text, self._max_bytes))))

    def _redacted(self, text: str, end: int) -> str:
        kept: list[str] = []
        position = 0
        for start, stop in self._found(text):
            if start >= end:
                break
            if start >= position:
                kept += [text[position:start], REDACTED]
            position = max(position, stop)
        return clipped("".join([*kept, text[position:end]]), self._max_bytes)

    def _found(self, text: str) -> list[tuple[int, int]]:
        spans = (match.span() for pattern in self._patterns for match in pattern.finditer(text))
        return sorted((start, stop) for start, stop in spans if stop > start)


def clipped(text: str, max_bytes: int) -> str:
    """The longest beginning of `text` that UTF-8 holds in `max_bytes`."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def _spelled_out(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(escape: re.Match[str]) -> str:
    character = chr(int(escape[2], 16)) if escape[2] else ""
    # Quotes, backslashes, control characters and halves of a pair stay escaped: it remains JSON.
    return character if character.isprintable() and character not in ('"', "\\", "") else escape[0]
