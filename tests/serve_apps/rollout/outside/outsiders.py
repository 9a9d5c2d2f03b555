"""Real HTTP servers that stand for the world outside, and moments to tell them of."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.message import Moment

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SECRET = {"LINNET_WEBHOOK_SECRET": "hush"}


def moment(sequence: int = 1, **given) -> Moment:
    defaults = {
        "rollout": 7,
        "model": "smollm2",
        "candidate": "v3",
        "stable": "v2",
        "phase": "progressing",
        "step": 2,
        "weight": 25.0,
        "event": "smollm2: weight of v3 from 5% to 25%",
        "phase_before": "progressing",
        "weight_before": 5.0,
    }
    return Moment(sequence=sequence, **defaults | given)


@dataclass
class Outsider:
    """A server; `received` holds each request with its body."""

    url: str
    session: aiohttp.ClientSession
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@asynccontextmanager
async def outsider(handler: Handler) -> AsyncIterator[Outsider]:
    """Serve every path of a free port, with a session to ask it by."""
    found = Outsider("", new_session())

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        found.received.append(({name.lower(): value for name, value in request.headers.items()}, body))
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        await found.session.close()
        await runner.cleanup()


def says(status: int = 200, text: str = "", content_type: str = "text/plain", **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=content_type, headers=headers)

    return handler


async def hangs(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("never reached")


async def trickles(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for ever: each read succeeds, the answer never ends."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def breaks(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half")
    request.transport.abort()
    return response


async def floods(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


def nobody() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
