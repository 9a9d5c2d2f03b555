"""Which rollouts that an endpoint's YAML declares have been seen: a declaration is news once."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete
from sqlalchemy.orm import Session

from cluster.state.tables import DeclarationRow, utc_now


def last_seen(session: Session, model: str) -> str | None:
    """The SHA-256 of the policy that was declared when it was last looked; None where none was."""
    row = session.get(DeclarationRow, model)
    return None if row is None else row.spec_sha256


def put(session: Session, model: str, spec_sha256: str) -> None:
    """It has been seen, whatever came of it."""
    row = session.get(DeclarationRow, model)
    if row is None:
        row = DeclarationRow(model=model)
        session.add(row)
    row.spec_sha256, row.seen_at = spec_sha256, utc_now()
    session.flush()


def keep(session: Session, models: Collection[str]) -> None:
    """Forget those of other models: declared again they are news."""
    session.execute(delete(DeclarationRow).where(DeclarationRow.model.not_in(models)))
