"""Versions that have no replica because nobody asked: who they are, and that the first request waits.

A version that has none for another reason is none of them: only Serve's config says that it may sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from math import inf
from typing import Protocol

from cluster.state import replicas
from cluster.state.database import Database
from cluster.state.replicas import ReplicaStatus
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.following import Beat
from serve_apps.gateway.selection import Choice

REFUSED_S = 60.0
"""So long after a replica was refused no request waits for another: it would find the same."""

_RENEW_S = 10.0


class Sleep(Protocol):
    """What the request path asks."""

    def holds(self, choice: Choice) -> bool:
        """Whether a request may wait until the version has been woken."""
        ...

    def wake(self, choice: Choice) -> None:
        """See to it that a replica is started; returns at once."""
        ...


class NoSleep:
    """No version sleeps."""

    def holds(self, _choice: Choice) -> bool:
        """No."""
        return False

    def wake(self, _choice: Choice) -> None:
        """Nothing to do."""


class Sleepers(Beat):
    """Keeps a row for each sleeping version in the state database, by which rollouts and people know."""

    what = "rows of sleeping versions"

    def __init__(
        self,
        database: Database,
        directory: ReplicaDirectory,
        models: Sequence[str],
        wake: Callable[[str, str], None],
        *,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(interval_s)
        self._database = database
        self._directory = directory
        self._models = tuple(models)
        self._wake = wake
        self._clock = clock
        self._refused: set[tuple[str, str]] = set()
        self._told: dict[tuple[str, str], float] = {}

    def holds(self, choice: Choice) -> bool:
        """Asleep, and not refused lately."""
        place = (choice.model, choice.version)
        return place not in self._refused and self._sleeps(*place)

    def wake(self, choice: Choice) -> None:
        """By one call at a time."""
        self._wake(choice.model, choice.version)

    def _sleeps(self, model: str, version: str) -> bool:
        return self._directory.may_sleep(model, version) and not self._directory.replicas(model, version)

    def _once(self) -> None:
        asleep = {
            (model, version)
            for model in self._models
            for version in self._directory.versions(model)
            if self._sleeps(model, version)
        }
        self._refused = self._lately_refused() if asleep else set()
        self._tell(asleep, self._clock())

    def _lately_refused(self) -> set[tuple[str, str]]:
        with self._database.snapshot() as session:
            return replicas.refused_lately(session, self._models, timedelta(seconds=REFUSED_S))

    def _tell(self, asleep: set[tuple[str, str]], now: float) -> None:
        due = [place for place in asleep if now - self._told.get(place, -inf) >= _RENEW_S]
        awake = [place for place in self._told if place not in asleep]
        if not due and not awake:
            return
        with self._database.transaction() as session:
            for model, version in due:
                name = _row_name(model, version)
                replicas.report(
                    session, replica=name, model=model, version=version, status=ReplicaStatus.ASLEEP
                )
            for place in awake:
                replicas.forget(session, _row_name(*place))
        self._told = {place: at for place, at in self._told.items() if place in asleep}
        self._told |= dict.fromkeys(due, now)


def _row_name(model: str, version: str) -> str:
    return f"asleep:{model}:{version}"
