"""Workers that are not warm yet: which of them fail, and when the next may try."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.recovery.deciding import backoff_s
from train_jobs.formation.messages import Joined

# Importing and loading hold the interpreter for seconds on a busy machine.
_SILENT_S = 60.0
MOST_FAILURES = 3


@dataclass
class Starts:
    """Newcomers between their first word and their warmth.

    `failures` counts those that failed since a formation last stood. After the third the next ones wait,
    twice as long each time, so that they leave the cores to those that train.
    """

    failures: int = 0
    _warming: dict[str, tuple[Joined, float]] = field(default_factory=dict)
    _not_before: float = 0.0

    def begun(self, newcomer: Joined, now: float) -> Joined | None:
        """A process is there; whoever was to have its place and never got warm is returned, and counted."""
        gone = next((j for j, _ in self._warming.values() if j.rank == newcomer.rank), None)
        if gone is not None:
            self.failed(gone.worker, now)
        self._warming[newcomer.worker] = (newcomer, now)
        return gone

    def failed(self, worker: str, now: float) -> bool:
        """A worker says why it could not start, or is taken for hung; False where that is known already."""
        if self._warming.pop(worker, None) is None:
            return False
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            self._not_before = now + backoff_s(self.failures - MOST_FAILURES + 1)
        return True

    def warm(self, worker: str) -> None:
        """A worker has joined the others."""
        self._warming.pop(worker, None)

    def beat(self, worker: str, now: float) -> None:
        """A sign of life."""
        if worker in self._warming:
            self._warming[worker] = (self._warming[worker][0], now)

    def silent(self, now: float) -> list[Joined]:
        """Those of which nothing has been heard for so long that they will not come."""
        return [joined for joined, heard_at in self._warming.values() if now - heard_at > _SILENT_S]

    def formed(self) -> None:
        """A formation stands: what it took to get there is forgotten."""
        self.failures, self._not_before = 0, 0.0

    def may_begin(self, now: float) -> bool:
        """Whether the next newcomer may warm up."""
        return now >= self._not_before
