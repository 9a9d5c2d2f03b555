"""What gateways count for judged rollouts: written by each about each second, read by the controller."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.tables import TallyRow
from cluster.tally import Tally


class GatewayTally(StrictModel):
    """One row; times are UTC without a zone.

    `gateway` names one life of a gateway process: one that starts anew counts from nothing under another
    name. `applied_at` is when it began to route by this revision of the policy. `seen_at` is renewed
    while it does, at least each 30 seconds where the policy has `judging`.
    """

    gateway: str
    model: str
    revision: int
    applied_at: datetime
    seen_at: datetime
    tally: Tally


def put(
    session: Session,
    *,
    gateway: str,
    model: str,
    revision: int,
    applied_at: datetime,
    seen_at: datetime,
    tally: Mapping[str, Any],
) -> None:
    """Write the whole of a tally, in the form of `Tally`, over what was written of it before."""
    row = session.get(TallyRow, (gateway, model, revision))
    if row is None:
        row = TallyRow(gateway=gateway, model=model, revision=revision, applied_at=applied_at)
        session.add(row)
    row.seen_at, row.tally = seen_at, dict(tally)
    session.flush()


def of_model(
    session: Session,
    model: str,
    *,
    revisions: Collection[int] | None = None,
    first: int | None = None,
    since: datetime | None = None,
) -> list[GatewayTally]:
    """Tallies of a model by revision and gateway: of these revisions, from `first`, seen `since`, if said."""
    query = select(TallyRow).where(TallyRow.model == model)
    if revisions is not None:
        query = query.where(TallyRow.revision.in_(revisions))
    if first is not None:
        query = query.where(TallyRow.revision >= first)
    if since is not None:
        query = query.where(TallyRow.seen_at >= since)
    rows = session.scalars(query.order_by(TallyRow.revision, TallyRow.gateway))
    return [
        GatewayTally(
            gateway=row.gateway,
            model=row.model,
            revision=row.revision,
            applied_at=row.applied_at,
            seen_at=row.seen_at,
            tally=Tally.model_validate(row.tally),
        )
        for row in rows
    ]


def prune(session: Session, before: datetime) -> None:
    """Remove what no gateway has renewed since: of gateways that are gone, and of revisions long past."""
    session.execute(delete(TallyRow).where(TallyRow.seen_at < before))
