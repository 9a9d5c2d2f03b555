"""Callers of the endpoint: one question, many at once, or a few callers that never stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

MODEL = "smollm2"
ANSWER_TIMEOUT_S = 120.0
_PROMPTS = (
    "The soup was cold and the bill was wrong. Is that good or bad?",
    "Best two hours I have spent this year. Is that good or bad?",
    "Name a colour.",
    "What is the capital of France?",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One chat completion to ask for, greedily; `pin` asks for an exact version, `system` may be empty."""

    key: str
    prompt: str
    max_tokens: int
    stream: bool = False
    pin: str = ""
    system: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question. Times in unix seconds; `answered` is when the headers came.

    `error` is empty when the answer was complete: a stream up to `[DONE]`, a version named.
    """

    question: Question
    started: float
    answered: float
    version: str
    status: int
    text: str
    error: str


async def ask(session: aiohttp.ClientSession, base_url: str, question: Question) -> Answer:
    """Ask once; what goes wrong is told in the answer, never raised."""
    started = time.time()
    answered, version, status, text = 0.0, "", 0, ""
    try:
        async with session.post(
            f"{base_url}/v1/chat/completions", json=_body(question), headers=_headers(question)
        ) as response:
            answered, status = time.time(), response.status
            version = response.headers.get("x-linnet-version", "")
            text, error = await _read(response, question)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    if not error and not version:
        error = "the answer names no version"
    return Answer(question, started, answered, version, status, text, error)


async def ask_all(base_url: str, questions: Iterable[Question], concurrency: int) -> list[Answer]:
    """Ask every question, so many at a time; the answers come in the order of the questions."""
    gate = asyncio.Semaphore(concurrency)
    async with new_session() as session:

        async def one(question: Question) -> Answer:
            async with gate:
                return await ask(session, base_url, question)

        return await asyncio.gather(*map(one, questions))


def new_session() -> aiohttp.ClientSession:
    """A session whose requests end after ANSWER_TIMEOUT_S."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S))


def _body(question: Question) -> dict[str, Any]:
    system = [{"role": "system", "content": question.system}] if question.system else []
    return {
        "model": MODEL,
        "messages": [*system, {"role": "user", "content": question.prompt}],
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": question.stream,
    }


def _headers(question: Question) -> dict[str, str]:
    headers = {"x-linnet-key": question.key}
    return {**headers, "x-linnet-version": question.pin} if question.pin else headers


async def _read(response: aiohttp.ClientResponse, question: Question) -> tuple[str, str]:
    """The text, and what was wrong with the answer."""
    if response.status != 200:
        return "", f"status {response.status}: {(await response.text())[:300]}"
    if question.stream:
        return await _read_stream(response)
    return str((await response.json())["choices"][0]["message"]["content"] or ""), ""


async def _read_stream(response: aiohttp.ClientResponse) -> tuple[str, str]:
    parts: list[str] = []
    async for line in response.content:
        data = line.strip().removeprefix(b"data: ")
        if not data:
            continue
        if data == b"[DONE]":
            return "".join(parts), ""
        event = json.loads(data)
        if "error" in event:
            return "".join(parts), f"the stream ended with an error: {event['error'].get('message')}"
        parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
    return "".join(parts), "the stream ended without [DONE]"


class BackgroundClient:
    """A few callers in a thread, streaming and unary in turn, until they are told to stop.

    `answers` grows as they come. Every caller draws the next of `keys`, round and round.
    """

    def __init__(self, base_url: str, keys: Sequence[str], callers: int = 2, pause_s: float = 0.3) -> None:
        self.answers: list[Answer] = []
        self._base_url, self._callers, self._pause_s = base_url, callers, pause_s
        self._questions = (
            Question(key, _PROMPTS[number % len(_PROMPTS)], max_tokens=8, stream=number % 2 == 0)
            for number, key in enumerate(itertools.cycle(keys))
        )
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="demo-client", daemon=True)

    def start(self) -> None:
        """Begin to call."""
        self._thread.start()

    def stop(self, patience_s: float = ANSWER_TIMEOUT_S) -> None:
        """Ask nothing more; what is under way may take `patience_s`, then it is dropped uncounted."""
        if self._thread.ident is None or self._loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(patience_s)
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._drop)
            self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._call())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _call(self) -> None:
        async with new_session() as session:
            await asyncio.gather(*(self._call_on(session) for _ in range(self._callers)))

    async def _call_on(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping.is_set():
            self.answers.append(await ask(session, self._base_url, next(self._questions)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._pause_s)

    def _drop(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
