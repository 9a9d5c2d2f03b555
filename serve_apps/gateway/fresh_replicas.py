"""Which of stable's replicas are fresh, as every gateway finds it by itself, and who is sent to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from cluster.state import replicas
from cluster.state.database import Database
from cluster.tally import FRESH
from cluster.traffic import TrafficPolicy
from serve_apps.fresh import fresh
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.following import Follower
from serve_apps.gateway.policies import PolicyCache
from serve_apps.gateway.selection import Choice

FreshOf = Callable[[str, str], frozenset[str]]
"""Ids of the running replicas of a model's version that are fresh."""

_NONE: frozenset[str] = frozenset()


def none_fresh(_model: str, _version: str) -> frozenset[str]:
    """All replicas are alike."""
    return _NONE


class FreshCache(Follower):
    """Knows when replicas started, while a policy asks for fresh ones; gateways that have read it agree."""

    what = "start times of replicas"

    def __init__(
        self,
        database: Database,
        directory: ReplicaDirectory,
        policies: PolicyCache,
        models: Sequence[str],
        interval_s: float = 1.0,
    ) -> None:
        super().__init__(database, interval_s)
        self._directory = directory
        self._policies = policies
        self._models = tuple(models)
        self._started: dict[str, datetime] = {}

    def of(self, model: str, version: str) -> frozenset[str]:
        """Asked on every request. None are of adapters, which share the replicas of their base."""
        policy = self._policies.get(model)
        if policy is None or version != policy.stable or not policy.has_second_slice:
            return _NONE
        if policy.judging is None or policy.judging.fresh is None:
            return _NONE
        if self._directory.host(model, version) != version:
            return _NONE
        running = [replica.id for replica in self._directory.replicas(model, version)]
        like = len(self._directory.replicas(model, policy.candidate or ""))
        return fresh(running, self._started, policy.judging.fresh, like=like)

    def _once(self) -> None:
        # Without such a policy the database is left alone.
        if self._running():
            super()._once()

    def _running(self) -> list[str]:
        return [
            replica.id
            for model in self._models
            if (policy := self._policies.get(model)) is not None and policy.has_second_slice
            for replica in self._directory.replicas(model, policy.stable)
        ]

    def _read(self, session: Session) -> None:
        rows = replicas.serving(session, self._running())
        self._started = {row.replica: row.started_at for row in rows}


def kept_apart(
    choice: Choice,
    running: Collection[str],
    standbys: frozenset[str],
    fresh: frozenset[str],
    is_full: Callable[[str], bool],
) -> frozenset[str]:
    """The `fresh` replicas, as long as those that the request is for have room for it; else fewer or none."""
    if choice.second_slice:
        return frozenset(name for name in fresh if name not in standbys and not is_full(name))
    others = [name for name in running if name not in standbys and name not in fresh]
    return _NONE if all(map(is_full, others)) else fresh


def spares(
    choice: Choice, running: Collection[str], standbys: frozenset[str], fresh: frozenset[str]
) -> frozenset[str]:
    """Replicas that get the request only where no other is fit for it.

    Of the second slice those are all that are not `fresh`, of all other requests the fresh ones: so these get
    as much traffic as the candidate, and nobody goes without an answer.
    """
    if not fresh:
        return standbys
    return standbys | (frozenset(running) - fresh if choice.second_slice else fresh)


def counted_as(choice: Choice, policy: TrafficPolicy, fresh: frozenset[str]) -> str:
    """Under which name an answer is counted, decided before it is given, whoever gives it in the end."""
    if policy.judging is None or policy.judging.fresh is None or choice.version != policy.stable:
        return choice.version
    is_compared = not policy.has_second_slice or (choice.second_slice and bool(fresh))
    return f"{FRESH}{choice.version}" if is_compared else choice.version
