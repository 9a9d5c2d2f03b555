"""One HTTP call to somebody who may be slow, gone, or wrong: bounded in time and in bytes, never raising."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp

LARGEST = 64 * 1024
"""Bytes of an answer that are read, where nothing else is said."""

_REDIRECTS = range(300, 400)
# Below the 5 s after which uvicorn closes an idle connection, so that no call meets a closing one.
_KEEP_ALIVE_S = 4.0


@dataclass(frozen=True, slots=True)
class Call:
    """What is sent; `within` bounds all of it, `largest` is how many bytes of the answer are read."""

    url: str
    within: timedelta
    body: bytes | None = None
    form: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    largest: int = LARGEST


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, headers' names in lower case; `cut` where the body was longer than it is here."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool

    def text(self, most: int) -> str:
        """The beginning of the body as one line, without what would steer a terminal."""
        decoded = self.body.decode("utf-8", "replace")
        printable = "".join(letter if letter.isprintable() else " " for letter in decoded)
        return " ".join(printable.split())[:most]

    def json(self) -> Any:
        """The body's JSON. Raises ValueError, with the reason, for a body that is something else."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ValueError(f"its content-type is {kind or 'missing'}, not application/json")
        if self.cut:
            raise ValueError(f"it is longer than {len(self.body)} bytes")
        try:
            return json.loads(self.body, object_pairs_hook=_without_repeats)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class NoReply:
    """There was no whole answer; `late` where time ran out, else it was a connection that failed."""

    reason: str
    late: bool = False


def new_session() -> aiohttp.ClientSession:
    """A session that keeps no cookies and unpacks nothing, so that a small answer stays small.

    The caller closes it.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(keepalive_timeout=_KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Accept-Encoding": "identity", "User-Agent": "linnet"},
    )


async def post(session: aiohttp.ClientSession, call: Call) -> Reply | NoReply:
    """Send it. A redirect is not followed: what is signed, or secret, is for its receiver alone."""
    try:
        async with asyncio.timeout(call.within.total_seconds()):
            reply = await _exchange(session, call)
    except TimeoutError:
        return NoReply(f"there was no whole answer within {call.within.total_seconds():g} s", late=True)
    except (aiohttp.ClientError, OSError) as error:
        return NoReply(f"there was no answer: {error or type(error).__name__}")
    if reply.status in _REDIRECTS:
        return NoReply(f"the answer is a redirect ({reply.status}), which is not followed")
    return reply


async def _exchange(session: aiohttp.ClientSession, call: Call) -> Reply:
    data = call.body if call.form is None else aiohttp.FormData(dict(call.form))
    async with session.post(call.url, data=data, headers=call.headers, allow_redirects=False) as response:
        body = await _read(response, call.largest)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, headers, body[: call.largest], len(body) > call.largest)


async def _read(response: aiohttp.ClientResponse, largest: int) -> bytes:
    """The body up to one byte more than `largest`; leaving the block closes what is unread."""
    body = bytearray()
    while len(body) <= largest and (chunk := await response.content.read(largest + 1 - len(body))):
        body += chunk
    return bytes(body)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
