"""Events: appended in the same transaction as the change that they tell of."""

from __future__ import annotations

import getpass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.state.tables import EventRow


def current_actor() -> str:
    """Who runs this process, for an event's `actor`."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def append(
    session: Session,
    *,
    kind: str,
    subject: str,
    sentence: str,
    reason: str = "",
    actor: str | None = None,
    detail: dict[str, Any] | None = None,
) -> EventRow:
    """Add one event; it becomes visible when the surrounding transaction commits."""
    row = EventRow(
        kind=kind,
        subject=subject,
        actor=actor or current_actor(),
        reason=reason,
        sentence=sentence,
        detail=detail or {},
    )
    session.add(row)
    session.flush()
    return row


def recent(session: Session, subject_prefix: str = "", limit: int = 100) -> list[EventRow]:
    """The newest events whose subject starts with `subject_prefix`, oldest of them first."""
    query = select(EventRow).order_by(EventRow.id.desc()).limit(limit)
    if subject_prefix:
        query = query.where(EventRow.subject.startswith(subject_prefix, autoescape=True))
    return list(reversed(session.scalars(query).all()))
