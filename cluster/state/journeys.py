"""What became of a version: the rollouts in which it was the candidate, each with its verdict."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state import looks
from cluster.state.tables import DecisionRow, RolloutRow


class Journey(StrictModel):
    """One rollout of a version beside `stable`; times are UTC without a zone.

    `gate` is the one that decided, None where none did; `why` is the reason of the last decision.
    """

    id: int
    stable: str
    phase: str
    reason: str
    weight: float
    gate: str | None
    why: str
    began: datetime
    changed: datetime


def of_version(session: Session, model: str, version: str) -> list[Journey]:
    """Its rollouts, oldest first."""
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.candidate == version)
    return [_journey(session, row) for row in session.scalars(query.order_by(RolloutRow.id))]


def _journey(session: Session, row: RolloutRow) -> Journey:
    query = select(DecisionRow).where(DecisionRow.rollout_id == row.id).order_by(DecisionRow.seq.desc())
    last = session.scalars(query.limit(1)).first()
    look = looks.of_decision(session, last.id) if last is not None else None
    return Journey(
        id=row.id,
        stable=row.stable,
        phase=row.phase,
        reason=row.reason,
        weight=row.weight,
        gate=look.outcome["conclusion"]["gate"] if look is not None else None,
        why=last.inputs.get("reason", "") if last is not None else "",
        began=row.started_at,
        changed=row.updated_at,
    )
