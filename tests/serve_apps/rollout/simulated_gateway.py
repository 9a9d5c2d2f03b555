"""A gateway that routes by the policy it last read and counts as a real one does, but answers nobody."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cluster.registry import ModelStore
from cluster.state import policies, tallies
from cluster.traffic import TrafficPolicy
from serve_apps.sketch import SketchBuilder
from tests.serve_apps.rollout.world import MODEL

RENEW_EACH = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a version answers: the share of errors, and the median time to the first token in seconds."""

    errors: float = 0.0
    ttft: float = 0.1


@dataclass(slots=True)
class _Book:
    policy: TrafficPolicy
    applied_at: datetime
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    sketches: dict[str, SketchBuilder] = field(default_factory=dict)
    changed: bool = True
    written_at: datetime | None = None


class SimulatedGateway:
    """One life. `written`: what its rows say, by rollout, version and count (`values`: of sketches)."""

    def __init__(
        self, store: ModelStore, clock: Callable[[], datetime], name: str, draw: random.Random
    ) -> None:
        self._store = store
        self._clock = clock
        self._draw = draw
        self.name = name
        self.lags = False
        self.written: Counter[tuple[int, str, str]] = Counter()
        self._books: dict[int, _Book] = {}
        self._newest: _Book | None = None

    @property
    def revision(self) -> int:
        """Of the policy that it routes by; 0 before the first."""
        return self._newest.policy.revision if self._newest else 0

    def follow(self) -> None:
        """Take up the stored policy, unless it lags."""
        if self.lags:
            return
        with self._store.database.snapshot() as session:
            policy = policies.get(session, MODEL)
        if policy.revision > self.revision:
            self._newest = self._books[policy.revision] = _Book(policy, self._clock())

    def answer(self, requests: int, manners: dict[str, Manner]) -> None:
        """Count answers, where the policy is judged; a version that has no manner is missing, and errs."""
        book = self._newest
        if book is None or book.policy.judging is None:
            return
        weights = book.policy.weights()
        for version in self._draw.choices(list(weights), list(weights.values()), k=requests):
            self._count(book, version, manners.get(version, Manner(errors=1.0)))

    def _count(self, book: _Book, version: str, manner: Manner) -> None:
        counts = book.counts.setdefault(version, Counter())
        counts["requests"] += 1
        counts["asked"] += 1
        book.changed = True
        if self._draw.random() < manner.errors:
            counts["errors"] += 1
            return
        ttft = manner.ttft * self._draw.lognormvariate(0, 0.3)
        book.sketches.setdefault(version, SketchBuilder()).add(ttft)

    def write(self) -> None:
        """Write what has changed, and renew the row that is in force."""
        now = self._clock()
        due = [book for book in self._books.values() if book.changed or self._is_to_renew(book, now)]
        with self._store.database.transaction() as session:
            for book in due:
                tallies.put(
                    session,
                    gateway=self.name,
                    model=MODEL,
                    revision=book.policy.revision,
                    applied_at=book.applied_at,
                    seen_at=now,
                    tally={"versions": _versions(book)},
                )
        for book in due:
            book.changed, book.written_at = False, now
        self.written = self._totals()

    def _is_to_renew(self, book: _Book, now: datetime) -> bool:
        in_force = book is self._newest and book.policy.judging is not None
        return in_force and book.written_at is not None and now - book.written_at >= RENEW_EACH

    def _totals(self) -> Counter[tuple[int, str, str]]:
        found: Counter[tuple[int, str, str]] = Counter()
        for book in self._books.values():
            for version, counts in book.counts.items():
                assert book.policy.judging is not None
                rollout = book.policy.judging.rollout
                for name, count in counts.items():
                    found[rollout, version, name] += count
                found[rollout, version, "values"] += counts["requests"] - counts["errors"]
        return found


def _versions(book: _Book) -> dict[str, object]:
    return {
        version: {
            "counts": dict(counts),
            "sketches": {"ttft": {"p1": book.sketches[version].to_json()}}
            if version in book.sketches
            else {},
        }
        for version, counts in book.counts.items()
    }
