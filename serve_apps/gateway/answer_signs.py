"""What a judged answer shows on its way: whether it says anything, and how sure its tokens were."""

from __future__ import annotations

import re

import msgspec

_SAYS = re.compile(
    rb'"(?:content|text|delta)":\s*"(?!")|"tool_calls":\s*\[\s*\{|"type":\s*"function_call"'
).search
"""A text that is not empty, or a tool called. Quotes within a text are escaped, so none passes for a key."""

_DATA = b"data: {"
_START = len(_DATA) - 1


class _Token(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    """Chat tells of each token in `content`, completions in `token_logprobs`."""

    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_answer = msgspec.json.Decoder(_Answer)


class AnswerSigns:
    """Costs a stream next to nothing once it has said something, unless `logprobs` were asked for."""

    def __init__(self, *, logprobs: bool) -> None:
        self.spoke = False
        self._logprobs = logprobs
        self._sum = 0.0
        self._tokens = 0

    def add_events(self, events: bytes) -> None:
        """Whole events of a stream."""
        if not self.spoke:
            self.spoke = _SAYS(events) is not None
        if self._logprobs:
            for line in events.split(b"\n"):
                if line.startswith(_DATA):
                    self._add_logprobs(line[_START:])

    def add(self, answer: bytes) -> None:
        """A whole answer."""
        self.spoke = _SAYS(answer) is not None
        if self._logprobs:
            self._add_logprobs(answer)

    def mean_logprob(self) -> float | None:
        """Of the tokens so far, in nats; None where none was told."""
        return self._sum / self._tokens if self._tokens else None

    def _add_logprobs(self, answer: bytes) -> None:
        try:
            choices = _answer.decode(answer).choices
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        for choice in choices:
            told = choice.logprobs or _Logprobs()
            found = [token.logprob for token in told.content or ()]
            found += [one for one in told.token_logprobs or () if one is not None]
            self._sum += sum(found)
            self._tokens += len(found)
