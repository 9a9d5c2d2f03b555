"""Who stands by, as every gateway finds it by itself from the state database and from Serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from cluster.state import replicas
from cluster.state.database import Database
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.following import Follower
from serve_apps.standby import Proof, proof, standbys

StandbysOf = Callable[[str, str], frozenset[str]]
"""Ids of the running replicas of a model's version that stand by."""

_NOBODY: frozenset[str] = frozenset()


def nobody(_model: str, _version: str) -> frozenset[str]:
    """All replicas take requests."""
    return _NOBODY


class StandbyCache(Follower):
    """Keeps the proofs of replicas; two gateways that have read the same ones agree."""

    what = "ages of replicas"

    def __init__(
        self,
        database: Database,
        directory: ReplicaDirectory,
        models: Sequence[str],
        interval_s: float = 1.0,
    ) -> None:
        super().__init__(database, interval_s)
        self._directory = directory
        self._models = tuple(models)
        self._proofs: dict[tuple[str, str], dict[str, Proof]] = {}

    def of(self, model: str, version: str) -> frozenset[str]:
        """Asked on every request; adapters have the standbys of their base."""
        if not self._proofs:
            return _NOBODY
        host = self._directory.host(model, version)
        proofs = self._proofs.get((model, host))
        if proofs is None:
            return _NOBODY
        running = [replica.id for replica in self._directory.replicas(model, host)]
        return standbys(running, proofs, self._directory.planned(model, host))

    def _running(self) -> list[str]:
        return [
            replica.id
            for model in self._models
            for version in self._directory.versions(model)
            for replica in self._directory.replicas(model, version)
        ]

    def _read(self, session: Session) -> None:
        found: dict[tuple[str, str], dict[str, Proof]] = {}
        for row in replicas.serving(session, self._running()):
            found.setdefault((row.model, row.version), {})[row.replica] = proof(row)
        self._proofs = {
            key: proofs for key, proofs in found.items() if any(one.standby for one in proofs.values())
        }
