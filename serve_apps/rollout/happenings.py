"""A model's history: its events, and how gateways followed those that moved the weights."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state.tables import DecisionRow, EventRow
from serve_apps.rollout import propagation, records
from serve_apps.rollout.propagation import Followed, Routing


class HistoryRow(StrictModel):
    """One event; `decision` and `rollout` are None for an alias move, which its decision precedes.

    `followed` is None where gateways had nothing to follow.
    """

    at: datetime
    kind: str
    rollout: int | None
    decision: int | None
    sentence: str
    actor: str
    reason: str
    followed: Followed | None

    def cells(self) -> dict[str, Any]:
        """For a table."""
        in_force = ""
        if self.followed is not None and self.followed.seconds is not None:
            some = self.followed.followed < self.followed.gateways
            of = f" at {self.followed.followed} of {self.followed.gateways}" if some else ""
            in_force = f"{self.followed.seconds:.2f} s{of}"
        return {**self.model_dump(exclude={"followed"}), "in_force": in_force}


def history(session: Session, model: str, limit: int) -> list[HistoryRow]:
    """The newest events of a model, oldest of them first."""
    known = propagation.routings(session, model)
    return [_row(session, event, known) for event in records.events_of(session, model, limit)]


def _row(session: Session, event: EventRow, known: list[Routing]) -> HistoryRow:
    return HistoryRow(
        at=event.at,
        kind=event.kind,
        rollout=event.detail.get("rollout"),
        decision=event.detail.get("decision"),
        sentence=event.sentence,
        actor=event.actor,
        reason=event.reason,
        followed=_followed(session, event.detail.get("decision"), known),
    )


def _followed(session: Session, decision: int | None, known: list[Routing]) -> Followed | None:
    """None too for a decision that left the weights alone."""
    row = (
        None
        if decision is None
        else session.scalars(select(DecisionRow).where(DecisionRow.id == decision)).first()
    )
    if row is None or not known:
        return None
    before, after = (row.inputs["situation"]["policy"], row.outcome["policy"])
    if before == after:
        return None
    return propagation.followed(known, row.id, after["revision"], propagation.decided_at(session, row))
