"""What the state database says of a version's replicas: how many were lost, refused, and run, and hold."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state import losses, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow


class ReplicaReading(StrictModel):
    """A version since a time: `restarts` replicas were lost, `refused` did not prove themselves.

    `serving` ones answer now, and `memory` is what the largest of them holds, in bytes; None while one has
    not told. A replica that stopped in good order counts for nothing.
    """

    restarts: int
    refused: int
    serving: int
    memory: int | None


def read(session: Session, model: str, version: str, since: datetime) -> ReplicaReading:
    """What the rows say since a time (UTC without a zone).

    An adapter lives and dies with the replicas of its base, so the losses of those are its own.
    """
    rows = [row for row in replicas.everything(session, model) if row.version == version]
    hosts = {row.base or row.version for row in rows} | {version}
    return ReplicaReading(
        restarts=sum(len(losses.lives(session, model, host, since)) for host in hosts),
        refused=sum(row.status == ReplicaStatus.REFUSED and row.seen_at >= since for row in rows),
        serving=sum(_serves(row) for row in rows),
        memory=_largest(rows),
    )


def memory(session: Session, model: str, version: str) -> int | None:
    """Bytes that its largest serving replica holds; None while one has not told."""
    return _largest(row for row in replicas.live(session, model) if row.version == version)


def _largest(rows: Iterable[ReplicaRow]) -> int | None:
    held = [replicas.memory(row) for row in rows if _serves(row)]
    known = [one for one in held if one is not None]
    return max(known) if known and len(known) == len(held) else None


def _serves(row: ReplicaRow) -> bool:
    return row.status == ReplicaStatus.SERVING and not replicas.is_stale(row)
