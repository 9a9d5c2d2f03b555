"""Which versions must be able to take all of the traffic, whatever they get of it now."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.state.tables import RolloutRow
from serve_apps.rollout import records
from serve_apps.rollout.states import ACTIVE, Phase


def is_kept(session: Session, model: str, version: str, now: datetime) -> bool:
    """Whether a version takes part in a rollout, or was stable until one that is over not long ago.

    For as long as the policy's `keep_previous` says; `now` is UTC without a zone.
    """
    active = select(RolloutRow).where(
        RolloutRow.model == model, RolloutRow.phase.in_([phase.value for phase in ACTIVE])
    )
    if any(version in (row.stable, row.candidate) for row in session.scalars(active)):
        return True
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.phase == Phase.PROMOTED.value)
    newest = session.scalars(query.order_by(RolloutRow.id.desc()).limit(1)).first()
    if newest is None or newest.stable != version:
        return False
    spec = records.spec_of(newest)
    return spec is not None and now < newest.updated_at + spec.keep_previous
