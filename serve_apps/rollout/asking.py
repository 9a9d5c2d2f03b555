"""Asks outsiders in the background, so that no look waits for them: held-out sets, Prometheus, webhooks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial

import aiohttp

from cluster.errors import LinnetError
from cluster.state.database import Database
from serve_apps.rollout import given_up
from serve_apps.rollout.followed import Followed
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.looks import Told
from serve_apps.rollout.outside import notes
from serve_apps.rollout.outside.config import WebhookKind
from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.keeping_on import keep_on
from serve_apps.rollout.questioning import Questioner
from serve_apps.rollout.reading import Facts
from serve_apps.rollout.telling import Telling


class Asking:
    """`url` is the endpoint's, for held-out questions; `given_up` says why Serve does not start a version.

    Begins at once, in a thread of its own.
    """

    def __init__(
        self,
        database: Database,
        url: str,
        environ: Mapping[str, str],
        given_up: Callable[[str, str], str] = given_up.by_nobody,
    ) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._followed: dict[int, Followed] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="linnet-asking", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(_session(), self._loop).result()
        self._questioner = Questioner(url, self._session, environ, given_up)
        self._telling = asyncio.run_coroutine_threadsafe(self._begin_telling(environ), self._loop).result()

    def follow(self, facts: Facts) -> None:
        """Ask what this rollout needs at this step, unless that is under way."""
        with self._lock:
            followed = self._followed.get(facts.id)
            if followed is not None:
                if followed.facts.state != facts.state:
                    self._telling.news()
                followed.facts = facts
                return
            followed = self._followed[facts.id] = Followed(facts)
        self._telling.news()
        asyncio.run_coroutine_threadsafe(self._begin(followed), self._loop).result()

    def only(self, active: Collection[int]) -> None:
        """Ask nobody any more for rollouts that are over; their last events are still told."""
        with self._lock:
            over = [self._followed.pop(rollout) for rollout in [*self._followed] if rollout not in active]
        if over:
            self._loop.call_soon_threadsafe(_cancel, over)
            self._telling.news()

    def told(self, facts: Facts) -> dict[str, Told]:
        """What has come since the last look that was stored, one thing a gate."""
        return self._followed[facts.id].told()

    def taken(self, facts: Facts, told: dict[str, Told]) -> None:
        """What was told is stored with a look."""
        self._followed[facts.id].taken(told)

    def confirmation(self, facts: Facts) -> tuple[bool, str]:
        """Whether all agree to the next step, and who does not yet."""
        return self._followed[facts.id].confirmation(facts)

    def given_up(self, facts: Facts) -> str:
        """Why Serve does not try to start the candidate any more; empty while it does."""
        return self._followed[facts.id].given_up

    def close(self) -> None:
        """Ask nobody any more."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _begin(self, followed: Followed) -> None:
        spec = followed.facts.spec
        self._start(followed, "Serve", partial(self._questioner.start, followed), _goes_on)
        for gate in spec.gates:
            work = self._asks(followed, gate)
            if work is not None:
                self._start(followed, gate.name, work, partial(followed.cannot_ask, gate))
        for hook in spec.webhooks:
            if hook.kind is not WebhookKind.EVENT:
                work = partial(self._questioner.confirm, followed, hook)
                self._start(followed, hook.url, work, partial(followed.cannot_confirm, hook))

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

    async def _begin_telling(self, environ: Mapping[str, str]) -> Telling:
        return Telling(self._database, self._session, environ)

    async def _end(self) -> None:
        _cancel(self._followed.values())
        asked = [task for followed in self._followed.values() for task in followed.tasks]
        await asyncio.gather(*asked, return_exceptions=True)
        await self._telling.end()
        await self._session.close()


def _goes_on(_why: str) -> None:
    """While Serve cannot be asked, the candidate has until its `start_deadline`."""


async def _session() -> aiohttp.ClientSession:
    return new_session()


def _cancel(over: Iterable[Followed]) -> None:
    for followed in over:
        for task in followed.tasks:
            task.cancel()
