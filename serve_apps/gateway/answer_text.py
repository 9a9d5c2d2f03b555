"""The text of an answer, for the access log where it keeps answers and for the check of a task's output."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_DATA = b"data: {"
_START = len(_DATA) - 1


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    message: _Message | None = None
    delta: _Message | None = None


class _Part(msgspec.Struct):
    text: str | None = None


class _Item(msgspec.Struct):
    content: list[_Part] | None = None


class _Answer(msgspec.Struct):
    """A whole answer or one event: of chat and completions (`choices`), of responses (the others)."""

    choices: list[_Choice] = []
    output: list[_Item] = []
    type: str = ""
    delta: str | None = None


_answer = msgspec.json.Decoder(_Answer)


class AnswerText:
    """Collects the first `limit` characters of an answer's text; what is no text is passed over."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._parts: dict[int, list[str]] = {}

    def add_events(self, events: bytes) -> None:
        """Whole events of a stream."""
        for line in events.split(b"\n"):
            if self._left > 0 and line.startswith(_DATA):
                self.add(line[_START:])

    def add(self, answer: bytes) -> None:
        """One event's JSON, or a whole answer."""
        try:
            decoded = _answer.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        for index, text in _texts(decoded):
            kept = text[: self._left]
            self._parts.setdefault(index, []).append(kept)
            self._left -= len(kept)

    def value(self) -> str:
        """The text so far; several choices are parted by a newline."""
        return "\n".join(filter(None, self.texts()))

    def texts(self) -> list[str]:
        """The text of each choice so far, also of those that have said nothing."""
        return ["".join(self._parts[index]) for index in sorted(self._parts)]


def _texts(answer: _Answer) -> Iterator[tuple[int, str]]:
    for choice in answer.choices:
        message = choice.message or choice.delta
        text = message.content if message else choice.text
        if text is not None:
            yield choice.index, text
    for item in answer.output:
        yield from ((0, part.text) for part in item.content or () if part.text)
    if answer.delta and answer.type == "response.output_text.delta":
        yield 0, answer.delta
