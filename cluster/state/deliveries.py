"""How far receivers outside have been told of rollouts: telling goes on where a controller was killed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.tables import DeliveryRow, utc_now


class Progress(StrictModel):
    """What one receiver has been told of one rollout.

    Moments up to `settled` are delivered or given up; the next one has been tried `tries` times, and is
    tried again at `not_before` (UTC without a zone). `given_up` counts what was never taken, `last_error` why
    the newest try failed.
    """

    receiver: str
    rollout: int
    settled: int = 0
    tries: int = 0
    not_before: datetime | None = None
    given_up: int = 0
    last_error: str = ""


def get(session: Session, receiver: str, rollout: int) -> Progress:
    """How far it is; at the beginning where nothing was stored."""
    row = session.get(DeliveryRow, (receiver, rollout))
    if row is None:
        return Progress(receiver=receiver, rollout=rollout)
    return Progress(
        receiver=receiver,
        rollout=rollout,
        settled=row.settled,
        tries=row.tries,
        not_before=row.not_before,
        given_up=row.given_up,
        last_error=row.last_error,
    )


def put(session: Session, progress: Progress) -> None:
    """Store how far it is."""
    row = session.get(DeliveryRow, (progress.receiver, progress.rollout))
    if row is None:
        row = DeliveryRow(receiver=progress.receiver, rollout_id=progress.rollout)
        session.add(row)
    row.settled, row.tries, row.not_before = progress.settled, progress.tries, progress.not_before
    row.given_up, row.last_error, row.updated_at = progress.given_up, progress.last_error, utc_now()
    session.flush()
