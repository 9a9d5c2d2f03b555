"""Counts what was seen for judged rollouts, in a thread, and writes it to the state database."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cluster.state import tallies
from cluster.state.database import Database
from cluster.state.tables import utc_now
from cluster.traffic import TrafficPolicy
from serve_apps.gateway.following import Beat
from serve_apps.gateway.policies import PolicyCache
from serve_apps.gateway.tally import Seen, TallyBuilder

QUEUE = 65_536
"""What may wait to be counted, where the database holds up the thread; then the oldest goes."""

_WRITE_EACH = timedelta(seconds=1)
_RENEW_EACH = timedelta(seconds=10)
_REMEMBER = timedelta(minutes=2)
"""How long requests may still end under a policy that was superseded."""
_KEEP = timedelta(days=1)


@dataclass(slots=True)
class _Book:
    """One revision of one model; `written_at` is None before its first row."""

    policy: TrafficPolicy
    applied_at: datetime
    builder: TallyBuilder = field(default_factory=TallyBuilder)
    changed: bool = True
    written_at: datetime | None = None
    superseded_at: datetime | None = None

    def is_due(self, now: datetime, *, ending: bool) -> bool:
        """At once when it is new, each second while it changes, now and then while it is in force."""
        if self.written_at is None or (self.changed and ending):
            return True
        in_force = self.policy.judging is not None and self.superseded_at is None
        waited = now - self.written_at
        return (self.changed and waited >= _WRITE_EACH) or (in_force and waited >= _RENEW_EACH)

    def is_over(self, now: datetime) -> bool:
        """Nobody needs it any more."""
        return self.superseded_at is not None and now - self.superseded_at >= _REMEMBER


class TallyWriter(Beat):
    """A row for each model and revision that this gateway has routed by, also of those that are not judged.

    `incarnation` names this life of the gateway. The event loop and the thread of the text checks
    say what they see; all else is done by the thread of the beat.
    """

    what = "tallies of judged rollouts"

    def __init__(
        self,
        database: Database,
        policies: PolicyCache,
        models: Sequence[str],
        *,
        interval_s: float = 0.25,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(interval_s)
        self.incarnation = secrets.token_hex(8)
        self._database = database
        self._policies = policies
        self._models = tuple(models)
        self._clock = clock
        self._queue: deque[tuple[TrafficPolicy, Seen]] = deque(maxlen=QUEUE)
        self._books: dict[tuple[str, int], _Book] = {}
        self._forgotten: dict[str, int] = {}
        self._counting = threading.Lock()
        self._started = False

    async def start(self) -> None:
        """Begin; a second call changes nothing."""
        self._started = True
        await super().start()

    async def stop(self) -> None:
        """Write what is left."""
        await super().stop()
        if self._started:
            self._started = False
            await asyncio.to_thread(self._refresh)

    def saw(self, policy: TrafficPolicy, seen: Seen) -> None:
        """Count it for the policy that its request was routed by; returns at once. From any thread."""
        self._queue.append((policy, seen))

    def _once(self) -> None:
        with self._counting:
            now = self._clock()
            arrived = list(self._drain())
            # Read after the queue, so that what was routed by a policy finds it.
            self._follow_policies(now)
            for policy, seen in arrived:
                self._count(policy, seen, now)
            self._write(now)
            self._forget(now)

    def _drain(self) -> Iterator[tuple[TrafficPolicy, Seen]]:
        for _ in range(len(self._queue)):
            yield self._queue.popleft()

    def _follow_policies(self, now: datetime) -> None:
        for model in self._models:
            applied = self._policies.applied(model)
            # Revision 0 is no stored policy: everything to the stable alias.
            if applied is None or not applied.policy.revision:
                continue
            if (model, applied.policy.revision) not in self._books:
                self._open(applied.policy, applied.at)
                self._supersede(applied.policy, now)

    def _open(self, policy: TrafficPolicy, at: datetime) -> _Book:
        book = self._books[policy.model, policy.revision] = _Book(policy, at)
        return book

    def _supersede(self, newest: TrafficPolicy, now: datetime) -> None:
        for (model, revision), book in self._books.items():
            if model == newest.model and revision != newest.revision and book.superseded_at is None:
                book.superseded_at = now

    def _count(self, policy: TrafficPolicy, seen: Seen, now: datetime) -> None:
        book = self._books.get((policy.model, policy.revision))
        if book is None:
            if policy.revision <= self._forgotten.get(policy.model, 0):
                return
            # It came and went between two beats.
            book = self._open(policy, now)
            book.superseded_at = now
        book.builder.add(seen)
        book.changed = True

    def _write(self, now: datetime) -> None:
        due = [book for book in self._books.values() if book.is_due(now, ending=not self._started)]
        if not due:
            return
        with self._database.transaction() as session:
            for book in due:
                tallies.put(
                    session,
                    gateway=self.incarnation,
                    model=book.policy.model,
                    revision=book.policy.revision,
                    applied_at=book.applied_at,
                    seen_at=now,
                    tally=book.builder.to_json(),
                )
            if any(book.written_at is None for book in due):
                tallies.prune(session, now - _KEEP)
        for book in due:
            book.written_at, book.changed = now, False

    def _forget(self, now: datetime) -> None:
        for model, revision in [place for place, book in self._books.items() if book.is_over(now)]:
            del self._books[model, revision]
            self._forgotten[model] = max(revision, self._forgotten.get(model, 0))
