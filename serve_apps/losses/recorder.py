"""Tells losses from replicas that stopped in good order, and writes the receipts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from cluster.state import losses, replicas
from cluster.state.database import Database
from cluster.state.losses import Loss, Signal
from cluster.state.tables import ReplicaRow
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.following import Beat
from serve_apps.losses.watch import LossWatch, Place, Trace, Vanished
from serve_apps.standby import proof, took_over

_OVERLOOKED = timedelta(minutes=10)
"""How long ago a lease may have run out for its replica to be told as lost now."""


class LossRecorder(Beat):
    """A replica removes its own row when it stops in good order; one that was killed leaves it.

    So a replica that vanished and left its row is lost: at once where it had refused or dropped a
    connection, which one that is to drain does not do before, else when its lease has run out. One
    that was killed before Serve had named it to this gateway is found by its lease alone.
    """

    what = "receipts of lost replicas"

    def __init__(
        self,
        database: Database,
        directory: ReplicaDirectory,
        watch: LossWatch,
        models: Sequence[str],
        interval_s: float = 0.5,
    ) -> None:
        super().__init__(interval_s)
        self._database = database
        self._directory = directory
        self.watch = watch
        self._models = tuple(models)
        self._suspects: list[Vanished] = []

    def _once(self) -> None:
        running = self._running()
        self._suspects += self.watch.look(running)
        with self._database.snapshot() as session:
            if self._directory.ready():
                self._suspects += self._overlooked(session, running)
            found = {
                suspect.replica: replicas.of_replica(session, suspect.replica, suspect.place[1])
                for suspect in self._suspects
            }
            unfinished = bool(losses.waiting(session))
            rows = replicas.serving(session, [*running, *found]) if found else ()
        proofs = {row.replica: proof(row) for row in rows}
        certain = []
        for suspect in self._suspects:
            others = [name for name, place in running.items() if place == suspect.place]
            standby = took_over(suspect.replica, others, proofs, _utc(suspect.at))
            if (loss := judge(suspect, found[suspect.replica], standby)) is not None:
                certain.append(loss)
        if certain or unfinished:
            with self._database.transaction() as session:
                for loss in certain:
                    losses.add(session, loss)
                losses.complete(session, losses.waiting(session))
        settled = {loss.replica for loss in certain} | {name for name, row in found.items() if row is None}
        self._suspects = [suspect for suspect in self._suspects if suspect.replica not in settled]

    def _overlooked(self, session: Session, running: Mapping[str, Place]) -> list[Vanished]:
        rows = replicas.lapsed(session, self._models, _OVERLOOKED)
        lapsed = {row.replica: row for row in rows if row.replica not in running}
        expected = {suspect.replica for suspect in self._suspects} | losses.known(session, lapsed)
        return [
            Vanished(name, (row.model, row.version), _unix(row.seen_at + replicas.LEASE), Trace())
            for name, row in lapsed.items()
            if name not in expected
        ]

    def _running(self) -> dict[str, Place]:
        return {
            replica.id: (model, version)
            for model in self._models
            for version in self._directory.versions(model)
            for replica in self._directory.replicas(model, version)
        }


def judge(vanished: Vanished, row: ReplicaRow | None, standby: str | None = None) -> Loss | None:
    """The loss, where it is certain; `row` is the replica's own, None once it has removed it.

    `standby` is the one that took over.
    """
    if row is None:
        return None
    trace = vanished.trace
    if trace.signal is None and not replicas.is_stale(row):
        return None
    return Loss(
        replica=vanished.replica,
        model=vanished.place[0],
        version=vanished.place[1],
        signal=trace.signal or Signal.LEASE,
        heard_at=max(_utc(trace.heard_at), row.seen_at),
        detected_at=_utc(trace.missed_at or vanished.at),
        isolated_at=_utc(vanished.at),
        retried=trace.retried,
        continued=trace.continued,
        failed=trace.failed,
        taken_over_by=standby,
    )


def _unix(at: datetime) -> float:
    return at.replace(tzinfo=UTC).timestamp()


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
