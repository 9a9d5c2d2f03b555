"""Adapters in a gateway's directory: their rows in the state database, joined with who runs by Serve.

A replica's row says what it has loaded and proven, Serve says whether it is there. Both must hold for
it to be asked. A row out of its lease counts as long as Serve names the replica: where the database
takes no writes nobody can renew, and all are well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from cluster.state import replicas
from cluster.state.database import Database
from cluster.state.tables import ReplicaRow
from serve_apps.gateway.directory import Replica, ReplicaDirectory
from serve_apps.gateway.following import Follower


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter that is served: on which version, and by which of its replicas."""

    base: str
    replicas: frozenset[str]


Table = Mapping[str, Mapping[str, Served]]


class AdapterDirectory(Follower):
    """A directory of versions that run, with the adapters on top of them.

    An adapter whose replicas are all gone, killed or stopped, stays listed, with none, until their
    leases run out, so that requests wait for the replacement.
    """

    what = "adapters"

    def __init__(
        self,
        database: Database,
        running: ReplicaDirectory,
        models: Sequence[str],
        interval_s: float = 0.25,
    ) -> None:
        super().__init__(database, interval_s)
        self._running = running
        self._models = tuple(models)
        self._table: Table = {}
        self._complete = False

    def replicas(self, model: str, version: str) -> Sequence[Replica]:
        """Running replicas of a version; of an adapter those that have proven it."""
        served = self._table.get(model, {}).get(version)
        if served is None:
            return self._running.replicas(model, version)
        running = self._running.replicas(model, served.base)
        return [replica for replica in running if replica.id in served.replicas]

    def planned(self, model: str, version: str) -> int | None:
        """How many replicas its host is to have."""
        return self._running.planned(model, self.host(model, version))

    def may_sleep(self, model: str, version: str) -> bool:
        """Adapters are known only while a replica has them."""
        return self.host(model, version) == version and self._running.may_sleep(model, version)

    def versions(self, model: str) -> Sequence[str]:
        """Versions that have an application, and adapters."""
        return sorted({*self._running.versions(model), *self._table.get(model, {})})

    def host(self, model: str, version: str) -> str:
        """The version whose replicas answer."""
        served = self._table.get(model, {}).get(version)
        return version if served is None else served.base

    def gateways(self) -> Sequence[str]:
        """Where each replica of this gateway's own application listens."""
        return self._running.gateways()

    def ready(self) -> bool:
        """Whether the controller has been heard, and the adapters have been read since."""
        return self._complete

    def _read(self, session: Session) -> None:
        heard = self._running.ready()
        rows = replicas.listed_adapters(session, self._models)
        self._table = build_table([row for row in rows if self._counts(row)])
        self._complete = self._complete or heard

    def _counts(self, row: ReplicaRow) -> bool:
        running = self._running.replicas(row.model, row.base or row.version)
        return not replicas.is_stale(row) or any(replica.id == row.replica for replica in running)


def build_table(rows: Sequence[ReplicaRow]) -> Table:
    """Model -> adapter -> who serves it, from the rows of adapters that count."""
    found: dict[str, dict[str, tuple[str, set[str]]]] = {}
    for row in rows:
        if row.base is not None:
            base_and_replicas = found.setdefault(row.model, {}).setdefault(row.version, (row.base, set()))
            base_and_replicas[1].add(row.replica)
    return {
        model: {version: Served(base, frozenset(ids)) for version, (base, ids) in versions.items()}
        for model, versions in found.items()
    }
