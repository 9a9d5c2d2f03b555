"""Tells receivers of rollouts what was decided: also what a controller before this one has left untold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial

import aiohttp

from cluster.errors import LinnetError
from cluster.state.database import Database
from cluster.state.tables import utc_now
from serve_apps.rollout.moments import moments_after
from serve_apps.rollout.outside import notes
from serve_apps.rollout.outside.deliveries import Delivery
from serve_apps.rollout.outside.keeping_on import keep_on
from serve_apps.rollout.untold import ReceiverConfig, Untold, client, untold, who

LOOK_EACH_S = 5.0
"""How often it is looked for what is untold, besides when something is known to be new."""

_log = logging.getLogger(__name__)


class Telling:
    """One task for each receiver of a rollout that has something to be told; none for the others.

    Made and used in the event loop's thread, but for `news`.
    """

    def __init__(
        self, database: Database, session: aiohttp.ClientSession, environ: Mapping[str, str]
    ) -> None:
        self._database = database
        self._session = session
        self._environ = environ
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._tasks: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._known: dict[int, tuple[ReceiverConfig, ...]] = {}
        self._looking = self._loop.create_task(self._look_again_and_again())

    def news(self) -> None:
        """Something was decided; may be called in any thread, and returns at once."""
        self._loop.call_soon_threadsafe(self._news.set)

    async def end(self) -> None:
        """Tell nobody any more."""
        tasks = [self._looking, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_again_and_again(self) -> None:
        while True:
            self._news.clear()
            try:
                self._tell(await asyncio.to_thread(self._read, utc_now()))
            except Exception:
                _log.exception("it is not known for now what is untold")
            try:
                async with asyncio.timeout(LOOK_EACH_S):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _read(self, now: datetime) -> list[Untold]:
        with self._database.snapshot() as session:
            found, self._known = untold(session, now, self._known)
        return found

    def _tell(self, found: Iterable[Untold]) -> None:
        for one in found:
            if one.key not in self._tasks:
                task = self._loop.create_task(keep_on(partial(self._deliver, one), partial(self._note, one)))
                self._tasks[one.key] = task
                task.add_done_callback(partial(self._is_told, one.key))

    def _is_told(self, key: tuple[int, str], _task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        # What was decided while the last moment was being told has found this task still there.
        self._news.set()

    async def _deliver(self, one: Untold) -> None:
        receiver = client(one.receiver, self._session, self._environ)
        waiting = partial(moments_after, self._database, one.rollout)
        await Delivery(self._database, receiver, one.rollout, waiting).drain()

    def _note(self, one: Untold, fault: LinnetError) -> None:
        notes.note(self._database, one.model, one.rollout, who(one.receiver), fault, what="told")
