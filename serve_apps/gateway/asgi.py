"""The few pieces of ASGI that the gateway needs: reading a body, answering, noticing a hang-up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self

from serve_apps.gateway import openai_errors
from serve_apps.gateway.openai_errors import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


class StalledReaderError(ConnectionError):
    """A caller took nothing for too long; the server in front ends its connection."""


def patient(send: Send, limit_s: float) -> Send:
    """`send`, which raises StalledReaderError when a message is not taken within `limit_s`."""

    async def sending(message: Message) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await send(message)
        except TimeoutError as error:
            raise StalledReaderError(f"nothing was taken for {limit_s:g} s") from error

    return sending


def path_of(scope: Scope) -> str:
    """The path below the prefix that the server in front mounted the application at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/")) or "/"


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | Refusal | None:
    """The whole request body; a refusal above `limit` bytes; None when the caller is gone."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if declared.isdigit() and int(declared) > limit:
        return openai_errors.body_too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return openai_errors.body_too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def send_whole(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """A complete answer with its length."""
    await send(start_message(status, [*headers, (b"content-length", str(len(body)).encode())]))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_refusal(send: Send, refusal: Refusal, headers: RawHeaders) -> None:
    """The envelope with its status and headers."""
    await send_whole(send, refusal.status, [*refusal.headers(), *headers], refusal.body())


async def send_json(send: Send, value: Any, headers: RawHeaders) -> None:
    """200 with a JSON body."""
    typed = [(b"content-type", b"application/json"), *headers]
    await send_whole(send, 200, typed, json.dumps(value).encode())


def start_message(status: int, headers: RawHeaders) -> Message:
    """The ASGI message that begins an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers}


class HangUp:
    """Cancels the body of an `async with` when the caller goes away, and ends it quietly.

    Under Ray Serve the server cancels by itself as well: that cancellation is passed on.
    `happened` tells afterwards whether the caller was the one who left.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._over = False
        self.happened = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("HangUp needs a running task")
        self._task = task
        self._watch = asyncio.create_task(self._wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        self.ignore()
        self._watch.cancel()
        return self.happened and kind is asyncio.CancelledError and self._task.uncancel() == 0

    def ignore(self) -> None:
        """The answer is complete: what the caller does from here on changes nothing."""
        self._over = True

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._over:
            self.happened = True
            self._task.cancel()
