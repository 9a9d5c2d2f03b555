"""Faults with outsiders, for a person to mend: events of the model, which `status` and `history` show."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.errors import LinnetError
from cluster.state import events
from cluster.state.database import Database
from cluster.state.tables import EventRow

KIND = "rollout.outsider"
ACTOR = "rollouts"


def note(
    database: Database, model: str, rollout: int, who: str, fault: LinnetError, *, what: str = "asked"
) -> None:
    """Once for each rollout, outsider and code of a fault, however many controllers find it.

    `what` is to be done with `who`.
    """
    key = {"rollout": rollout, "outsider": who, "code": fault.code}
    with database.snapshot() as session:
        if _is_known(session, model, key):
            return
    with database.transaction() as session:
        if _is_known(session, model, key):
            return
        events.append(
            session,
            kind=KIND,
            subject=model,
            sentence=f"{model}: {who} cannot be {what} of rollout {rollout}: {fault.message.rstrip('.')}",
            actor=ACTOR,
            detail=key,
        )


def _is_known(session: Session, model: str, key: dict[str, object]) -> bool:
    query = select(EventRow.detail).where(
        EventRow.subject == model,
        EventRow.kind == KIND,
        EventRow.detail["rollout"].as_integer() == key["rollout"],
    )
    return key in session.scalars(query)
