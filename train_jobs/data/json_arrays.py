"""A JSON array read an element at a time, so that a file of any size takes the memory of one row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

_CHUNK = 1 << 20
_AFTER_A_VALUE = tuple(" \t\r\n,]")


class JsonArrayError(ValueError):
    """What is read is no JSON array, or not a whole one."""


def elements(stream: TextIO, *, chunk: int = _CHUNK) -> Iterator[Any]:
    """The elements of the array that is all there is in `stream`, in order.

    Raises JsonArrayError, after the elements before the fault, for all that `json.load` refuses.
    """
    reader = _Reader(stream, chunk)
    if reader.next_character() != "[":
        raise JsonArrayError("no JSON array")
    if reader.peek() == "]":
        reader.next_character()
    else:
        count, character = 0, ","
        while character == ",":
            yield reader.value(count)
            count += 1
            character = reader.next_character()
        if character != "]":
            raise JsonArrayError(f"no `,` or `]` after row {count}")
    if reader.peek():
        raise JsonArrayError("something follows the JSON array")


class _Reader:
    """Text that is read as it is needed; what was used is forgotten."""

    def __init__(self, stream: TextIO, chunk: int) -> None:
        self._stream, self._chunk = stream, chunk
        self._text, self._at, self._is_all = "", 0, False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or self._is_all:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def next_character(self) -> str:
        """The same, and go past it."""
        found = self.peek()
        self._at += len(found)
        return found

    def value(self, count: int) -> Any:
        """One JSON value; `count` rows were before it."""
        self.peek()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_all:
                    raise JsonArrayError(f"{error.msg} in row {count + 1}") from None
            else:
                # A number may go on in what comes next: of 1e5 the 1 alone is one.
                if self._text[end : end + 1] in _AFTER_A_VALUE or self._is_all:
                    self._at = end
                    return value
            self._read_on()

    def _read_on(self) -> None:
        """Read as much again as is held, so that a long row is not tried too often."""
        held = self._text[self._at :]
        more = self._stream.read(max(self._chunk, len(held)))
        self._text, self._at, self._is_all = held + more, 0, not more
