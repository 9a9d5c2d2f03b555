"""Which replica of a version takes a request: the least busy one that has not just failed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from serve_apps.gateway.directory import Replica

AVOID_S = 1.0
OUT = 2
"""Strikes after which a replica is out of the question for one request."""


class Balancer:
    """Counts requests in flight for each replica and remembers who refused a connection."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight: Counter[str] = Counter()
        self._avoided: dict[str, float] = {}

    def pick(self, replicas: Sequence[Replica], strikes: Mapping[str, int]) -> Replica | None:
        """The replica with fewest strikes by this request, then least in flight, ties at random."""
        now = self._clock()
        usable = [r for r in replicas if strikes.get(r.id, 0) < OUT and self._avoided.get(r.id, now) <= now]
        if not usable:
            return None
        rank = [(strikes.get(r.id, 0), self._in_flight[r.id]) for r in usable]
        best = min(rank)
        return random.choice([r for r, place in zip(usable, rank, strict=True) if place == best])

    def enter(self, replica_id: str) -> None:
        """A request goes to the replica."""
        self._in_flight[replica_id] += 1

    def leave(self, replica_id: str) -> None:
        """That request is over."""
        self._in_flight[replica_id] -= 1
        if self._in_flight[replica_id] <= 0:
            del self._in_flight[replica_id]

    def avoid(self, replica_id: str) -> None:
        """Nobody is sent to the replica for the next second."""
        now = self._clock()
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        self._avoided[replica_id] = now + AVOID_S
