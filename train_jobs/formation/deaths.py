"""Processes that ended: the system knows at once of those of this node, Ray of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.recovery.classes import Signal
from train_jobs.formation import ray_signals
from train_jobs.formation.crew import Member
from train_jobs.formation.roster import Roster

_ANSWER_WITHIN_S = 0.05
# A ping costs the worker that computes, too.
_PING_EVERY_S = 0.5


class Deaths:
    """Tells `roster` of each; `act` is called where that was not while somebody waited for `look`."""

    def __init__(self, roster: Roster, act: Callable[[], None], own_node: str) -> None:
        self._roster, self._act, self._own_node = roster, act, own_node
        self._pings: dict[str, asyncio.Task[None]] = {}
        self._pinged_at = 0.0

    async def look(self, *, everywhere: bool = False) -> None:
        """Look at the members of this node, and now and then, or at once, at those of others.

        A ping that is not answered yet is left pending.
        """
        is_due = everywhere or time.monotonic() - self._pinged_at > _PING_EVERY_S
        if is_due:
            self._pinged_at = time.monotonic()
        living = [member for member in self._roster.members.values() if not member.is_dead]
        for member in living:
            joined = member.joined
            if joined.node_id == self._own_node:
                if not ray_signals.is_running(joined.pid):
                    told = f"pid {joined.pid} has ended"
                    self._roster.lost(joined.worker, Signal.PROCESS_EXIT, told, time.time())
            elif is_due and joined.worker not in self._pings:
                self._pings[joined.worker] = asyncio.create_task(self._ping(member))
        if self._pings:
            await asyncio.wait(self._pings.values(), timeout=_ANSWER_WITHIN_S)

    async def _ping(self, member: Member) -> None:
        worker = member.joined.worker
        try:
            await member.joined.handle.__ray_ready__.remote()
        except Exception as error:
            self._roster.lost(worker, Signal.PROCESS_EXIT, ray_signals.death(error), time.time())
            self._act()
        finally:
            self._pings.pop(worker, None)
