"""Receipts of lost replicas: written when a loss is certain, completed when another has taken its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.replicas import ReplicaStatus, proven_at
from cluster.state.tables import LossRow, ReplicaRow


class Signal(StrEnum):
    """What told of a loss: a connection that was refused or dropped, or a lease that ran out."""

    REFUSED = "refused"
    DROPPED = "dropped"
    LEASE = "lease"


class Loss(StrictModel):
    """A loss as one gateway saw it; times are UTC without a zone.

    `retried` requests were sent elsewhere before their first byte, `continued` streams went on
    elsewhere, `failed` ones ended with an error. `taken_over_by` was proven already and stood by.
    """

    replica: str
    model: str
    version: str
    signal: Signal
    heard_at: datetime
    detected_at: datetime
    isolated_at: datetime
    retried: int = 0
    continued: int = 0
    failed: int = 0
    taken_over_by: str | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """When a lost replica was last missed, and since when it had served, where that is known."""

    proven_at: datetime | None
    lost_at: datetime


def lives(session: Session, model: str, version: str, since: datetime) -> list[Life]:
    """Of the replicas of a version that were lost since."""
    query = (
        select(LossRow.detected_at, ReplicaRow)
        .outerjoin(
            ReplicaRow, (ReplicaRow.replica == LossRow.replica) & (ReplicaRow.version == LossRow.version)
        )
        .where(LossRow.model == model, LossRow.version == version, LossRow.detected_at >= since)
    )
    return [
        Life(proven_at(row) if row is not None else None, lost_at) for lost_at, row in session.execute(query)
    ]


def add(session: Session, loss: Loss) -> None:
    """Write a loss; what a second gateway saw of the same one is added to it."""
    row = session.get(LossRow, loss.replica)
    if row is None:
        fields = loss.model_dump(mode="python", exclude={"taken_over_by"})
        row = LossRow(**fields | {"signal": loss.signal.value})
        session.add(row)
    else:
        row.heard_at = max(row.heard_at, loss.heard_at)
        row.detected_at = min(row.detected_at, loss.detected_at)
        row.isolated_at = min(row.isolated_at, loss.isolated_at)
        row.retried += loss.retried
        row.continued += loss.continued
        row.failed += loss.failed
    if (
        loss.taken_over_by is not None
        and row.replaced_by is None
        and loss.taken_over_by not in _taken(session)
    ):
        # A standby had loaded and proven itself before it was needed.
        row.replaced_by, row.load_s, row.prove_s = loss.taken_over_by, 0.0, 0.0
        row.recovered_at = row.isolated_at
    session.flush()


def known(session: Session, names: Iterable[str]) -> set[str]:
    """Those of the named replicas that have a receipt."""
    return set(session.scalars(select(LossRow.replica).where(LossRow.replica.in_(list(names)))))


def everything(session: Session, model: str | None = None) -> list[LossRow]:
    """All losses, newest first."""
    query = select(LossRow).order_by(LossRow.detected_at.desc(), LossRow.replica)
    if model is not None:
        query = query.where(LossRow.model == model)
    return list(session.scalars(query))


def waiting(session: Session) -> list[LossRow]:
    """Losses that nobody has made good yet, oldest first."""
    query = select(LossRow).where(LossRow.recovered_at.is_(None))
    return list(session.scalars(query.order_by(LossRow.detected_at, LossRow.replica)))


def complete(session: Session, waiting: Iterable[LossRow]) -> None:
    """Name the replica that took the place of each loss, where one has proven itself since."""
    waiting = list(waiting)
    serving = list(
        session.scalars(
            select(ReplicaRow)
            .where(ReplicaRow.status == ReplicaStatus.SERVING.value)
            .order_by(ReplicaRow.started_at, ReplicaRow.replica)
        )
    )
    taken = _taken(session)
    for loss in waiting:
        found = next((row for row in serving if _replaces(row, loss) and row.replica not in taken), None)
        if found is None:
            continue
        taken.add(found.replica)
        load_s, prove_s = (float(found.detail.get(name, 0.0)) for name in ("load_s", "prove_s"))
        loss.replaced_by, loss.load_s, loss.prove_s = found.replica, load_s, prove_s
        loss.recovered_at = proven_at(found)
    session.flush()


def _taken(session: Session) -> set[str | None]:
    return set(session.scalars(select(LossRow.replaced_by).where(LossRow.replaced_by.is_not(None))))


def _replaces(row: ReplicaRow, loss: LossRow) -> bool:
    same = (row.model, row.version) == (loss.model, loss.version)
    # A lease runs out long after the end, when another may have come up already.
    since = loss.heard_at if loss.signal == Signal.LEASE.value else loss.detected_at
    return same and row.replica != loss.replica and row.started_at >= since
