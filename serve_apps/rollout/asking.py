"""Asks outsiders in the background, so that no look waits for them: held-out sets, Prometheus, webhooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from cluster.errors import LinnetError
from cluster.state.database import Database
from serve_apps.rollout.followed import Followed
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.looks import Told
from serve_apps.rollout.moments import moments_after
from serve_apps.rollout.outside import notes
from serve_apps.rollout.outside.config import WebhookKind
from serve_apps.rollout.outside.deliveries import Delivery, Receiver
from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.keeping_on import keep_on
from serve_apps.rollout.outside.slack import SlackClient
from serve_apps.rollout.outside.webhooks import WebhookClient
from serve_apps.rollout.questioning import Questioner
from serve_apps.rollout.reading import Facts


@dataclass(slots=True)
class _Telling:
    """One rollout's receivers."""

    deliveries: list[Delivery] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Asking:
    """`url` is the endpoint's, for held-out questions. Begins at once, in a thread of its own."""

    def __init__(self, database: Database, url: str, environ: Mapping[str, str]) -> None:
        self._database = database
        self._environ = environ
        self._lock = threading.Lock()
        self._followed: dict[int, Followed] = {}
        self._told: dict[int, _Telling] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="linnet-asking", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(_session(), self._loop).result()
        self._questioner = Questioner(url, self._session, environ)

    def follow(self, facts: Facts) -> None:
        """Ask what this rollout needs at this step, unless that is under way."""
        with self._lock:
            followed = self._followed.get(facts.id)
            if followed is not None:
                followed.facts = facts
                return
            followed = self._followed[facts.id] = Followed(facts)
        asyncio.run_coroutine_threadsafe(self._begin(followed), self._loop).result()

    def only(self, active: Collection[int]) -> None:
        """Ask nobody any more for rollouts that are over; their last events are still told."""
        with self._lock:
            over = [self._followed.pop(rollout) for rollout in [*self._followed] if rollout not in active]
        self._loop.call_soon_threadsafe(self._settle, over)

    def told(self, facts: Facts) -> dict[str, Told]:
        """What has come since the last look that was stored, one thing a gate."""
        return self._followed[facts.id].told()

    def taken(self, facts: Facts, told: dict[str, Told]) -> None:
        """What was told is stored with a look."""
        self._followed[facts.id].taken(told)

    def confirmation(self, facts: Facts) -> tuple[bool, str]:
        """Whether all agree to the next step, and who does not yet."""
        return self._followed[facts.id].confirmation(facts)

    def close(self) -> None:
        """Ask nobody any more."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _begin(self, followed: Followed) -> None:
        spec = followed.facts.spec
        for gate in spec.gates:
            work = self._asks(followed, gate)
            if work is not None:
                self._start(followed, gate.name, work, partial(followed.cannot_ask, gate))
        for hook in spec.webhooks:
            if hook.kind is WebhookKind.EVENT:
                self._deliver(followed, hook.url, partial(WebhookClient, hook, self._session, self._environ))
            else:
                work = partial(self._questioner.confirm, followed, hook)
                self._start(followed, hook.url, work, partial(followed.cannot_confirm, hook))
        if spec.slack is not None:
            self._deliver(followed, "Slack", partial(SlackClient, spec.slack, self._session, self._environ))

    def _asks(self, followed: Followed, gate: Gate) -> Callable[[], Awaitable[None]] | None:
        if gate.data is not None:
            return partial(self._questioner.score, followed, gate)
        if gate.prometheus is not None:
            return partial(self._questioner.query, followed, gate)
        if gate.webhook is not None:
            return partial(self._questioner.ask, followed, gate, gate.webhook)
        return None

    def _start(
        self, followed: Followed, who: str, work: Callable[[], Awaitable[None]], cannot: Callable[[str], None]
    ) -> None:
        facts = followed.facts

        def tell(fault: LinnetError) -> None:
            cannot(fault.message)
            notes.note(self._database, facts.model, facts.id, who, fault)

        followed.tasks.append(self._loop.create_task(keep_on(work, tell)))

    def _deliver(self, followed: Followed, who: str, receiver: Callable[[], Receiver]) -> None:
        model, rollout = followed.facts.model, followed.facts.id
        telling = self._told.setdefault(rollout, _Telling())

        async def deliver() -> None:
            delivery = Delivery(
                self._database,
                receiver(),
                rollout,
                lambda after: moments_after(self._database, rollout, after),
            )
            telling.deliveries.append(delivery)
            await delivery.run()

        def tell(fault: LinnetError) -> None:
            notes.note(self._database, model, rollout, who, fault, what="told")

        telling.tasks.append(self._loop.create_task(keep_on(deliver, tell)))

    def _settle(self, over: Iterable[Followed]) -> None:
        for followed in over:
            for task in followed.tasks:
                task.cancel()
        for telling in self._told.values():
            for delivery in telling.deliveries:
                delivery.tell()

    async def _end(self) -> None:
        asked = [task for one in self._followed.values() for task in one.tasks]
        tasks = [*asked, *(task for one in self._told.values() for task in one.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()


async def _session() -> aiohttp.ClientSession:
    return new_session()
