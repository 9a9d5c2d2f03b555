"""A gateway of a few lines that follows the real state database, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from cluster.demo.client import MODEL
from cluster.registry import ModelStore
from cluster.state import policies
from cluster.traffic import route


@dataclass
class SplitGateway:
    """Answers as the gateway does: pin, else split. `answers[version]` is what a version says.

    A prompt `fail` is refused with 503, `break` ends a stream before its end, `error` ends one with an
    error event, `nameless` names no version.
    """

    store: ModelStore
    answers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["messages"][-1]["content"]
        self.seen.append(
            {"prompt": prompt, **{name.lower(): value for name, value in request.headers.items()}}
        )
        version = request.headers.get("x-linnet-version") or self._split(request.headers["x-linnet-key"])
        if prompt == "fail":
            return web.json_response({"error": {"message": "no replica"}}, status=503)
        headers = {} if prompt == "nameless" else {"x-linnet-version": version}
        text = self.answers.get(version, "Positive.")
        if body["stream"]:
            return await self._stream(request, text, headers, prompt)
        return web.json_response({"choices": [{"message": {"content": text}}]}, headers=headers)

    async def _stream(
        self, request: web.Request, text: str, headers: dict[str, str], prompt: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "content-type": "text/event-stream"})
        await response.prepare(request)
        for part in (text[:2], text[2:]):
            chunk = json.dumps({"choices": [{"delta": {"content": part}}]})
            await response.write(f"data: {chunk}\n\n".encode())
        if prompt == "error":
            await response.write(b'data: {"error": {"message": "replica gone"}}\n\n')
        elif prompt != "break":
            await response.write(b"data: [DONE]\n\n")
        return response

    async def ready(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    def _split(self, key: str) -> str:
        with self.store.database.snapshot() as session:
            policy = policies.get(session, MODEL)
        assert policy is not None
        return route(policy, key)


@contextmanager
def served(gateway: SplitGateway) -> Iterator[SplitGateway]:
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", gateway.complete)
        app.router.add_get("/readyz", gateway.ready)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield gateway
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
