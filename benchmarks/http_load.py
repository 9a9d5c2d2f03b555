"""Callers that cost as little as they can, so that the server is what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any


class Caller(asyncio.Protocol):
    """One kept-alive connection that does as little per answer as it can."""

    def __init__(self) -> None:
        self._answer = bytearray()
        self._ends: bytes | None = None
        self.first_at = 0.0

    def connection_made(self, transport: Any) -> None:
        """Keep the transport to write to."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Note the first byte of the body and the end of the answer."""
        self._answer += data
        if not self.first_at and not self._answer.endswith(b"\r\n\r\n"):
            self.first_at = time.perf_counter()
        if self._complete() and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that ends before its answer fails the run."""
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("closed in mid-answer"))

    async def ask(self, request: bytes) -> float:
        """Send one request and read its whole answer; returns seconds to the first byte of the body."""
        self._answer.clear()
        self.first_at = 0.0
        self._done = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        self._transport.write(request)
        await self._done
        if not self._answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(bytes(self._answer[:300]).decode())
        return (self.first_at or time.perf_counter()) - started

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _complete(self) -> bool:
        if self._answer.endswith(b"\r\n0\r\n\r\n"):
            return True
        head, gap, body = self._answer.partition(b"\r\n\r\n")
        mark = head.lower().find(b"content-length: ")
        return bool(gap) and mark >= 0 and len(body) == int(head[mark + 16 :].split(b"\r\n", 1)[0])


async def load(port: int, callers: Sequence[Sequence[bytes]], seconds: float) -> tuple[float, list[float]]:
    """Callers who repeat their requests in turn; requests per second, and seconds to each first byte.

    A request is the whole of it as it goes over the wire, HTTP/1.1 and kept alive.
    """
    until = time.perf_counter() + seconds

    async def one(requests: Sequence[bytes]) -> list[float]:
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", port)
        firsts = []
        while time.perf_counter() < until:
            firsts.append(await caller.ask(requests[len(firsts) % len(requests)]))
        caller.close()
        return firsts

    began = time.perf_counter()
    firsts = [t for group in await asyncio.gather(*map(one, callers)) for t in group]
    return len(firsts) / (time.perf_counter() - began), firsts
