"""Which versions must be able to take all of the traffic, whatever they get of it now."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.state.tables import RolloutRow
from cluster.traffic import HALF
from serve_apps.rollout import records
from serve_apps.rollout.outside import replicas
from serve_apps.rollout.states import ACTIVE, Phase


def is_kept(session: Session, model: str, version: str, now: datetime) -> bool:
    """Whether a version takes part in a rollout, or was stable until one that is over not long ago.

    For as long as the policy's `keep_previous` says; `now` is UTC without a zone.
    """
    return _keeping(session, model, version, now) is not None


def needed(session: Session, model: str, version: str, now: datetime) -> int:
    """How many replicas a version needs that most of the traffic has left, and may come back to; else 0.

    As many as the version that has it: their number grows with the load of a day, and so must that of the
    replicas which it may have to go back to.
    """
    row = _keeping(session, model, version, now)
    if row is None or version != row.stable or row.weight < HALF:
        return 0
    return replicas.read(session, model, row.candidate, row.started_at).serving


def _keeping(session: Session, model: str, version: str, now: datetime) -> RolloutRow | None:
    """The rollout that a version is kept for."""
    active = select(RolloutRow).where(
        RolloutRow.model == model, RolloutRow.phase.in_([phase.value for phase in ACTIVE])
    )
    for row in session.scalars(active):
        if version in (row.stable, row.candidate):
            return row
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.phase == Phase.PROMOTED.value)
    newest = session.scalars(query.order_by(RolloutRow.id.desc()).limit(1)).first()
    if newest is None or newest.stable != version:
        return None
    spec = records.spec_of(newest)
    return newest if spec is not None and now < newest.updated_at + spec.keep_previous else None
