"""Copies of requests that stable has answered, sent to the candidate; nobody gets their answers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from cluster.traffic import TrafficPolicy
from serve_apps.gateway import headers
from serve_apps.gateway.admission import Admission
from serve_apps.gateway.answer_text import AnswerText
from serve_apps.gateway.asgi import RawHeaders
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.observation import Notes
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.tally import Seen, Shadowed
from serve_apps.gateway.text_checks import LIMIT
from serve_apps.gateway.trace import UNTRACED
from serve_apps.gateway.upstream import Answer, Call, Upstream

IN_FLIGHT = 2
"""Copies of one model's requests that a gateway has under way."""

_TRACED_BY = ("traceparent", "tracestate")
_HTTP_OK = 200

_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a copy; the values are metric labels."""

    ANSWERED = "answered"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Copy:
    """A request that was answered. `compare` is given the text of the candidate's answer."""

    policy: TrafficPolicy
    candidate: str
    route: str
    headers: RawHeaders
    request_id: bytes
    body: bytes
    compare: Callable[[str], None]


class Shadower:
    """Lives in one event loop. Callers come first: a copy is sent only where none of them has to wait."""

    def __init__(
        self,
        config: GatewayConfig,
        upstream: Upstream,
        admission: Admission,
        metrics: GatewayMetrics,
        saw: Callable[[TrafficPolicy, Seen], None],
    ) -> None:
        self._config = config
        self._upstream = upstream
        self._admission = admission
        self._metrics = metrics
        self._saw = saw
        self._in_flight: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, copy: Copy) -> None:
        """Send it, unless there is too much to do; returns at once."""
        choice = Choice(copy.policy.model, copy.candidate)
        if self._in_flight[choice.model] >= IN_FLIGHT or not self._admission.has_spare(choice):
            self._metrics.shadowed(choice.model, choice.version, Outcome.DROPPED)
            return
        self._in_flight[choice.model] += 1
        task = asyncio.create_task(self._shadow(copy, choice), name="linnet-shadow")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Wait for none of them any longer."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _shadow(self, copy: Copy, choice: Choice) -> None:
        outcome = Outcome.FAILED
        try:
            outcome = await self._send(copy, choice)
        except Exception:
            _log.exception("the copy of request %s failed in the gateway", copy.request_id.decode())
        finally:
            self._in_flight[choice.model] -= 1
            self._metrics.shadowed(choice.model, choice.version, outcome)

    async def _send(self, copy: Copy, choice: Choice) -> Outcome:
        answer = await self._upstream.try_once(self._call(copy, choice))
        if answer is None:
            return Outcome.DROPPED
        if isinstance(answer, Answer):
            answer.close()
        if not isinstance(answer, Answer) or answer.streams or answer.status != _HTTP_OK:
            self._saw(copy.policy, Shadowed(answered=False))
            return Outcome.FAILED
        self._saw(copy.policy, Shadowed(answered=True))
        text = AnswerText(LIMIT)
        text.add(answer.first)
        copy.compare(next(iter(text.texts()), ""))
        return Outcome.ANSWERED

    def _call(self, copy: Copy, choice: Choice) -> Call:
        forwarded = headers.forwarded(copy.headers, b"shadow-" + copy.request_id, choice.version)
        for name in _TRACED_BY:
            forwarded.popall(name, None)
        return Call(
            choice=choice,
            path=copy.route,
            headers=forwarded,
            body=_unstreamed(copy.body),
            deadline=asyncio.get_running_loop().time() + self._config.request_timeout_s,
            patience_s=0.0,
            cold_s=0.0,
            notes=Notes([], copy.request_id, copy.route),
            trace=UNTRACED,
        )


def _unstreamed(body: bytes) -> bytes:
    """The same request for a whole answer."""
    asked: dict[str, Any] = msgspec.json.decode(body)
    asked.pop("stream_options", None)
    return msgspec.json.encode(asked | {"stream": False})
