"""Asks outsiders in the background, so that no look waits for them: held-out sets, Prometheus, webhooks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from cluster.state.database import Database
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.looks import Told
from serve_apps.rollout.moments import moment_of, moments_after
from serve_apps.rollout.outside.config import Webhook, WebhookKind
from serve_apps.rollout.outside.deliveries import Delivery, Receiver
from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.outside.prometheus import PrometheusClient
from serve_apps.rollout.outside.quality.ask import EndpointClient
from serve_apps.rollout.outside.quality.held_out import HeldOut, read_held_out
from serve_apps.rollout.outside.quality.judge import JudgeClient
from serve_apps.rollout.outside.quality.scores import PairedScores
from serve_apps.rollout.outside.quality.scoring import score_round
from serve_apps.rollout.outside.slack import SlackClient
from serve_apps.rollout.outside.verdict import Answer, Verdict
from serve_apps.rollout.outside.webhooks import WebhookClient
from serve_apps.rollout.reading import Facts

ASK_EACH_S = 5.0
"""How often Prometheus and webhooks are asked."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """One rollout's tasks, and what they have heard; `confirmed` by webhook, with the step in question."""

    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    told: defaultdict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    confirmed: dict[str, tuple[int, Verdict, str]] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)
    telling: list[asyncio.Task[None]] = field(default_factory=list)
    facts: Facts | None = None


class Asking:
    """`url` is the endpoint's, for held-out questions. Begins at once, in a thread of its own."""

    def __init__(self, database: Database, url: str, environ: Mapping[str, str]) -> None:
        self._database = database
        self._url = url
        self._environ = environ
        self._lock = threading.Lock()
        self._followed: dict[int, _Followed] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="linnet-asking", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(_session(), self._loop).result()

    def follow(self, facts: Facts) -> None:
        """Ask what this rollout needs at this step, unless that is under way."""
        with self._lock:
            begun = facts.id in self._followed
            followed = self._followed.setdefault(facts.id, _Followed())
            followed.facts = facts
        if not begun:
            asyncio.run_coroutine_threadsafe(self._begin(followed, facts), self._loop).result()

    def only(self, active: Collection[int]) -> None:
        """Ask nobody any more for rollouts that are over; their last events are still told."""
        with self._lock:
            over = [followed for rollout, followed in self._followed.items() if rollout not in active]
            everybody = list(self._followed.values())
        self._loop.call_soon_threadsafe(_settle, over, everybody)

    def told(self, facts: Facts) -> dict[str, Told]:
        """What has come since the last look that was stored, one thing a gate."""
        with self._lock:
            return {name: heard[0] for name, heard in self._followed[facts.id].told.items() if heard}

    def taken(self, facts: Facts, told: dict[str, Told]) -> None:
        """What was told is stored with a look."""
        with self._lock:
            heard = self._followed[facts.id].told
            for name, one in told.items():
                # A newer word may have taken its place by now.
                heard[name][:] = [other for other in heard[name] if other is not one]

    def confirmation(self, facts: Facts) -> tuple[bool, str]:
        """Whether all agree to the next step, and who does not yet."""
        kind = WebhookKind.CONFIRM_START if facts.state.step < 0 else WebhookKind.CONFIRM_STEP
        with self._lock:
            heard = dict(self._followed[facts.id].confirmed)
        for hook in facts.spec.webhooks:
            if hook.kind is not kind:
                continue
            step, verdict, reason = heard.get(hook.url, (-2, Verdict.INCONCLUSIVE, "it has not answered yet"))
            if step != facts.state.step or verdict is not Verdict.PASS:
                return False, f"{hook.url} does not agree: {reason}"
        return True, ""

    def close(self) -> None:
        """Ask nobody any more."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _begin(self, followed: _Followed, facts: Facts) -> None:
        names = Names(facts.model, facts.state.candidate, facts.state.stable)
        for gate in facts.spec.gates:
            if gate.data is not None:
                self._start(followed, self._score(followed, gate, names))
            elif gate.prometheus is not None:
                self._start(followed, self._query(followed, gate, names))
            elif gate.webhook is not None:
                self._start(followed, self._ask_gate(followed, gate, gate.webhook))
        for hook in facts.spec.webhooks:
            if hook.kind is WebhookKind.EVENT:
                self._deliver(followed, facts.id, WebhookClient(hook, self._session, self._environ))
            else:
                self._start(followed, self._confirm(followed, hook))
        if facts.spec.slack is not None:
            slack = SlackClient(facts.spec.slack, self._session, self._environ)
            self._deliver(followed, facts.id, slack)

    def _start(self, followed: _Followed, work: Coroutine[Any, Any, None]) -> None:
        followed.tasks.append(self._loop.create_task(_outliving(work)))

    def _deliver(self, followed: _Followed, rollout: int, receiver: Receiver) -> None:
        delivery = Delivery(
            self._database, receiver, rollout, lambda after: moments_after(self._database, rollout, after)
        )
        followed.deliveries.append(delivery)
        followed.telling.append(self._loop.create_task(_outliving(delivery.run())))

    async def _score(self, followed: _Followed, gate: Gate, names: Names) -> None:
        quality = gate.quality()
        held_out = await asyncio.to_thread(read_held_out, quality)
        endpoint = EndpointClient(self._url, names.model, quality, self._session, self._environ)
        judge = JudgeClient(quality.judge, self._session, self._environ) if quality.judge else None
        while True:
            facts = followed.facts
            assert facts is not None
            began = self._loop.time()
            if not facts.signals.serving:
                await asyncio.sleep(1)
                continue
            round_ = facts.progress.rounds.get(gate.name, 0)
            scores = await score_round(quality, held_out, round_, names, endpoint=endpoint, judge=judge)
            if not scores.n:
                why = "; ".join(f"{count} times: {reason}" for reason, count in scores.missing.items())
                self._replace(followed, gate, Told(missing=f"no question was answered by either: {why}"))
                await asyncio.sleep(ASK_EACH_S)
                continue
            self._hear(followed, gate, Told(differences=_new(scores, held_out, round_, gate), round=round_))
            await asyncio.sleep(max(0.0, began + gate.every.total_seconds() - self._loop.time()))

    async def _query(self, followed: _Followed, gate: Gate, names: Names) -> None:
        client = PrometheusClient(gate.query(), self._session, self._environ)
        while True:
            answer = await client.read(names)
            self._replace(followed, gate, Told(answer=_plain(answer)))
            await asyncio.sleep(ASK_EACH_S)

    async def _ask_gate(self, followed: _Followed, gate: Gate, hook: Webhook) -> None:
        client = WebhookClient(hook, self._session, self._environ)
        while True:
            assert followed.facts is not None
            answer = await client.ask(moment_of(followed.facts))
            self._replace(followed, gate, Told(answer=answer))
            await asyncio.sleep(ASK_EACH_S)

    async def _confirm(self, followed: _Followed, hook: Webhook) -> None:
        client = WebhookClient(hook, self._session, self._environ)
        while True:
            facts = followed.facts
            assert facts is not None
            step = facts.state.step
            if (step < 0) == (hook.kind is WebhookKind.CONFIRM_START):
                answer = await client.ask(moment_of(facts))
                with self._lock:
                    followed.confirmed[hook.url] = step, answer.verdict, answer.reason
            await asyncio.sleep(ASK_EACH_S)

    def _hear(self, followed: _Followed, gate: Gate, told: Told) -> None:
        with self._lock:
            followed.told[gate.name].append(told)

    def _replace(self, followed: _Followed, gate: Gate, told: Told) -> None:
        """The newest word counts; what was said before and has not been looked at is out of date."""
        with self._lock:
            followed.told[gate.name][:] = [told]

    async def _end(self) -> None:
        tasks = [task for one in self._followed.values() for task in [*one.tasks, *one.telling]]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()


async def _session() -> aiohttp.ClientSession:
    return new_session()


async def _outliving(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        # Its gate stays inconclusive, which holds; the log says why.
        _log.exception("an outsider is asked no more")


def _settle(over: Iterable[_Followed], everybody: Iterable[_Followed]) -> None:
    for followed in over:
        for task in followed.tasks:
            task.cancel()
        followed.tasks.clear()
    for followed in everybody:
        for delivery in followed.deliveries:
            delivery.tell()


def _plain(answer: Answer) -> Answer:
    return Answer(verdict=answer.verdict, reason=answer.reason)


def _new(scores: PairedScores, held_out: HeldOut, round_: int, gate: Gate) -> tuple[tuple[float, int], ...]:
    """The differences of questions that no earlier round has asked: the others show nothing new."""
    part = held_out.part(round_, gate.sample, gate.seed)
    fresh = {question.index for question in part.questions[: len(part.questions) - part.repeated]}
    found = Counter(
        difference
        for difference, index in zip(scores.differences, scores.indices, strict=True)
        if index in fresh
    )
    return tuple(sorted(found.items()))
