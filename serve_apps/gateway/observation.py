"""What is known of a request when it is over: one row of the access log."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import msgspec

from serve_apps.gateway import answer_end, selection
from serve_apps.gateway.answer_text import AnswerText
from serve_apps.gateway.asgi import RawHeaders
from serve_apps.gateway.stream import Listener, Stream

KEY_DIGITS = 16
"""Hex digits of an API key's sha256 that stand for it."""


class Observation(msgspec.Struct, frozen=True):
    """One finished request; docs/serving.md says what each field means."""

    at: datetime
    request_id: str
    model: str
    version: str
    route: str
    key_hash: str
    stream: bool
    status: int
    error_code: str
    ttft_s: float | None
    itl_s: float | None
    e2e_s: float
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str
    retries: int
    continued: int
    task: str = ""
    prompt: str | None = None
    answer: str | None = None


class Notes:
    """What is noted of one request while it is under way.

    `text_bytes`: how much is kept of its prompt and of its answer, each; none of them at 0. `new_replica`: it
    was among the first that went to its replica.
    """

    def __init__(self, headers: RawHeaders, request_id: bytes, route: str, text_bytes: int = 0) -> None:
        self.error_code = ""
        self.task = ""
        self.ttft_s: float | None = None
        self.retries = 0
        self.continued = 0
        self.new_replica = False
        self._at = datetime.now(UTC)
        self._headers = headers
        self._request_id = request_id
        self._route = route
        self._text_bytes = text_bytes
        self._text = AnswerText(text_bytes) if text_bytes else None
        self._listeners: list[Listener] = [self._text] if self._text is not None else []
        self._prompt: str | None = None
        self._whole = b""
        self._stream: Stream | None = None

    def asked(self, body: bytes) -> None:
        """The request's body has come."""
        if self._text_bytes:
            self._prompt = body[: self._text_bytes].decode("utf-8", "replace")

    def listen(self, listener: Listener) -> None:
        """Somebody else wants to see the answer, which has not begun."""
        self._listeners.append(listener)

    def answered(self, body: bytes) -> None:
        """The answer is whole."""
        self._whole = body
        for listener in self._listeners:
            listener.add(body)

    def streams(self, ttft_s: float) -> Stream:
        """The answer is a stream, which this will look at when it is over."""
        self.ttft_s = ttft_s
        self._stream = Stream(self._listeners)
        return self._stream

    def finish(self, model: str, version: str, status: int, e2e_s: float) -> Observation:
        """The request is over."""
        stream = self._stream
        end = stream.last_events() if stream else self._whole
        prompt_tokens, completion_tokens = answer_end.usage(end)
        if completion_tokens is None and stream is not None:
            completion_tokens = stream.told_tokens()
        return Observation(
            at=self._at,
            request_id=self._request_id.decode(),
            model=model,
            version=version,
            route=self._route,
            key_hash=key_hash(self._headers),
            stream=stream is not None,
            status=status,
            error_code=self.error_code,
            ttft_s=_rounded(self.ttft_s),
            itl_s=_rounded(self._between_tokens(completion_tokens, e2e_s)),
            e2e_s=round(e2e_s, 6),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            finish_reason=(stream.told_reason() if stream else "") or answer_end.finish_reason(end),
            retries=self.retries,
            continued=self.continued,
            task=self.task,
            prompt=self._prompt,
            answer=self._text.value() if self._text is not None else None,
        )

    def _between_tokens(self, tokens: int | None, e2e_s: float) -> float | None:
        if self._stream is None or not self._stream.is_done or self.ttft_s is None:
            return None
        return (e2e_s - self.ttft_s) / (tokens - 1) if tokens is not None and tokens > 1 else None


def key_hash(headers: RawHeaders) -> str:
    """What stands for the API key in the log; empty without one."""
    key = selection.bearer(headers)
    return hashlib.sha256(key.encode()).hexdigest()[:KEY_DIGITS] if key else ""


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
