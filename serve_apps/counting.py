"""ASGI middleware of a replica: counts the requests that its callers send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class CountRequests:
    """Whoever looks at a replica's health or metrics asks nothing of its engine, and is not counted."""

    def __init__(self, app: Any, count: Callable[[], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Count and pass on."""
        if scope["type"] == "http" and scope["method"] == "POST":
            self._count()
        await self._app(scope, receive, send)
