"""ASGI middleware of a replica: answers as the version that the gateway names.

The gateway passes bodies on as they are, and most name no version. So the version that it chose
is a header, which no caller can send: the gateway takes theirs away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

Message = MutableMapping[str, Any]

VERSION_HEADER = "x-linnet-version"
"""On a request to a replica: the version that is to answer."""

current: ContextVar[Any] = ContextVar("linnet_adapter", default=None)
"""The adapter that answers the request that is being handled, as the engine knows it; None for the base."""

_NAME = VERSION_HEADER.encode()


class AnswerAsVersion:
    """Wraps vLLM's application; `find` gives the adapter of a version, if the replica has it.

    One that it has not, or no longer, is answered by 503 without a body: the gateway then asks
    another replica. `answering` counts the requests of each version from here to their ends: the engine
    knows of one only once its body has been read.
    """

    def __init__(self, app: Any, own: str, find: Callable[[str], Any], answering: Counter[str]) -> None:
        self._app = app
        self._own = own
        self._find = find
        self._answering = answering

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Handle one request."""
        version = _asked(scope)
        if version in ("", self._own):
            await self._app(scope, receive, send)
            return
        adapter = self._find(version)
        if adapter is None:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        token = current.set(adapter)
        self._answering[version] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._answering[version] -= 1
            current.reset(token)


def _asked(scope: Message) -> str:
    if scope["type"] != "http":
        return ""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == _NAME), "")
