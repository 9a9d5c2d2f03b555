"""Which replica of a version takes a request: the least busy one that has not just failed.

A spare one, such as one that stands by, is asked only where no other is fit for the request.

A replica that fails request after request has its circuit opened: it is asked only where there is no
other, until its time is over; then one more failure opens it for twice as long.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from serve_apps.gateway.directory import Replica
from serve_apps.gateway.strata import NEW_REQUESTS

AVOID_S = 1.0
OUT = 2
"""Strikes after which a replica is out of the question for one request."""
TRIPS = 3
"""Failures in a row that open a replica's circuit."""
OPEN_S, LONGEST_OPEN_S = 2.0, 60.0
REMEMBERED = 4096
"""Replicas of which it is known that they are new no longer; beyond it the first to be known is forgotten."""

Prefer = Callable[[Mapping[str, int]], Collection[str]]
"""From replicas that are as good as each other, with their requests in flight, some of them, at least one."""


class Balancer:
    """Counts requests in flight for each replica and remembers who refused a connection."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._in_flight: Counter[str] = Counter()
        self._entered: dict[str, int] = {}
        self._avoided: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._failed_at: dict[str, float] = {}
        self._open_until: dict[str, float] = {}

    def pick(
        self,
        replicas: Sequence[Replica],
        strikes: Mapping[str, int],
        *,
        spares: Collection[str] = (),
        prefer: Prefer | None = None,
    ) -> Replica | None:
        """By strikes of this request, closed circuits, not being spare, load; ties at random.

        Before load comes `prefer`, where there is one.
        """
        now = self._clock()
        usable = [r for r in replicas if strikes.get(r.id, 0) < OUT and self._avoided.get(r.id, now) <= now]
        if not usable:
            return None
        standing = [
            (strikes.get(r.id, 0), self._open_until.get(r.id, 0.0) > now, r.id in spares) for r in usable
        ]
        best = min(standing)
        equals = [r for r, own in zip(usable, standing, strict=True) if own == best]
        if prefer is not None and len(equals) > 1:
            names = prefer({r.id: self._in_flight[r.id] for r in equals})
            equals = [r for r in equals if r.id in names]
        loads = [self._in_flight[r.id] for r in equals]
        least = min(loads)
        return random.choice([r for r, load in zip(equals, loads, strict=True) if load == least])

    def in_flight(self, replica_id: str) -> int:
        """Requests that the replica has of this gateway."""
        return self._in_flight.get(replica_id, 0)

    def enter(self, replica_id: str) -> None:
        """A request goes to the replica."""
        self._in_flight[replica_id] += 1
        entered = self._entered.get(replica_id, 0)
        if not entered and len(self._entered) >= REMEMBERED:
            del self._entered[next(iter(self._entered))]
        self._entered[replica_id] = min(entered + 1, NEW_REQUESTS + 1)

    def is_new(self, replica_id: str) -> bool:
        """Whether the last request that went to it was one of its first."""
        return self._entered.get(replica_id, 0) <= NEW_REQUESTS

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

    def failed(self, replica_id: str) -> None:
        """It took a request and did not answer it, or with an error of its own."""
        now = self._clock()
        self._forget_long_ago(now)
        self._failures[replica_id] += 1
        self._failed_at[replica_id] = now
        beyond = self._failures[replica_id] - TRIPS
        if beyond >= 0:
            self._open_until[replica_id] = now + min(OPEN_S * 2 ** min(beyond, 10), LONGEST_OPEN_S)

    def answered(self, replica_id: str) -> None:
        """It answered, which closes its circuit."""
        if replica_id in self._failures:
            self._forget(replica_id)

    def _forget_long_ago(self, now: float) -> None:
        for name in [name for name, at in self._failed_at.items() if at < now - 2 * LONGEST_OPEN_S]:
            self._forget(name)

    def _forget(self, replica_id: str) -> None:
        for kept in (self._failures, self._failed_at, self._open_until):
            kept.pop(replica_id, None)
