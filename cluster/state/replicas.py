"""Replica leases: an engine renews its rows while it lives; a stale row counts for nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cluster.state.tables import ReplicaRow, utc_now

LEASE = timedelta(seconds=60)

_START = ("pause_s", "load_s", "prove_s")


class ReplicaStatus(StrEnum):
    """Where a replica is on its way to traffic; `asleep` is a version that has none, by its own config."""

    BACKING_OFF = "backing_off"
    LOADING = "loading"
    PROVING = "proving"
    SERVING = "serving"
    REFUSED = "refused"
    ASLEEP = "asleep"


def report(
    session: Session,
    *,
    replica: str,
    model: str,
    version: str,
    status: ReplicaStatus,
    detail: dict[str, Any] | None = None,
    base: str | None = None,
) -> None:
    """Write or renew a replica's row for a version; `base` is its own one where this is an adapter."""
    row = session.get(ReplicaRow, (replica, version))
    if row is None:
        row = ReplicaRow(
            replica=replica, model=model, version=version, base=base, started_at=utc_now(), detail={}
        )
        session.add(row)
    row.status, row.seen_at = status.value, utc_now()
    if detail is not None:
        row.detail = detail
    session.flush()


def forget(session: Session, replica: str) -> None:
    """Remove a replica that stopped in good order, with all that it served."""
    session.execute(delete(ReplicaRow).where(ReplicaRow.replica == replica))


def forget_version(session: Session, replica: str, version: str) -> None:
    """Remove what a replica said of one version."""
    session.execute(delete(ReplicaRow).where(ReplicaRow.replica == replica, ReplicaRow.version == version))


def of_replica(session: Session, replica: str, version: str) -> ReplicaRow | None:
    """A replica's row for one version."""
    return session.get(ReplicaRow, (replica, version))


def live(session: Session, model: str | None = None) -> list[ReplicaRow]:
    """Replicas seen within the lease, refused ones left out."""
    query = select(ReplicaRow).where(
        ReplicaRow.seen_at >= utc_now() - LEASE, ReplicaRow.status != ReplicaStatus.REFUSED.value
    )
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


def serving_adapters(session: Session, models: Sequence[str]) -> list[ReplicaRow]:
    """Live rows of adapters that have proven themselves."""
    query = select(ReplicaRow).where(
        ReplicaRow.base.is_not(None),
        ReplicaRow.status == ReplicaStatus.SERVING.value,
        ReplicaRow.seen_at >= utc_now() - LEASE,
        ReplicaRow.model.in_(models),
    )
    return list(session.scalars(query))


def proven_at(row: ReplicaRow) -> datetime:
    """When a serving replica had proven itself."""
    return row.started_at + timedelta(seconds=sum(float(row.detail.get(name, 0.0)) for name in _START))


def everything(session: Session, model: str | None = None) -> list[ReplicaRow]:
    """All rows, refused and stale ones too."""
    query = select(ReplicaRow).order_by(ReplicaRow.model, ReplicaRow.version, ReplicaRow.replica)
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
