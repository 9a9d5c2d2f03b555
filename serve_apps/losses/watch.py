"""What a gateway notices of its replicas: signs of life, lost connections, and that one is there no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.state.losses import Signal

Place = tuple[str, str]
"""Model and version."""


@dataclass(slots=True)
class Trace:
    """One replica as this gateway has known it; times in Unix seconds, 0 for never."""

    heard_at: float = 0.0
    missed_at: float = 0.0
    signal: Signal | None = None
    retried: int = 0
    continued: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Vanished:
    """A replica that Serve no longer names: stopped in good order, or lost."""

    replica: str
    place: Place
    at: float
    trace: Trace


class LossWatch:
    """Noted by the event loop on each request, read by the recorder's thread now and then."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._traces: dict[str, Trace] = {}
        self._running: dict[str, Place] = {}

    def heard(self, replica: str) -> None:
        """It has answered, so what was missed before was no loss."""
        trace = self._trace(replica)
        trace.heard_at, trace.missed_at, trace.signal = self._clock(), 0.0, None

    def missed(self, replica: str, signal: Signal) -> None:
        """It took no connection, or dropped one."""
        trace = self._trace(replica)
        if trace.signal is None:
            trace.missed_at, trace.signal = self._clock(), signal

    def retried(self, replica: str) -> None:
        """A request that it did not answer is sent elsewhere."""
        self._trace(replica).retried += 1

    def continued(self, replica: str) -> None:
        """A stream that it had begun goes on elsewhere."""
        self._trace(replica).continued += 1

    def failed(self, replica: str) -> None:
        """A stream that it had begun ended with an error."""
        self._trace(replica).failed += 1

    def look(self, running: Mapping[str, Place]) -> list[Vanished]:
        """Compare with who runs now; each replica that went is told once."""
        now = self._clock()
        gone = [
            Vanished(replica, place, now, self._traces.pop(replica, Trace()))
            for replica, place in self._running.items()
            if replica not in running
        ]
        self._running = dict(running)
        for replica in [name for name in self._traces if name not in running]:
            del self._traces[replica]
        return gone

    def _trace(self, replica: str) -> Trace:
        found = self._traces.get(replica)
        if found is None:
            found = self._traces[replica] = Trace()
        return found
