"""ASGI middleware of a replica: nobody but the gateway, and nothing but what it passes on.

Replicas listen on the endpoint's own port. vLLM's own check covers some of its routes and not others
that generate too, such as `/invocations`, or that tell, such as `/metrics`.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve_apps.gateway.routes import PROXIED

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class GatewayOnly:
    """Outermost around vLLM's application. Without a `key` anybody may ask, as without `auth`."""

    def __init__(self, app: Any, key: str | None) -> None:
        self._app = app
        self._bearer = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or not self._knows(scope):
            await _refuse(scope, send, 401, "This replica answers its gateway alone.", "invalid_api_key")
        elif _route(scope) not in PROXIED:
            await _refuse(scope, send, 404, "A replica has no such route.", "not_found")
        else:
            await self._app(scope, receive, send)

    def _knows(self, scope: Message) -> bool:
        if self._bearer is None:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._bearer)


def _route(scope: Message) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


async def _refuse(scope: Message, send: Send, status: int, message: str, code: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
