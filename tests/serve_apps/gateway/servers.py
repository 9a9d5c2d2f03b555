"""Real servers in threads for the gateway's tests: engines that can be told to fail, and uvicorn."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn
from aiohttp import web

from serve_apps.gateway.directory import Replica
from serve_apps.replay.wire import RESUME_TYPE, unpack

DEADLINE_S = 20.0
T = TypeVar("T")
Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def eventually(holds: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"never came true: {what}")
        time.sleep(0.01)


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.submit(coroutine).result(DEADLINE_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(text: str, version: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": version, "choices": [choice]}
    )


async def begin_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response


@dataclass
class Engine:
    """Speaks enough OpenAI to be told from another; `behaviour` replaces its answers."""

    version: str
    loop: LoopThread
    behaviour: Behaviour | None = None
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when a handler was cancelled because its caller left."""

    def start(self, port: int = 0) -> None:
        self.loop.run(self._start(port))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/_versions/m/{self.version}"

    def stop(self) -> None:
        self.loop.run(self._runner.cleanup())

    async def _start(self, port: int) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/_versions/m/" + self.version + "/v1/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests.append(({k.lower(): v for k, v in request.headers.items()}, raw))
        resumes = request.content_type == RESUME_TYPE
        body = json.loads(unpack(raw)[1] if resumes else raw)
        try:
            if self.behaviour is not None:
                return await self.behaviour(request, body)
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self.gone.set()
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any], **extra: Any) -> web.StreamResponse:
        if body.get("stream"):
            response = await begin_stream(request)
            for text in ("Hello", " from ", self.version):
                await response.write(chunk(text, self.version))
            await response.write(b"data: [DONE]\n\n")
            return response
        message = {"role": "assistant", "content": f"Hello from {self.version}"}
        choice = {"index": 0, "message": message, "text": message["content"], "finish_reason": "stop"}
        kind = "chat.completion" if "chat" in request.path else "text_completion"
        return web.json_response(
            {"id": "c", "object": kind, "created": 1, "model": self.version, "choices": [choice], **extra},
            headers={"X-Request-Id": "from-the-engine", "X-Engine": "yes", "Server": "engine"},
        )


class TableDirectory:
    """A directory that a test fills by hand."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], tuple[Replica, ...]] = {}
        self.heard = True
        self.beside: tuple[str, ...] = ()
        self.plans: dict[tuple[str, str], int] = {}
        self.sleepers: set[tuple[str, str]] = set()
        self.hosts: dict[tuple[str, str], str] = {}

    def put(self, model: str, version: str, *base_urls: str) -> None:
        self.table[model, version] = tuple(Replica(id=url, base_url=url) for url in base_urls)

    def replicas(self, model: str, version: str) -> Sequence[Replica]:
        return self.table.get((model, version), ())

    def planned(self, model: str, version: str) -> int | None:
        return self.plans.get((model, version))

    def may_sleep(self, model: str, version: str) -> bool:
        return (model, version) in self.sleepers

    def versions(self, model: str) -> Sequence[str]:
        return [version for name, version in self.table if name == model]

    def host(self, model: str, version: str) -> str:
        return self.hosts.get((model, version), version)

    def gateways(self) -> Sequence[str]:
        return self.beside

    def ready(self) -> bool:
        return self.heard


class UvicornThread:
    """An ASGI application served by uvicorn on a free port."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, port=0, log_level="error", ws="none", loop="uvloop")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started, "uvicorn has started")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
