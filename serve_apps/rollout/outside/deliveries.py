"""Telling receivers of a rollout: at least once, in order, and never in the way of a decision.

How far a receiver has been told is stored after it has answered. A controller that is killed in between tells
it the same moment again, with the same id; one that is killed before has lost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from cluster.state import deliveries
from cluster.state.database import Database
from cluster.state.deliveries import Progress
from cluster.state.tables import utc_now
from serve_apps.rollout.outside.message import Moment

TRIES = 12
"""So often a moment is told before it is given up: over about 20 minutes."""
FIRST = timedelta(seconds=1)
LONGEST = timedelta(minutes=5)

_log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Somebody outside; `name` is the same after a restart, and no secret."""

    @property
    def name(self) -> str:
        """What it is known by."""

    def wants(self, moment: Moment, /) -> bool:
        """Whether it is told of this."""

    async def deliver(self, moment: Moment, /) -> str | None:
        """Tell it; the reason where it was not taken. Never raises for a fault of the receiver."""


def settled(before: Progress, sequence: int) -> Progress:
    """The moment is done with."""
    return before.model_copy(update={"settled": sequence, "tries": 0, "not_before": None})


def failed(before: Progress, sequence: int, reason: str, now: datetime) -> Progress:
    """The moment was not taken: try again after a pause that doubles, and give up in the end."""
    tries = before.tries + 1
    if tries >= TRIES:
        given_up = settled(before, sequence)
        return given_up.model_copy(update={"given_up": before.given_up + 1, "last_error": reason})
    pause = min(FIRST * 2 ** (tries - 1), LONGEST)
    return before.model_copy(update={"tries": tries, "not_before": now + pause, "last_error": reason})


def pause(progress: Progress, now: datetime) -> timedelta:
    """How long the next try waits; a clock that was set back makes it no longer than the longest pause."""
    if progress.not_before is None:
        return timedelta(0)
    return max(timedelta(0), min(progress.not_before - now, LONGEST))


class Delivery:
    """Tells one receiver of one rollout.

    `waiting` returns the moments after a sequence number, in order, the first of a rollout after 0; it is
    called in a thread.
    """

    def __init__(
        self,
        database: Database,
        receiver: Receiver,
        rollout: int,
        waiting: Callable[[int], Sequence[Moment]],
        *,
        clock: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._receiver = receiver
        self._rollout = rollout
        self._waiting = waiting
        self._clock = clock
        self._sleep = sleep

    async def drain(self) -> None:
        """Tell all that waits, trying again as long as there is hope."""
        progress = await asyncio.to_thread(self._read)
        while moments := await asyncio.to_thread(self._waiting, progress.settled):
            for moment in moments:
                progress = await self._settle(progress, moment)

    async def _settle(self, progress: Progress, moment: Moment) -> Progress:
        while progress.settled < moment.sequence:
            if not self._receiver.wants(moment):
                progress = settled(progress, moment.sequence)
            else:
                await self._sleep(pause(progress, self._clock()).total_seconds())
                progress = await self._try(progress, moment)
            await asyncio.to_thread(self._write, progress)
        return progress

    async def _try(self, progress: Progress, moment: Moment) -> Progress:
        reason = await self._receiver.deliver(moment)
        if reason is None:
            return settled(progress, moment.sequence)
        after = failed(progress, moment.sequence, reason, self._clock())
        if after.settled == moment.sequence:
            _log.error("%s was never told of %r: %s", self._receiver.name, moment.event, reason)
        return after

    def _read(self) -> Progress:
        with self._database.snapshot() as session:
            return deliveries.get(session, self._receiver.name, self._rollout)

    def _write(self, progress: Progress) -> None:
        with self._database.transaction() as session:
            deliveries.put(session, progress)
