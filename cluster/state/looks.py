"""Looks of judged rollouts, as they were done: what each saw, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.errors import ConflictError
from cluster.state.tables import LookRow, RolloutRow


def append(
    session: Session,
    *,
    rollout: int,
    seq: int,
    at: datetime,
    inputs: dict[str, Any],
    outcome: dict[str, Any],
    progress: dict[str, Any],
) -> LookRow:
    """Store look `seq` of a rollout, from 0, with what is known after it.

    Raises ConflictError where it is not the next one: another controller has looked.
    """
    row = session.get(RolloutRow, rollout, with_for_update=True)
    if row is None or row.looks != seq:
        raise ConflictError(
            f"Look {seq} of rollout {rollout} is not the next one; there are {row.looks if row else 0}.",
            code="rollout.look_taken",
            retryable=True,
        )
    row.looks, row.progress = seq + 1, progress
    found = LookRow(rollout_id=rollout, seq=seq, at=at, inputs=inputs, outcome=outcome)
    session.add(found)
    session.flush()
    return found


def of_rollout(session: Session, rollout: int, *, upto: int | None = None) -> list[LookRow]:
    """Looks of a rollout in order, as far as `upto`, which is included."""
    query = select(LookRow).where(LookRow.rollout_id == rollout).order_by(LookRow.seq)
    if upto is not None:
        query = query.where(LookRow.seq <= upto)
    return list(session.scalars(query))


def newest(session: Session, rollout: int) -> LookRow | None:
    """The last look of a rollout."""
    query = select(LookRow).where(LookRow.rollout_id == rollout).order_by(LookRow.seq.desc()).limit(1)
    return session.scalars(query).first()


def of_decision(session: Session, decision: int) -> LookRow | None:
    """The look that led to a decision."""
    return session.scalars(select(LookRow).where(LookRow.decision_id == decision)).first()
