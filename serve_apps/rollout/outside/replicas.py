"""What the state database says of a version's replicas: how many were lost, refused, and run, and hold."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state import losses, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now

LATELY = timedelta(seconds=25)
"""Two renewals and a little: a replica that serves and says nothing for longer may have been killed."""


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


def there(session: Session, model: str, version: str) -> list[ReplicaRow]:
    """Rows of replicas that serve or are on the way: not those that were killed, whose lease still runs."""
    rows = [row for row in replicas.live(session, model) if row.version == version and _is_there(row)]
    lost = losses.known(session, [row.replica for row in rows])
    return [row for row in rows if row.replica not in lost]


def _is_there(row: ReplicaRow) -> bool:
    # One that loads does not renew its row.
    is_silent = row.status == ReplicaStatus.SERVING and row.seen_at < utc_now() - LATELY
    return row.status != ReplicaStatus.ASLEEP and not is_silent


def memory(session: Session, model: str, version: str) -> int | None:
    """Bytes that its largest serving replica holds; None while one has not told."""
    return _largest(row for row in replicas.live(session, model) if row.version == version)


def _largest(rows: Iterable[ReplicaRow]) -> int | None:
    held = [replicas.memory(row) for row in rows if _serves(row)]
    known = [one for one in held if one is not None]
    return max(known) if known and len(known) == len(held) else None


def _serves(row: ReplicaRow) -> bool:
    return row.status == ReplicaStatus.SERVING and not replicas.is_stale(row)
