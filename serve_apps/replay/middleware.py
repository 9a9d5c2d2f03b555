"""ASGI middleware of a replica: tells tokens in comments, and goes on with a begun stream."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from serve_apps.replay.telling import Telling, current
from serve_apps.replay.wire import CONTINUED, RESUME_TYPE, comment, tells, unpack

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CREATED = re.compile(rb'"created":\s*\d+')


class TellTokens:
    """Wraps vLLM's application. Requests without `x-linnet-tell` pass through untouched."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not scope["path"].endswith(CONTINUED) or not tells(scope["headers"]):
            await self._app(scope, receive, send)
            return
        telling = Telling()
        if _header(scope, b"content-type") == RESUME_TYPE.encode():
            try:
                telling.resume, body = unpack(await _read(receive))
            except (msgspec.DecodeError, ConnectionError):
                await _refuse(send)
                return
            scope = {**scope, "headers": _as_json(scope["headers"], len(body))}
            receive = _replay(body, receive)
        token = current.set(telling)
        try:
            await self._app(scope, receive, _Teller(telling, send).send)
        finally:
            current.reset(token)


class _Teller:
    """Sends a stream's events: each after the comment that tells its tokens, or not at all.

    The first `resume.passed` events were sent by another replica. An engine's error ends the
    connection instead of the stream, which is how the gateway knows that there is more to come.
    """

    def __init__(self, telling: Telling, send: Send) -> None:
        self._telling = telling
        self._send = send
        self._streams = False
        self._skip = telling.resume.passed if telling.resume else 0

    async def send(self, message: Message) -> None:
        if self._telling.failed is not None:
            raise self._telling.failed
        if message["type"] == "http.response.start":
            kind = next((value for name, value in message["headers"] if name == b"content-type"), b"")
            self._streams = kind.startswith(b"text/event-stream")
        elif self._streams and message.get("body"):
            message = {**message, "body": self._event(message["body"])}
        await self._send(message)

    def _event(self, event: bytes) -> bytes:
        told = self._telling.take()
        head = comment(told) if told is not None else b""
        if self._skip > 0 and not self._telling.gave_up:
            self._skip -= event.count(b"\n\n")
            return head
        resume = self._telling.resume
        if resume is not None and resume.created is not None:
            event = _CREATED.sub(b'"created":%d' % resume.created, event, count=1)
        return head + event


def _header(scope: Message, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the gateway left before its request was whole")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _as_json(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name not in (b"content-type", b"content-length")]
    return [*kept, (b"content-type", b"application/json"), (b"content-length", str(length).encode())]


async def _refuse(send: Send) -> None:
    error = {"message": "The stream to go on with is malformed.", "type": "invalid_request_error"}
    body = json.dumps({"error": {**error, "param": None, "code": "invalid_resume"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
