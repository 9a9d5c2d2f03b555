"""Header values as Ray Serve expects them: it decodes some as UTF-8, and answers 500 where they are not.

Serve's hook for middlewares around its own handling of a request, by the name in VARIABLE, calls
`middlewares`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.middleware import Middleware

from serve_apps.gateway.asgi import RawHeaders, Receive, Scope, Send

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
HOOK = "serve_apps.gateway.utf8_headers.middlewares"

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Utf8Headers:
    """Bytes that are no UTF-8 are Latin-1, which is what HTTP once meant by them."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its headers in UTF-8."""
        if scope["type"] == "http":
            scope["headers"] = in_utf8(scope["headers"])
        await self._app(scope, receive, send)


def in_utf8(headers: RawHeaders) -> RawHeaders:
    """The same headers; values that are UTF-8 already stay as they are."""
    return [(name, value if value.isascii() else _recoded(value)) for name, value in headers]


def middlewares() -> list[Middleware]:
    """What Serve puts around the gateway."""
    return [Middleware(Utf8Headers)]


def _recoded(value: bytes) -> bytes:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value
