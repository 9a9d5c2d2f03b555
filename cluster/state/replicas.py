"""Replica leases: an engine renews its rows while it lives; a stale row counts for nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import and_, delete, not_, select, update
from sqlalchemy.orm import Session

from cluster.state.tables import ReplicaRow, utc_now

LEASE = timedelta(seconds=60)

MEMORY, DEVICE_MEMORY = "memory_bytes", "device_memory_bytes"
"""What a replica's rows say that it holds, in their detail; None where it does not know."""

_START = ("pause_s", "load_s", "prove_s")
_KEPT = timedelta(days=1)
"""For how long the row of a replica that was killed is kept; a refusal stays to be read."""


class ReplicaStatus(StrEnum):
    """Where a replica is on its way to traffic; `asleep` is a version that has none, by its own config."""

    BACKING_OFF = "backing_off"
    LOADING = "loading"
    PROVING = "proving"
    SERVING = "serving"
    REFUSED = "refused"
    ASLEEP = "asleep"
    STOPPED = "stopped"
    """Of an adapter whose replica has stopped in good order: listed for the lease, served by nobody."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a replica has said of a version, whether it was written or not: since when, and its detail."""

    started_at: datetime
    detail: Mapping[str, Any] = field(default_factory=dict)


def report(
    session: Session,
    *,
    replica: str,
    model: str,
    version: str,
    status: ReplicaStatus,
    detail: dict[str, Any] | None = None,
    base: str | None = None,
    started_at: datetime | None = None,
) -> None:
    """Write or renew a replica's row for a version; `base` is its own one where this is an adapter.

    A new row says that it `started_at` that time, or now.
    """
    row = session.get(ReplicaRow, (replica, version))
    if row is None:
        _forget_long_lost(session)
        row = ReplicaRow(
            replica=replica,
            model=model,
            version=version,
            base=base,
            started_at=started_at or utc_now(),
            detail={},
        )
        session.add(row)
    row.status, row.seen_at = status.value, utc_now()
    if detail is not None:
        row.detail = detail
    session.flush()


def renew(
    session: Session,
    *,
    replica: str,
    model: str,
    own: str,
    statuses: Mapping[str, ReplicaStatus],
    detail: Mapping[str, Any],
    words: Mapping[str, Word],
) -> None:
    """Renew all that a replica says, whose own version is `own`: one read and one write for its rows.

    What could not be written before is written now: the last of its `words` on each version, and rows that
    are missing, as old as they would be. `detail` is laid over that of each row.
    """
    query, now = select(ReplicaRow).where(ReplicaRow.replica == replica), utc_now()
    details = {name: {**words[name].detail, **detail} if name in words else detail for name in statuses}
    rows = {row.version: row for row in session.scalars(query) if row.version in statuses}
    for version, row in rows.items():
        row.status, row.seen_at = statuses[version].value, now
        row.detail = {**row.detail, **details[version]}
    for version in statuses.keys() - rows.keys():
        base = own if version != own else None
        report(
            session,
            replica=replica,
            model=model,
            version=version,
            status=statuses[version],
            base=base,
            detail=dict(details[version]),
            started_at=words[version].started_at if version in words else now,
        )


def forget(session: Session, replica: str) -> None:
    """Remove a replica that stopped in good order.

    The adapters that it served stay listed for their lease, so that requests wait for the replica that
    takes its place. A version of its own is listed by Serve.
    """
    own = ReplicaRow.replica == replica
    served = and_(ReplicaRow.base.is_not(None), ReplicaRow.status == ReplicaStatus.SERVING.value)
    session.execute(delete(ReplicaRow).where(own, not_(served)))
    session.execute(update(ReplicaRow).where(own).values(status=ReplicaStatus.STOPPED.value))


def forget_version(session: Session, replica: str, version: str) -> None:
    """Remove what a replica said of one version."""
    session.execute(delete(ReplicaRow).where(ReplicaRow.replica == replica, ReplicaRow.version == version))


def _forget_long_lost(session: Session) -> None:
    session.execute(
        delete(ReplicaRow).where(
            ReplicaRow.seen_at < utc_now() - _KEPT, ReplicaRow.status != ReplicaStatus.REFUSED.value
        )
    )


def of_replica(session: Session, replica: str, version: str) -> ReplicaRow | None:
    """A replica's row for one version."""
    return session.get(ReplicaRow, (replica, version))


def live(session: Session, model: str | None = None) -> list[ReplicaRow]:
    """Replicas seen within the lease, refused and stopped ones left out."""
    gone = [ReplicaStatus.REFUSED.value, ReplicaStatus.STOPPED.value]
    query = select(ReplicaRow).where(ReplicaRow.seen_at >= utc_now() - LEASE, ReplicaRow.status.not_in(gone))
    if model is not None:
        query = query.where(ReplicaRow.model == model)
    return list(session.scalars(query.order_by(ReplicaRow.model, ReplicaRow.version)))


def serving(session: Session, names: Collection[str]) -> list[ReplicaRow]:
    """Own rows of those of the named replicas that serve, also where the lease has run out."""
    query = select(ReplicaRow).where(
        ReplicaRow.base.is_(None),
        ReplicaRow.replica.in_(names),
        ReplicaRow.status == ReplicaStatus.SERVING.value,
    )
    return list(session.scalars(query))


def lapsed(session: Session, models: Collection[str], within: timedelta) -> list[ReplicaRow]:
    """Own rows of replicas that served until their lease ran out, so lately."""
    end = utc_now() - LEASE
    query = select(ReplicaRow).where(
        ReplicaRow.base.is_(None),
        ReplicaRow.model.in_(models),
        ReplicaRow.status == ReplicaStatus.SERVING.value,
        ReplicaRow.seen_at < end,
        ReplicaRow.seen_at >= end - within,
    )
    return list(session.scalars(query))


def listed_adapters(session: Session, models: Sequence[str]) -> list[ReplicaRow]:
    """Rows of adapters that have proven themselves, stale ones too: their replicas may run all the same.

    Those of replicas that have stopped are among them.
    """
    query = select(ReplicaRow).where(
        ReplicaRow.base.is_not(None),
        ReplicaRow.status.in_([ReplicaStatus.SERVING.value, ReplicaStatus.STOPPED.value]),
        ReplicaRow.model.in_(models),
    )
    return list(session.scalars(query))


def proven_at(row: ReplicaRow) -> datetime:
    """When a serving replica had proven itself."""
    return row.started_at + timedelta(seconds=sum(float(row.detail.get(name, 0.0)) for name in _START))


def memory(row: ReplicaRow) -> int | None:
    """Bytes that a replica holds, on the host and, as far as it knows, on devices; None: it has not told."""
    host = row.detail.get(MEMORY)
    return None if host is None else int(host) + int(row.detail.get(DEVICE_MEMORY) or 0)


def everything(session: Session, model: str | None = None) -> list[ReplicaRow]:
    """All rows but those of replicas that have stopped; refused and stale ones too."""
    query = select(ReplicaRow).where(ReplicaRow.status != ReplicaStatus.STOPPED.value)
    query = query.order_by(ReplicaRow.model, ReplicaRow.version, ReplicaRow.replica)
    if model is not None:
        query = query.where(ReplicaRow.model == model)
    return list(session.scalars(query))


def is_stale(row: ReplicaRow) -> bool:
    """Whether a replica has not renewed its row within the lease."""
    return row.seen_at < utc_now() - LEASE


def refused_lately(session: Session, models: Collection[str], within: timedelta) -> set[tuple[str, str]]:
    """Models and versions of which a replica was refused so lately."""
    query = select(ReplicaRow.model, ReplicaRow.version).where(
        ReplicaRow.model.in_(models),
        ReplicaRow.status == ReplicaStatus.REFUSED.value,
        ReplicaRow.seen_at >= utc_now() - within,
    )
    return {(model, version) for model, version in session.execute(query)}


def refusals(session: Session, model: str, version: str) -> list[ReplicaRow]:
    """Replicas of a version that failed to prove themselves, newest first."""
    query = (
        select(ReplicaRow)
        .where(
            ReplicaRow.model == model,
            ReplicaRow.version == version,
            ReplicaRow.status == ReplicaStatus.REFUSED.value,
        )
        .order_by(ReplicaRow.seen_at.desc())
    )
    return list(session.scalars(query))
